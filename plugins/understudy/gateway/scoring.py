"""Asks the versions, each once per request, and never lets a challenger's trouble reach the caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any

import msgspec

from understudy.gateway.answers import problem_with, row_shape
from understudy.gateway.batch import Batch
from understudy.gateway.breaker import Breaker
from understudy.gateway.channel import Told
from understudy.gateway.follower import Serving
from understudy.gateway.frames import Body
from understudy.gateway.host import Host
from understudy.gateway.loading import Scored
from understudy.gateway.pool import Champion
from understudy.gateway.routing import Route
from understudy.spec import Breaker as BreakerRules

__all__ = ["Answered", "ChampionFailed", "RowAnswer", "Scorer"]

# What a compiled champion may score on the event loop, where everybody else waits for it meanwhile.
_MOST_ROWS_HERE = 1000
_MOST_MS_HERE = 3.0
_MOST_ROWS_UNSEEN = 32
_CHAMPION_WAITING = 1024
_log = logging.getLogger(__name__)


class RowAnswer(msgspec.Struct, frozen=True):
    """How one row was answered. Rows of one call that were answered alike share one.

    Attributes:
        version: Version that answered.
        latency_ms: Time from the decision of the arm to the answer, waiting included.
        cpu_ms: The row's share of the CPU time that the version which answered spent; nothing where none answered.
        fallback: Whether the champion answered in the challenger's place.
        error: Why it did.
    """

    version: str
    latency_ms: float
    cpu_ms: float | None
    fallback: bool = False
    error: str | None = None


class Answered(msgspec.Struct, frozen=True):
    """The answer to a request.

    Attributes:
        predictions: What the caller gets, JSON-safe.
        values: The part of it that answers each row; nothing for any where answers do not come one per row.
        rows: How each row was answered.
        unwrapped: Whether the answer goes out without MLflow's ``predictions`` key.
    """

    predictions: Any
    values: Sequence[Any]
    rows: list[RowAnswer]
    unwrapped: bool = False

    @classmethod
    def alike(cls, scored: Scored, row: RowAnswer) -> Answered:
        """Return the answer of one call to every row."""
        return cls(scored.answers, scored.answers, [row] * len(scored.answers), scored.unwrapped)


class ChampionFailed(Exception):
    """The champion could not answer.

    Args:
        error: What it raised.
        rows: Each row that stays without an answer, with the reason for a fallback that came before.
        version: The champion's version.
        latency_ms: Time until the failure.
    """

    def __init__(
        self, error: Exception, rows: dict[int, str | None], version: str, latency_ms: float
    ) -> None:
        super().__init__(type(error).__name__)
        self.error = error
        self.rows = rows
        self.version = version
        self.latency_ms = latency_ms


class Scorer:
    """Scores requests: the champion here, the challenger in its own process, behind a breaker.

    Args:
        champion_timeout: Seconds until a request is given up.
        challenger_timeout: Seconds until the champion answers instead.
        rules: When the challenger is not asked any more.

    Attributes:
        breaker: The breaker of the challenger that was asked last; a new version starts with a new one.
    """

    def __init__(self, champion_timeout: float, challenger_timeout: float, rules: BreakerRules) -> None:
        self.breaker = Breaker(rules)
        self._breaker_of: str | None = None
        self._rules = rules
        self._champion_timeout = champion_timeout
        self._challenger_timeout = challenger_timeout
        self._shape: object = None
        self._shape_of: str | None = None
        self._row_ms = 0.0
        self._most_seen = 0

    async def answer(self, batch: Batch, route: Route, serving: Serving, body: Body) -> Answered:
        """Answer every row of a request.

        Args:
            batch: The request.
            route: The arm of every row.
            serving: The versions to ask.
            body: The request as it came in, for the challenger to read.

        Raises:
            ChampionFailed: The champion raised or took too long.
        """
        started = perf_counter()
        rows = route.challenger_rows
        if not rows or serving.challenger is None:
            # Rows without a challenger are there only if the document promised one that nobody knows.
            reasons = dict.fromkeys(rows, "Down: there is no challenger")
            return await self._by_champion(batch, serving.champion, reasons, started)
        breaker = self.breaker_for(serving.challenger.version)
        ticket = breaker.admit(monotonic())
        if ticket is None:
            reasons = dict.fromkeys(rows, f"BreakerOpen: {breaker.reason}")
            return await self._by_champion(batch, serving.champion, reasons, started)
        try:
            wanted = None if len(rows) == batch.size else rows
            asked = serving.challenger.ask(body, wanted, self._challenger_timeout)
            answered, told = await self._by_both(batch, route, serving, asked, started)
        except BaseException:
            # The request itself was bad, or its caller is gone: that says nothing about the challenger.
            breaker.abandoned(ticket)
            raise
        self._report(breaker, ticket, serving.challenger, told)
        return answered

    def quick_enough(self, champion: Champion, rows: int) -> bool:
        """Return whether the event loop can wait for the compiled champion to score so many rows."""
        if self._shape_of != champion.version:
            return rows <= _MOST_ROWS_UNSEEN
        return rows <= _MOST_ROWS_HERE and rows * self._row_ms <= _MOST_MS_HERE

    def remember(self, champion: Champion, scored: Scored) -> None:
        """Take note of what the champion's answers look like, which the challenger's must look like too, and of their cost."""
        rows = len(scored.answers)
        if not rows:
            return
        if self._shape_of != champion.version:
            self._shape, self._shape_of = row_shape(scored.answers[0]), champion.version
            self._most_seen = 0
        if self._most_seen <= rows <= _MOST_ROWS_HERE or not self._most_seen:
            # What a call costs besides its rows weighs least in the largest.
            self._row_ms, self._most_seen = scored.cpu_ms, rows

    async def _by_champion(
        self, batch: Batch, champion: Champion, fallbacks: dict[int, str], started: float
    ) -> Answered:
        """Answer the whole request with the champion, in the form that MLflow's server would."""
        reasons = {row: fallbacks.get(row) for row in range(batch.size)}
        scored = await self._ask_champion(champion, batch, None, reasons, started)
        latency = _milliseconds(started)
        singly = isinstance(scored.answers, list) and len(scored.answers) == batch.size
        if singly:
            self.remember(champion, scored)
        rows = [
            RowAnswer(champion.version, latency, scored.cpu_ms, row in fallbacks, reason)
            for row, reason in reasons.items()
        ]
        return Answered(
            scored.answers, scored.answers if singly else [None] * batch.size, rows, scored.unwrapped
        )

    async def _by_both(
        self, batch: Batch, route: Route, serving: Serving, asked: asyncio.Future[Told], started: float
    ) -> tuple[Answered, str | float]:
        """Answer each row with its arm's version while the challenger is at work.

        Returns:
            The answers; and why those of the challenger could not be used, or after how many seconds they came.
        """
        champion, ours, theirs = serving.champion, route.champion_rows, route.challenger_rows
        found: dict[int, tuple[Any, RowAnswer]] = {}
        if ours:
            found = await self._part_of_champion(champion, batch, ours, dict.fromkeys(ours), started)
        told = await asked
        shape = self._shape if self._shape_of == champion.version else None
        error = told.error or problem_with(told.answers, len(theirs), shape)
        if error is not None:
            reasons = dict.fromkeys(theirs, error)
            if not ours:
                return await self._by_champion(batch, champion, reasons, started), error
            found |= await self._part_of_champion(champion, batch, theirs, dict(reasons), started)
        elif serving.challenger is not None:
            alike = RowAnswer(serving.challenger.version, round(told.seconds * 1000, 3), told.cpu_ms)
            found |= {row: (value, alike) for row, value in zip(theirs, told.answers or (), strict=True)}
        values, rows = zip(*(found[row] for row in range(batch.size)), strict=True)
        return Answered(list(values), values, list(rows)), error or told.seconds

    async def _part_of_champion(
        self,
        champion: Champion,
        batch: Batch,
        rows: list[int],
        reasons: dict[int, str | None],
        started: float,
    ) -> dict[int, tuple[Any, RowAnswer]]:
        scored = await self._ask_champion(champion, batch, rows, reasons, started)
        latency = _milliseconds(started)
        if not isinstance(scored.answers, list) or len(scored.answers) != len(rows):
            error = ValueError("the champion did not give one answer per row, so a request cannot be split")
            raise ChampionFailed(error, reasons, champion.version, latency)
        self.remember(champion, scored)
        return {
            row: (value, RowAnswer(champion.version, latency, scored.cpu_ms, reason is not None, reason))
            for (row, reason), value in zip(reasons.items(), scored.answers, strict=True)
        }

    async def _ask_champion(
        self,
        champion: Champion,
        batch: Batch,
        rows: list[int] | None,
        reasons: dict[int, str | None],
        started: float,
    ) -> Scored:
        try:
            here = self.quick_enough(champion, batch.size if rows is None else len(rows))
            if here and (scored := champion.score_compiled(batch, rows)) is not None:
                return scored
            asked = champion.workers.submit(lambda: champion.score(batch, rows), _CHAMPION_WAITING)
            return await asyncio.wait_for(asked, self._champion_timeout)
        except Exception as error:
            raise ChampionFailed(error, reasons, champion.version, _milliseconds(started)) from error

    def breaker_for(self, version: str) -> Breaker:
        """Return the breaker of a challenger."""
        if self._breaker_of != version:
            self.breaker, self._breaker_of = Breaker(self._rules), version
        return self.breaker

    def _report(self, breaker: Breaker, ticket: int, challenger: Host, told: str | float) -> None:
        """Tell the breaker how a call ended, and people when it opened or closed because of that."""
        before = breaker.state
        if isinstance(told, str):
            opened = breaker.failed(ticket, monotonic(), told.partition(":")[0])
        else:
            opened = breaker.succeeded(ticket, monotonic(), told)
        if opened:
            _log.error(
                "[BREAKER_OPEN] Version %s is not asked any more and the champion answers for it: %s. A single call is tried "
                "every %g s. See docs/runbooks/breaker-opened.md.",
                challenger.version,
                breaker.reason,
                self._rules.rest,
            )
        elif before != "closed" and breaker.state == "closed":
            _log.warning("[BREAKER_CLOSED] Version %s has recovered and is asked again.", challenger.version)


def _milliseconds(started: float) -> float:
    return round((perf_counter() - started) * 1000, 3)
