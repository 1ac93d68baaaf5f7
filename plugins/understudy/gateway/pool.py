"""The versions of one model that are in use: the champion in this process, the challenger in one of its own."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient

from understudy.gateway.channel import Tally
from understudy.gateway.host import Host, HostSettings
from understudy.gateway.loading import LoadedModel, load_version
from understudy.gateway.redaction import describe
from understudy.gateway.workers import Workers
from understudy.registry import FEATURE_SET_TAG

__all__ = ["CHAMPION_ALIAS", "Champion", "ModelPool"]

CHAMPION_ALIAS = "champion"
_RETRY_SECONDS = 10.0
_LOADS_AT_ONCE = 16
# Requests that have chosen a challenger ask it within this time.
_GRACE_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Champion(LoadedModel):
    """A version in this process.

    Attributes:
        folder: Its files; they go when the last request that uses it is done.
        workers: Its own threads: a version that hangs holds up no other, neither now nor after it is replaced.
    """

    folder: tempfile.TemporaryDirectory[str] = field(repr=False)
    workers: Workers = field(repr=False)


class ModelPool:
    """Loads versions without holding up the event loop, and remembers why one could not be loaded.

    Args:
        settings: What challengers keep to; model and columns hold for champions too.
        champion_timeout: Seconds that a champion's own server has for an answer, where there is one.

    Attributes:
        tally: What became of the rows that were offered to the mirror.
    """

    def __init__(self, settings: HostSettings, champion_timeout: float) -> None:
        self.tally = Tally()
        self._settings = settings
        self._champion_timeout = champion_timeout
        self._workers = Workers("load", threads=2)
        self._launcher = Workers("launch", threads=1)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._champions: dict[str, Champion] = {}
        self._failed: dict[str, tuple[str, float]] = {}
        self._hosts: dict[str, Host] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._digests: dict[str, str] = {}

    @property
    def versions(self) -> list[str]:
        """Versions that can answer, the champions first."""
        ready = [version for version, host in self._hosts.items() if host.ready]
        return list(dict.fromkeys([*self._champions, *ready]))

    def champion(self, version: str) -> Champion | None:
        """Return a version in this process, or nothing while it is being loaded or cannot be.

        Asking starts to load it, unless that is under way or has just failed.
        """
        loaded = self._champions.get(version)
        if loaded is None and version not in self._loading:
            failed = self._failed.get(version)
            if failed is None or time.monotonic() - failed[1] >= _RETRY_SECONDS:
                self._loading[version] = asyncio.create_task(self._fetch(version))
        return loaded

    def failure(self, version: str) -> str | None:
        """Return why a champion could not be loaded at the last attempt, or nothing."""
        failed = self._failed.get(version)
        return failed[0] if failed else None

    def challenger(self, version: str | None) -> Host | None:
        """Return the host of a version, ready or not; asking starts it."""
        if version is None:
            return None
        if version not in self._hosts:
            self._hosts[version] = Host(version, self._settings, self._digests, self.tally, self._launcher)
        return self._hosts[version]

    def keep_only(self, champion: str, challenger: str | None) -> None:
        """Forget every other version; requests under way keep theirs until they are answered."""
        self._champions = {version: kept for version, kept in self._champions.items() if version == champion}
        self._failed = {version: failed for version, failed in self._failed.items() if version == champion}
        for version in [version for version in self._hosts if version != challenger]:
            self._retire(version, _GRACE_SECONDS)

    async def close(self) -> None:
        """End the challengers' processes once what they were sent is done, within a few seconds."""
        for version in list(self._hosts):
            self._retire(version, 0.0)
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def champion_alias(self) -> str:
        """Return the version that the registry's alias ``champion`` names.

        Raises:
            Exception: The registry does not answer or has no such alias.
        """
        return await self._workers.submit(self._read_alias, _LOADS_AT_ONCE)

    async def feature_set(self, version: str) -> str | None:
        """Return the feature set that a version names in the registry, if it names one.

        Raises:
            Exception: The registry does not answer or has no such version.
        """
        return await self._workers.submit(lambda: self._read_feature_set(version), _LOADS_AT_ONCE)

    def _read_alias(self) -> str:
        return str(MlflowClient().get_model_version_by_alias(self._settings.model, CHAMPION_ALIAS).version)

    def _read_feature_set(self, version: str) -> str | None:
        tags: dict[str, str] = MlflowClient().get_model_version(self._settings.model, version).tags
        return tags.get(FEATURE_SET_TAG)

    def _retire(self, version: str, grace: float) -> None:
        host = self._hosts.pop(version)
        host.retire(grace)
        leaving = asyncio.create_task(host.ended())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _fetch(self, version: str) -> None:
        model = self._settings.model
        try:
            self._champions[version] = await self._workers.submit(lambda: self._load(version), _LOADS_AT_ONCE)
            self._failed.pop(version, None)
            _log.info("loaded %s version %s", model, version)
        except Exception as error:
            reason = f"Version {version} of {model} cannot be loaded: {describe(error, ())}"
            self._failed[version] = (reason, time.monotonic())
            _log.warning("%s", reason)
        finally:
            del self._loading[version]

    def _load(self, version: str) -> Champion:
        settings = self._settings
        folder = tempfile.TemporaryDirectory(prefix="understudy-champion-")
        expected = self._digests.get(version)
        loaded = load_version(
            settings.model, version, settings.traffic, Path(folder.name), expected, self._champion_timeout
        )
        self._digests[version] = loaded.digest
        workers = Workers(f"version-{version}", loaded.threads)
        champion = Champion(**vars(loaded), folder=folder, workers=workers)
        weakref.finalize(champion, workers.close)
        return champion
