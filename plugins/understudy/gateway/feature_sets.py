"""Which feature set each version names in the registry, held against the one that the flag document has for it.

The document names the sets that were proven when a run was admitted, so a version that names another one by now was trained on
other data than requests carry, or somebody has changed its tag. The registry is asked off the event loop, once for each
version and generation, and again while something does not fit.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from understudy.exposure import Exposure
from understudy.gateway.redaction import describe
from understudy.registry import FEATURE_SET_TAG

__all__ = ["FeatureSets"]

_AGAIN_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass
class _Version:
    """What is known of a version: the set that it names, once it was asked, and why it could not be asked since."""

    asked: bool = False
    name: str | None = None
    error: str | None = None
    generation: int = -1
    tried: float = -math.inf
    task: asyncio.Task[None] | None = None


class FeatureSets:
    """The feature sets of the versions in use.

    Args:
        model: Registered model name.
        read: Returns the feature set that a version names in the registry, or nothing.
        steady: Source of seconds that are never set back.
    """

    def __init__(
        self, model: str, read: Callable[[str], Awaitable[str | None]], steady: Callable[[], float]
    ) -> None:
        self._model = model
        self._read = read
        self._steady = steady
        self._versions: dict[str, _Version] = {}
        self._told: str | None = None

    def look(self, exposure: Exposure) -> None:
        """Ask the registry for what is not known of an exposure's versions. Call it from the event loop; it never waits."""
        wanted = _wanted(exposure)
        self._versions = {name: self._versions.get(name, _Version()) for name in wanted}
        for version, name in wanted.items():
            known = self._versions[version]
            stale = known.generation != exposure.generation or known.error or known.name != name
            rested = known.generation != exposure.generation or self._due(known)
            if known.task is None and stale and rested:
                known.generation, known.tried = exposure.generation, self._steady()
                known.task = asyncio.create_task(self._ask(version, known))
        trouble = self.trouble(exposure)
        if trouble is not None and trouble != self._told:
            _log.error("[FEATURE_SET_MISMATCH] %s See docs/runbooks/roll-back-now.md#tag-mismatch.", trouble)
        self._told = trouble

    def unknown(self, version: str | None) -> bool:
        """Whether a version was never asked yet, so that something may be found out about it any moment."""
        known = self._versions.get(version or "")
        return known is not None and not known.asked and known.error is None

    def mismatch(self, exposure: Exposure, version: str | None) -> str | None:
        """Return how a version of an exposure contradicts the document, or nothing."""
        known, name = self._versions.get(version or ""), _wanted(exposure).get(version or "")
        if known is None or not known.asked or known.name == name:
            return None
        return (
            f"Version {version} of {self._model} names {_shown(known.name)} in its tag {FEATURE_SET_TAG}, and the flag document "
            f"has {_shown(name)} for it. Put the tag back, or start a new run."
        )

    def trouble(self, exposure: Exposure) -> str | None:
        """Return why an exposure's versions do not fit the document, or whether they do cannot be told; or nothing."""
        for version in _wanted(exposure):
            known = self._versions.get(version)
            if mismatch := self.mismatch(exposure, version):
                return mismatch
            if known is not None and not known.asked and known.error:
                return (
                    f"Nobody knows which feature set version {version} of {self._model} names: {known.error}"
                )
        return None

    def _due(self, known: _Version) -> bool:
        return self._steady() - known.tried >= _AGAIN_SECONDS

    async def _ask(self, version: str, known: _Version) -> None:
        try:
            known.name, known.asked, known.error = await self._read(version), True, None
        except Exception as error:  # what was known before still holds
            known.error = describe(error, ())
        finally:
            known.task = None


def _wanted(exposure: Exposure) -> dict[str, str | None]:
    """Return the feature set that the document has for each version; nothing where it names none at all."""
    sets = {exposure.champion: exposure.feature_set}
    if exposure.challenger is not None:
        sets[exposure.challenger] = exposure.challenger_feature_set
    return sets if any(sets.values()) else {}


def _shown(name: str | None) -> str:
    return "no feature set" if name is None else f"feature set {name!r}"
