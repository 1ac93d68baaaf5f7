"""Keeps up with the flag document: loads what a new generation needs, then switches in one step."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.errors import FlagDocumentError
from understudy.exposure import Exposure, read_document
from understudy.gateway.pool import LoadedModel, ModelPool
from understudy.gateway.redaction import describe

__all__ = ["Follower", "Serving"]

_ALIAS_RETRY_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """What is being served; a request holds on to the one it started with.

    Attributes:
        exposure: The applied exposure.
        champion: The loaded champion.
        challenger: The loaded challenger, if there is one and it could be loaded.
        challenger_error: Why it could not be loaded.
    """

    exposure: Exposure
    champion: LoadedModel
    challenger: LoadedModel | None = None
    challenger_error: str | None = None


class Follower:
    """Polls the flag document of one model.

    Args:
        model: Registered model name.
        flags_path: The published document.
        pool: Where versions are loaded.
        poll_seconds: Time between two looks.

    Attributes:
        serving: What is being served, once something is.
        wanted: The newest accepted exposure while its versions are being loaded.
        document_error: Why the document cannot be used; the last good one stays in force.
    """

    def __init__(self, model: str, flags_path: Path, pool: ModelPool, poll_seconds: float) -> None:
        self.serving: Serving | None = None
        self.wanted: Exposure | None = None
        self.document_error: str | None = None
        self._model = model
        self._flags_path = flags_path
        self._pool = pool
        self._poll_seconds = poll_seconds
        self._signature: tuple[int, int, int] | None = None
        self._from_alias = False
        self._alias_task: asyncio.Task[None] | None = None
        self._alias_tried = -_ALIAS_RETRY_SECONDS

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                self._look()
                self._advance()
            except Exception as error:  # following must never stop: a withdrawal may be next
                self.document_error = describe(error, ())
                _log.error("following the flag document failed: %s", self.document_error)
            await asyncio.sleep(self._poll_seconds)

    @property
    def waiting_for(self) -> str | None:
        """Why the newest exposure is not served yet, or nothing."""
        if self.wanted is None:
            return None
        failure = self._pool.failure(self.wanted.champion)
        return failure or f"Loading the versions of generation {self.wanted.generation}."

    def _look(self) -> None:
        try:
            stat = self._flags_path.stat()
        except OSError as error:
            self._signature = None
            self.document_error = f"The flag document is not there ({error.strerror})."
            self._start_from_alias()
            return
        # Taken before reading: what changes in between is read again at the next look.
        signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if signature == self._signature:
            if self.document_error:
                self._start_from_alias()
            return
        self._signature = signature
        try:
            exposure = read_document(self._flags_path).get(self._model)
        except FlagDocumentError as error:
            self.document_error = error.message
            _log.warning("%s", error.message)
            return
        if exposure is None:
            self.document_error = f"The flag document has no flag for model {self._model!r}."
            return
        self.document_error = None
        self._consider(exposure)

    def _consider(self, exposure: Exposure) -> None:
        """Accept an exposure if it is newer, or the same with a longer lease."""
        newest = self.wanted or (self.serving.exposure if self.serving else None)
        if newest is None or self._from_alias or exposure.generation > newest.generation:
            self._from_alias = False
            self.wanted = exposure
            return
        if exposure.generation < newest.generation:
            self.document_error = (
                f"The flag document went back to generation {exposure.generation}; "
                f"generation {newest.generation} stays in force."
            )
            _log.warning("%s", self.document_error)
            return
        renewed = replace(newest, lease_expires_at=exposure.lease_expires_at)
        if exposure != renewed:
            self.document_error = (
                f"The flag document changed without a new generation; {newest.generation} stays."
            )
            _log.warning("%s", self.document_error)
        elif (exposure.lease_expires_at or 0) > (newest.lease_expires_at or 0):
            self.wanted = exposure

    def _advance(self) -> None:
        """Switch to the wanted exposure once its versions are decided: loaded, or known not to load."""
        target = self.wanted or (self.serving.exposure if self.serving else None)
        if target is None:
            return
        for version in (target.champion, target.challenger):
            if version is not None:
                self._pool.want(version)
        champion, challenger = self._pool.get(target.champion), self._pool.get(target.challenger)
        failure = None if challenger else self._pool.failure(target.challenger)
        undecided = target.challenger is not None and challenger is None and failure is None
        if champion is None or undecided:
            self._withdraw(target)
            return
        following = Serving(target, champion, challenger, failure)
        if following != self.serving:
            self.serving = following
            _log.info("serving generation %s", target.generation)
        self.wanted = None
        self._pool.keep_only((target.champion, target.challenger))

    def _withdraw(self, target: Exposure) -> None:
        """End an exposure that the newer document no longer wants, before its versions are loaded."""
        if self.serving is None or not self.serving.exposure.exposed:
            return
        exposure = self.serving.exposure
        grows = (
            target.exposed
            and target.challenger == exposure.challenger
            and target.percent >= exposure.percent
            and set(target.contained) <= set(exposure.contained)
        )
        if not grows:
            ended = replace(exposure, percent=0.0, stage=0, lease_expires_at=None, mirror=False)
            self.serving = replace(self.serving, exposure=ended)

    def _start_from_alias(self) -> None:
        """Serve the registry's champion to everybody while no document says otherwise."""
        if self.serving or self.wanted or self._alias_task:
            return
        if time.monotonic() - self._alias_tried >= _ALIAS_RETRY_SECONDS:
            self._alias_task = asyncio.create_task(self._ask_registry())

    async def _ask_registry(self) -> None:
        try:
            version = await self._pool.champion_alias()
            if self.serving is None and self.wanted is None:
                self.wanted = Exposure(model=self._model, generation=0, champion=version)
                self._from_alias = True
        except Exception as error:
            self.document_error = (
                f"No flag document, and no alias `champion` of {self._model}: {describe(error, ())}"
            )
            _log.warning("%s", self.document_error)
        finally:
            self._alias_task = None
            self._alias_tried = time.monotonic()
