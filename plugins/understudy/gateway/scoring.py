"""Asks the versions, each once per request, and never lets a challenger's trouble reach the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from understudy.gateway.answers import problem_with, row_shape
from understudy.gateway.batch import Batch
from understudy.gateway.follower import Serving
from understudy.gateway.pool import LoadedModel, Scored
from understudy.gateway.redaction import describe
from understudy.gateway.routing import Route
from understudy.gateway.workers import TooBusy

__all__ = ["Answered", "ChampionFailed", "RowAnswer", "Scorer"]

_CHAMPION_WAITING = 1024
# A hung challenger fills its threads; beyond this many waiting calls the champion answers at once.
_CHALLENGER_WAITING = 8


@dataclass(frozen=True)
class RowAnswer:
    """The answer to one row.

    Attributes:
        value: What the caller gets, JSON-safe; nothing where answers do not come one per row.
        version: Version that answered.
        latency_ms: Time from the decision of the arm to the answer, waiting included.
        cpu_ms: The row's share of the CPU time that the version which answered spent; nothing where none answered.
        fallback: Whether the champion answered in the challenger's place.
        error: Why it did.
    """

    value: Any
    version: str
    latency_ms: float
    cpu_ms: float | None
    fallback: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Answered:
    """The answer to a request: the whole of it, and row by row for the log."""

    predictions: Any
    rows: list[RowAnswer]
    unwrapped: bool = False


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
    """Scores requests, each version on its own threads.

    Args:
        champion_timeout: Seconds until a request is given up.
        challenger_timeout: Seconds until the champion answers instead.
    """

    def __init__(self, champion_timeout: float, challenger_timeout: float) -> None:
        self._champion_timeout = champion_timeout
        self._challenger_timeout = challenger_timeout
        self._shape: object = None
        self._shape_of: str | None = None

    async def answer(
        self, batch: Batch, route: Route, serving: Serving, secrets: Collection[str]
    ) -> Answered:
        """Answer every row of a request.

        Args:
            batch: The request.
            route: The arm of every row.
            serving: The versions to ask.
            secrets: Private values that no error text may quote.

        Raises:
            ChampionFailed: The champion raised or took too long.
        """
        started = perf_counter()
        rows = route.challenger_rows
        if not rows:
            return await self._by_champion(batch, serving.champion, {}, started)
        if serving.challenger is None:
            reason = serving.challenger_error or "the challenger is not loaded"
            return await self._by_champion(batch, serving.champion, dict.fromkeys(rows, reason), started)
        return await self._by_both(batch, route, serving.champion, serving.challenger, secrets, started)

    async def _by_champion(
        self, batch: Batch, champion: LoadedModel, fallbacks: dict[int, str], started: float
    ) -> Answered:
        """Answer the whole request with the champion, in the form that MLflow's server would."""
        reasons = {row: fallbacks.get(row) for row in range(batch.size)}
        scored = await self._ask_champion(champion, batch, None, reasons, started)
        latency = _milliseconds(started)
        singly = isinstance(scored.answers, list) and len(scored.answers) == batch.size
        if singly:
            self._remember(champion, scored.answers)
        rows = [
            RowAnswer(value, champion.version, latency, scored.cpu_ms, row in fallbacks, reasons[row])
            for row, value in enumerate(scored.answers if singly else [None] * batch.size)
        ]
        return Answered(scored.answers, rows, scored.unwrapped)

    async def _by_both(
        self,
        batch: Batch,
        route: Route,
        champion: LoadedModel,
        challenger: LoadedModel,
        secrets: Collection[str],
        started: float,
    ) -> Answered:
        """Answer each row with its arm's version; both work at the same time."""
        champion_rows, challenger_rows = route.champion_rows, route.challenger_rows
        pending = None
        if champion_rows:
            unexplained: dict[int, str | None] = dict.fromkeys(champion_rows)
            pending = asyncio.ensure_future(
                self._part_of_champion(champion, batch, champion_rows, unexplained, started)
            )
        asked = asyncio.ensure_future(
            self._ask_challenger(challenger, batch, challenger_rows, secrets, started)
        )
        found: dict[int, RowAnswer] = {}
        if pending is not None:
            try:
                found |= await pending
            except ChampionFailed:
                asked.cancel()
                raise
        outcome = await asked
        if not isinstance(outcome, str):
            # The champion may have shown the shape of an answer only now.
            values = [row.value for row in outcome.values()]
            outcome = problem_with(values, len(values), self._shape_for(champion)) or outcome
        if isinstance(outcome, str):
            reasons: dict[int, str | None] = dict.fromkeys(challenger_rows, outcome)
            outcome = await self._part_of_champion(champion, batch, challenger_rows, reasons, started)
        found |= outcome
        ordered = [found[row] for row in range(batch.size)]
        return Answered([row.value for row in ordered], ordered)

    async def _part_of_champion(
        self,
        champion: LoadedModel,
        batch: Batch,
        rows: list[int],
        reasons: dict[int, str | None],
        started: float,
    ) -> dict[int, RowAnswer]:
        scored = await self._ask_champion(champion, batch, rows, reasons, started)
        latency = _milliseconds(started)
        if not isinstance(scored.answers, list) or len(scored.answers) != len(rows):
            error = ValueError("the champion did not give one answer per row, so a request cannot be split")
            raise ChampionFailed(error, reasons, champion.version, latency)
        self._remember(champion, scored.answers)
        return {
            row: RowAnswer(
                value, champion.version, latency, scored.cpu_ms, reasons[row] is not None, reasons[row]
            )
            for row, value in zip(rows, scored.answers, strict=True)
        }

    async def _ask_champion(
        self,
        champion: LoadedModel,
        batch: Batch,
        rows: list[int] | None,
        reasons: dict[int, str | None],
        started: float,
    ) -> Scored:
        try:
            asked = champion.workers.submit(lambda: champion.score(batch, rows), _CHAMPION_WAITING)
            return await asyncio.wait_for(asked, self._champion_timeout)
        except Exception as error:
            raise ChampionFailed(error, reasons, champion.version, _milliseconds(started)) from error

    async def _ask_challenger(
        self, challenger: LoadedModel, batch: Batch, rows: list[int], secrets: Collection[str], started: float
    ) -> dict[int, RowAnswer] | str:
        """Return the challenger's answers, or why they cannot be used."""
        try:
            wanted = None if len(rows) == batch.size else rows
            asked = challenger.workers.submit(lambda: challenger.score(batch, wanted), _CHALLENGER_WAITING)
            scored = await asyncio.wait_for(asked, self._challenger_timeout)
        except TimeoutError:
            return f"Timeout: no answer within {self._challenger_timeout:g} s"
        except TooBusy as error:
            return f"TooBusy: {error}"
        except Exception as error:
            return describe(error, secrets)
        if problem := problem_with(scored.answers, len(rows), None):
            return problem
        latency = _milliseconds(started)
        return {
            row: RowAnswer(value, challenger.version, latency, scored.cpu_ms)
            for row, value in zip(rows, scored.answers, strict=True)
        }

    def _remember(self, champion: LoadedModel, answers: list[Any]) -> None:
        if answers and (self._shape is None or self._shape_of != champion.version):
            self._shape, self._shape_of = row_shape(answers[0]), champion.version

    def _shape_for(self, champion: LoadedModel) -> object:
        return self._shape if self._shape_of == champion.version else None


def _milliseconds(started: float) -> float:
    return (perf_counter() - started) * 1000
