"""Where this installation keeps its state and finds its servers, read from the environment once per process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import SettingMissing

__all__ = ["PSEUDONYM_KEY_MIN", "WEBHOOK_KEY_MIN", "Settings"]

PSEUDONYM_KEY_MIN = 16
"""Shortest accepted ``UNDERSTUDY_PSEUDONYM_KEY``, in characters."""

WEBHOOK_KEY_MIN = 32
"""Shortest accepted ``UNDERSTUDY_WEBHOOK_KEY``, in characters."""

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """Addresses and folders of one installation.

    Attributes:
        home: State folder: flag document, event log, default store.
        store_url: SQLAlchemy URL of the store.
        experiments: Folder of the experiment files.
        expectations: Folder of the Great Expectations suites.
        data: Folder that dataset paths in specs are relative to.
        gateway_urls: Base URL of every gateway that must follow the flag document.
        airflow_url: Base URL of the Airflow UI, for links only.
    """

    home: Path
    store_url: str
    experiments: Path
    expectations: Path
    data: Path
    gateway_urls: tuple[str, ...]
    airflow_url: str

    @classmethod
    def from_env(cls) -> Settings:
        """Read the ``UNDERSTUDY_*`` variables; every one of them has a default."""
        env = os.environ
        home = Path(env.get("UNDERSTUDY_HOME") or ".understudy").resolve()
        gateways = env.get("UNDERSTUDY_GATEWAY_URLS") or "http://127.0.0.1:5080"
        return cls(
            home=home,
            store_url=env.get("UNDERSTUDY_STORE_URL") or f"sqlite:///{home / 'store.db'}",
            experiments=Path(env.get("UNDERSTUDY_EXPERIMENTS") or _ROOT / "experiments").resolve(),
            expectations=Path(env.get("UNDERSTUDY_EXPECTATIONS") or _ROOT / "expectations").resolve(),
            data=Path(env.get("UNDERSTUDY_DATA") or home / "data").resolve(),
            gateway_urls=tuple(url.strip().rstrip("/") for url in gateways.split(",") if url.strip()),
            airflow_url=(env.get("UNDERSTUDY_AIRFLOW_URL") or "http://localhost:8080").rstrip("/"),
        )

    @property
    def flags_path(self) -> Path:
        """The published flag document."""
        return self.home / "flags.json"

    @property
    def ledger_head_path(self) -> Path:
        """The newest entry of the ledger as it was when the flag document was last published."""
        return self.home / "ledger-head.json"

    @property
    def snapshots_dir(self) -> Path:
        """What rollback points are made of, each file named by the digest of its content."""
        return self.home / "snapshots"

    @property
    def events_dir(self) -> Path:
        """Root of the event log; one folder per model."""
        return self.home / "events"

    def partitions_url(self, model: str) -> str:
        """Return where the compacted events of a model go, as a URL that fsspec opens; empty for the event log itself.

        The environment variable ``UNDERSTUDY_EVENTS`` names the place for all models, by path or by URL.
        """
        place = os.environ.get("UNDERSTUDY_EVENTS", "").rstrip("/")
        if place and "://" not in place:
            place = f"file://{Path(place).resolve()}"
        return f"{place}/{model}" if place else ""

    def retention_days(self, model: str) -> float | None:
        """Return after how many days events of a model are removed; None keeps them.

        ``UNDERSTUDY_RETENTION_DAYS`` is a number for all models, ``model=number`` for one, or several of these with commas.

        Raises:
            SettingMissing: It cannot be read.
        """
        text = os.environ.get("UNDERSTUDY_RETENTION_DAYS", "")
        found: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, days = part.rpartition("=")
            try:
                found[name.strip()] = float(days)
            except ValueError:
                found[name.strip()] = -1.0
        if any(not 0 < days < float("inf") for days in found.values()):
            raise SettingMissing(
                f"UNDERSTUDY_RETENTION_DAYS is {text!r}; it must be a number of days above zero, and may name models: "
                "90, flight-delay=30. Leave it empty to keep every event."
            )
        return found.get(model, found.get(""))

    @property
    def mlflow_uri(self) -> str:
        """Return the MLflow tracking URI.

        Raises:
            SettingMissing: It is not set. MLflow's own default would silently create ``mlflow.db`` in the working
                directory and everything written there would be lost to the others.
        """
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            raise SettingMissing(
                "MLFLOW_TRACKING_URI is not set, and its default would write a stray database here. "
                "Set it to the address of your MLflow server, for example http://127.0.0.1:5000."
            )
        return uri

    @property
    def mlflow_url(self) -> str:
        """Return where a browser finds MLflow's pages, which need not be where the servers find each other."""
        return (os.environ.get("UNDERSTUDY_MLFLOW_URL") or self.mlflow_uri).rstrip("/")

    @property
    def pseudonym_key(self) -> bytes:
        """Return the secret that keys the pseudonyms of units.

        Raises:
            SettingMissing: It is not set or shorter than ``PSEUDONYM_KEY_MIN`` characters.
        """
        key = os.environ.get("UNDERSTUDY_PSEUDONYM_KEY", "")
        if len(key) < PSEUDONYM_KEY_MIN:
            raise SettingMissing(
                f"UNDERSTUDY_PSEUDONYM_KEY has {len(key)} characters, at least {PSEUDONYM_KEY_MIN} are needed. "
                "Set it to a long random secret, the same for every gateway; changing it starts new pseudonyms."
            )
        return key.encode()

    @property
    def webhook_key(self) -> bytes:
        """Return the secret that requests of the webhook are signed with.

        Raises:
            SettingMissing: It is not set, so that nobody can sign, or shorter than ``WEBHOOK_KEY_MIN`` characters.
        """
        key = os.environ.get("UNDERSTUDY_WEBHOOK_KEY", "")
        if len(key) < WEBHOOK_KEY_MIN:
            raise SettingMissing(
                f"UNDERSTUDY_WEBHOOK_KEY has {len(key)} characters, at least {WEBHOOK_KEY_MIN} are needed, so the webhook takes "
                "nothing. Set it to a long random secret, here and in the monitoring system."
            )
        return key.encode()

    @property
    def signing_key(self) -> str:
        """Return the private key that certificates are signed with, as text; empty where they stay unsigned."""
        return os.environ.get("UNDERSTUDY_SIGNING_KEY", "")

    @property
    def upstream_token(self) -> str:
        """Return the bearer token that upstream servers ask for; empty where they ask for none."""
        return os.environ.get("UNDERSTUDY_UPSTREAM_TOKEN", "").strip()
