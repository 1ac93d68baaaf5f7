"""Looks at everything an installation needs and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from understudy import gateways
from understudy.errors import LedgerBroken, NoSuchExperiment, UnderstudyError
from understudy.record import signing
from understudy.registry import CHAMPION
from understudy.session import session
from understudy.settings import Settings
from understudy.spec import load_all
from understudy.store import exposures, heads, ledger

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    healthy: bool
    detail: str


def examine() -> list[Finding]:
    """Check everything, in the order in which things depend on each other; nothing stops the rest."""
    settings = Settings.from_env()
    looks: list[tuple[str, Callable[[], str]]] = [
        ("experiments", lambda: _experiments(settings)),
        ("store", _store),
        ("ledger", _ledger),
        ("registry", lambda: _registry(settings)),
        ("flag document", _publish),
        *[(f"gateway {url}", _gateway(url)) for url in settings.gateway_urls],
        ("pseudonym key", lambda: f"{len(settings.pseudonym_key)} characters"),
        ("signing key", lambda: _signing_key(settings)),
    ]
    return [_finding(what, look) for what, look in looks]


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except UnderstudyError as error:
        return Finding(what, False, str(error))
    # Whatever is wrong with one thing, the others are still looked at and nobody reads a traceback.
    except Exception as error:
        return Finding(what, False, f"{type(error).__name__}: {error}")


def _experiments(settings: Settings) -> str:
    found = load_all(settings.experiments)
    if not found:
        raise NoSuchExperiment(
            f"There are no experiment files in {settings.experiments}. Add one, or set UNDERSTUDY_EXPERIMENTS."
        )
    return f"{len(found)} valid in {settings.experiments}"


def _store() -> str:
    with session().store.read() as connection:
        return f"{len(exposures.every(connection))} models known"


def _ledger() -> str:
    doors = session()
    with doors.store.read() as connection:
        kept = list(heads.kept_here(connection, doors.settings.ledger_head_path))
        found = ledger.examine(connection, kept)
    if found.broken is not None:
        raise LedgerBroken(f"{found.broken.sentence} Restore the store from its backup and compare.")
    return f"{found.entries} entries, chain unbroken"


def _signing_key(settings: Settings) -> str:
    key = signing.private_key(settings.signing_key)
    return (
        "none, so certificates are unsigned"
        if key is None
        else f"public key {signing.shown(key.public_key())}"
    )


def _registry(settings: Settings) -> str:
    registry = session().registry
    found = {item.model: registry.alias(item.model, CHAMPION) for item in load_all(settings.experiments)}
    return (
        "; ".join(f"{model}: champion {champion or 'not set'}" for model, champion in found.items())
        or "no models"
    )


def _publish() -> str:
    doors = session()
    exposures.publish_flags(doors.store, doors.settings)
    return f"published to {doors.settings.flags_path}"


def _gateway(url: str) -> Callable[[], str]:
    def look() -> str:
        found = gateways.status(url)
        return f"serves {found['model']} version {found['champion']} at generation {found['generation']}"

    return look
