"""The secrets and passwords of one embedded installation: made at random once and kept for its owner only."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["ROLES", "Credentials"]

ROLES = {"admin": "admin", "op": "op", "viewer": "viewer"}
"""User name to role, as Airflow's simple auth manager knows them."""


@dataclass(frozen=True)
class Credentials:
    """What the servers must agree on.

    They are kept, because a new pseudonym key would start new pseudonyms and a new Fernet key would make stored
    connections unreadable.

    Attributes:
        passwords: Password by user name.
        jwt_secret: Signs Airflow's tokens.
        api_secret: Signs Airflow's sessions.
        fernet_key: Encrypts Airflow's connections.
        pseudonym_key: Keys the pseudonyms of units in the event log.
        webhook_key: Encrypts the secrets of MLflow's webhooks, the same for all its workers.
        rollback_key: Signs what is sent to the webhook that rolls back.
    """

    passwords: dict[str, str]
    jwt_secret: str
    api_secret: str
    fernet_key: str
    pseudonym_key: str
    webhook_key: str
    rollback_key: str

    @classmethod
    def keep_in(cls, path: Path) -> Credentials:
        """Read the file, and make what it lacks at random."""
        kept = json.loads(path.read_text()) if path.exists() else {}
        made = asdict(cls._at_random()) | kept
        if made != kept:
            write_private(path, json.dumps(made, indent=2) + "\n")
        return cls(**made)

    @classmethod
    def _at_random(cls) -> Credentials:
        return cls(
            passwords={user: secrets.token_urlsafe(9) for user in ROLES},
            jwt_secret=secrets.token_urlsafe(48),
            api_secret=secrets.token_urlsafe(32),
            fernet_key=_fernet_key(),
            pseudonym_key=secrets.token_urlsafe(32),
            webhook_key=_fernet_key(),
            rollback_key=secrets.token_urlsafe(32),
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, never readable by others in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
