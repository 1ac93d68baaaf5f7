"""Keeps up with the flag document: loads what a new generation needs, then switches in one step."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.errors import FlagDocumentError
from understudy.exposure import Exposure, read_flag
from understudy.gateway.feature_sets import FeatureSets
from understudy.gateway.host import Host
from understudy.gateway.memory import Memory
from understudy.gateway.pool import Champion, ModelPool
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
        challenger: The challenger's process, if there is one; it may be down at any moment.
    """

    exposure: Exposure
    champion: Champion
    challenger: Host | None = None

    @property
    def challenger_error(self) -> str | None:
        """Why the challenger does not answer now, or nothing."""
        return self.challenger.trouble if self.challenger else None


class Follower:
    """Polls the flag document of one model.

    A document may take exposure away at any moment. It may raise it only if all of this holds: its generation is higher
    than any that a gateway of this model has accepted here, before a restart too; this is remembered; the lease is not
    over, neither by the wall clock nor by the steady one.

    Args:
        model: Registered model name.
        flags_path: The published document; what was accepted is remembered in a folder beside it.
        pool: Where versions are loaded.
        poll_seconds: Time between two looks.
        clock: Source of Unix seconds.
        steady: Source of seconds that are never set back.

    Attributes:
        serving: What is being served, once something is.
    """

    def __init__(
        self,
        model: str,
        flags_path: Path,
        pool: ModelPool,
        poll_seconds: float,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serving: Serving | None = None
        self._model = model
        self._flags_path = flags_path
        self._pool = pool
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._steady = steady
        self._sets = FeatureSets(model, pool.feature_set, steady)
        self._memory = Memory(flags_path.parent / "accepted" / f"{model}.json", model)
        self._accepted: Exposure | None = None
        self._doubted: int | None = None
        self._lease_ends = math.inf
        self._waiting: Exposure | None = None
        self._error: str | None = None
        self._signature: tuple[int, ...] | None = None
        self._stopgap: Exposure | None = None
        self._alias_error: str | None = None
        self._alias_task: asyncio.Task[None] | None = None
        self._alias_tried = -math.inf

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            self.step()
            await asyncio.sleep(self._poll_seconds)

    def step(self) -> None:
        """Look at the document once and serve what it says. Call it from the event loop; it never waits."""
        for part in (self._look, self._advance):
            try:
                part()
            except Exception as error:  # following must never stop: a withdrawal may be next
                self._complain(f"Following the flag document failed: {describe(error, ())}")

    @property
    def waiting_for(self) -> str | None:
        """Why the newest exposure is not served yet, or nothing."""
        if self._waiting is None:
            return None
        return self._stuck() or f"Loading the versions of generation {self._waiting.generation}."

    @property
    def loading(self) -> int | None:
        """The generation whose versions are being loaded, or nothing."""
        return None if self._waiting is None or self._stuck() else self._waiting.generation

    @property
    def feature_set_error(self) -> str | None:
        """How a version contradicts the feature set that the document has for it, or nothing."""
        return self._sets.trouble(self._accepted) if self._accepted else None

    @property
    def document_error(self) -> str | None:
        """Why the document, or the exposure in it, is not in force, or nothing."""
        return self._alias_error or self._error or self._withheld()

    def _look(self) -> None:
        try:
            stat = self._flags_path.stat()
        except OSError as error:
            self._signature = None
            self._complain(f"The flag document is not there ({error.strerror}).")
            self._start_from_alias()
            return
        # Taken before reading: what changes in between is read again at the next look.
        signature = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
        if signature == self._signature:
            if self._error:
                self._start_from_alias()
            return
        try:
            exposure = read_flag(self._flags_path, self._model)
        except FlagDocumentError as error:
            # What is torn stays torn until it is written again; what could not be read may be readable at the next look.
            self._signature = None if isinstance(error.__cause__, OSError) else signature
            self._complain(error.message)
            self._start_from_alias()
            return
        self._signature = signature
        refused = f"The flag document has no flag for model {self._model!r}."
        self._complain(refused if exposure is None else self._considered(exposure))

    def _complain(self, error: str | None) -> None:
        if error and error != self._error:
            _log.warning("%s", error)
        self._error = error

    def _considered(self, exposure: Exposure) -> str | None:
        """Accept an exposure if it is newer, or the same with a longer lease; else return why not."""
        newest = self._accepted or self._memory.before
        if newest is None or exposure.generation > newest.generation:
            self._accept(exposure)
            return None
        if exposure.generation < newest.generation:
            return (
                f"The flag document went back to generation {exposure.generation}; generation {newest.generation} was "
                "accepted before. If the store was put back on purpose, stop the gateways, delete "
                f"{self._memory.path} and start them again."
            )
        renewed = replace(
            newest, lease_expires_at=exposure.lease_expires_at, lease_seconds=exposure.lease_seconds
        )
        if exposure != renewed:
            return f"The flag document changed without a new generation; {newest.generation} stays."
        if self._accepted is None or (exposure.lease_expires_at or 0) > (newest.lease_expires_at or 0):
            self._accept(exposure)
        return None

    def _accept(self, exposure: Exposure) -> None:
        if self._accepted is None and self._memory.lost:
            # It may be older than what was accepted before; only a later one shows that the publisher goes on from here.
            self._doubted = exposure.generation
        self._accepted = exposure
        self._stopgap = self._alias_error = None
        left = (exposure.lease_expires_at or math.inf) - self._clock()
        self._lease_ends = self._steady() + min(left, exposure.lease_seconds)

    def _withheld(self) -> str | None:
        """Return why the challenger is not used although the accepted document says so, or nothing."""
        if self._accepted is None or self._accepted.challenger is None:
            return None
        if mismatch := self._sets.trouble(self._accepted):
            return mismatch
        if not self._accepted.exposed:
            return None
        generation = self._accepted.generation
        if generation == self._doubted:
            return (
                "What this gateway had accepted before cannot be read, so nobody is exposed until a generation above "
                f"{generation} is published: {self._memory.lost}"
            )
        if self._memory.trouble:
            return (
                f"Nobody is exposed until generation {generation} can be remembered: {self._memory.trouble}."
            )
        if self._steady() >= self._lease_ends:
            return f"The lease of generation {generation} is over by the steady clock, so nobody is exposed."
        return None

    def _advance(self) -> None:
        """Switch to what may be served once its versions are decided: loaded, or known not to load."""
        accepted = self._accepted or self._stopgap
        if accepted is None:
            return
        self._sets.look(accepted)
        # Beginning to remember comes first: it also ends the trouble that may withhold the exposure.
        doubted = accepted.generation == self._doubted
        remembered = accepted is self._stopgap or doubted or self._memory.holds(accepted)
        target = accepted.ended() if self._withheld() else accepted
        champion = self._pool.champion(target.champion)
        challenger = self._pool.challenger(target.challenger)
        undecided = challenger is not None and not (
            challenger.decided and not self._sets.unknown(target.challenger)
        )
        if champion is None or undecided or self._refuses(target) or (target.exposed and not remembered):
            self._waiting = target
            self._withdraw(target)
            return
        if self.serving is None or self.serving.exposure.generation != target.generation:
            _log.info("serving generation %s", target.generation)
        following = Serving(target, champion, challenger)
        if following != self.serving:
            self.serving = following
        self._waiting = None
        self._pool.keep_only(target.champion, target.challenger)

    def _stuck(self) -> str | None:
        """Return why what is waited for cannot be served, as things are."""
        waiting = self._waiting
        if waiting is None:
            return None
        refused = self._sets.mismatch(waiting, waiting.champion) if self._refuses(waiting) else None
        return self._pool.failure(waiting.champion) or refused

    def _refuses(self, target: Exposure) -> bool:
        """Tell whether a new champion is not to be served: it names another feature set, or that is still to be found out.

        What is served already goes on, whatever its tag says by now, and so does the first champion of a process: a wrong tag
        is no reason to answer nobody.
        """
        if self.serving is None or target.champion == self.serving.exposure.champion:
            return False
        return self._sets.unknown(target.champion) or self._sets.mismatch(target, target.champion) is not None

    def _withdraw(self, target: Exposure) -> None:
        """End an exposure that the newer document no longer wants, before its versions are loaded."""
        if self.serving is None or not self.serving.exposure.exposed or target.keeps(self.serving.exposure):
            return
        self.serving = replace(self.serving, exposure=self.serving.exposure.ended())

    def _start_from_alias(self) -> None:
        """Serve the registry's champion to everybody while no document says otherwise."""
        if self._accepted or self._stopgap or self._alias_task:
            return
        if self._steady() - self._alias_tried >= _ALIAS_RETRY_SECONDS:
            self._alias_task = asyncio.create_task(self._ask_registry())

    async def _ask_registry(self) -> None:
        try:
            version = await self._pool.champion_alias()
            self._alias_error = None
            if self._accepted is None:
                self._stopgap = Exposure(model=self._model, generation=0, champion=version)
        except Exception as error:
            failed = f"No flag document, and no alias `champion` of {self._model}: {describe(error, ())}"
            if failed != self._alias_error:
                _log.warning("%s", failed)
            self._alias_error = failed
        finally:
            self._alias_task = None
            self._alias_tried = self._steady()
