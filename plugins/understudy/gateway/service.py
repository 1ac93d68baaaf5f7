"""One gateway: reads a request, decides the arms, asks the versions, logs the events, then answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec
from mlflow.exceptions import MlflowException
from msgspec.structs import replace

from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.exposure import CHALLENGER, UNEXPOSED, Exposure
from understudy.gateway import protocol
from understudy.gateway.batch import Batch
from understudy.gateway.commit import GroupCommit
from understudy.gateway.config import GatewayConfig
from understudy.gateway.follower import Follower, Serving
from understudy.gateway.frames import Body, Copy
from understudy.gateway.host import HostSettings
from understudy.gateway.metrics import Metrics
from understudy.gateway.outcomes import read_outcomes
from understudy.gateway.pool import ModelPool
from understudy.gateway.reading import read_off, status
from understudy.gateway.redaction import describe, redact
from understudy.gateway.request_log import RequestLog, Served
from understudy.gateway.routing import Route, read_envelopes, route, secrets_in
from understudy.gateway.scoring import Answered, ChampionFailed, RowAnswer, Scorer
from understudy.gateway.workers import TooBusy
from understudy.telemetry import trace_id_of

__all__ = ["Gateway", "GatewayTimeout", "Reply"]

_log = logging.getLogger(__name__)


class GatewayTimeout(Exception):
    """The champion did not answer in time."""


class Reply(msgspec.Struct, frozen=True):
    """An answer to a scoring request, with headers of its own."""

    body: bytes
    headers: list[tuple[bytes, bytes]]


class Gateway:
    """Serves one model.

    Args:
        config: What it was told at its start.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.metrics = Metrics(lambda: read_off(*self._parts()))
        self._requests = EventWriter(config.events_dir, config.model, "requests")
        self._outcomes = EventWriter(config.events_dir, config.model, "outcomes")
        self._pool = ModelPool(
            HostSettings(
                config.model,
                config.traffic,
                config.events_dir,
                memory=config.challenger_memory,
                most_copies=config.mirror_queue,
                timeout=config.challenger_timeout,
            ),
            config.champion_timeout,
        )
        self._follower = Follower(config.model, config.flags_path, self._pool, config.poll_seconds)
        self._scorer = Scorer(config.champion_timeout, config.challenger_timeout, config.breaker)
        self._log = RequestLog(config, self._requests)
        self._commit = GroupCommit(self._log)
        self._following: asyncio.Task[None] | None = None
        self._under_way = 0

    @property
    def ready(self) -> bool:
        """Whether there is a champion to answer with."""
        return self._follower.serving is not None

    def start(self) -> None:
        """Begin to follow the flag document. Call it from the event loop."""
        self._following = asyncio.create_task(self._follower.run())

    async def stop(self) -> None:
        """Stop following, let the mirror finish what it has, close the log."""
        if self._following is not None:
            self._following.cancel()
        await self._pool.close()
        for writer in (self._requests, self._outcomes):
            writer.close()

    async def invoke(
        self, body: bytes, content_type: str | None, request_id: str, headers: Mapping[str, str]
    ) -> Reply:
        """Answer a scoring request.

        Args:
            body: Its body.
            content_type: Its ``Content-Type`` header.
            request_id: Its correlation id.
            headers: All its headers, by lower-case name.

        Raises:
            MlflowException: With MLflow's code for what is wrong.
            UnsupportedMediaType: The body is of no known type.
            GatewayTimeout: The champion did not answer in time.
        """
        self._under_way += 1
        try:
            return await self._answer(body, content_type, request_id, headers)
        finally:
            self._under_way -= 1

    def invoke_now(
        self,
        body: bytes,
        content_type: str | None,
        request_id: str,
        headers: Mapping[str, str],
        tell: Callable[[Reply | None], None],
    ) -> bool:
        """Answer a scoring request that the compiled champion answers alone; else do nothing at all. See `invoke`.

        Args:
            body: Its body.
            content_type: Its ``Content-Type`` header.
            request_id: Its correlation id.
            headers: All its headers, by lower-case name.
            tell: Called with the answer in the same turn of the event loop; with nothing where there is none after all.

        Returns:
            Whether it is answered so.

        Raises:
            Exception: The request is bad, or cannot be answered so; nothing was logged.
        """
        received_at, started = time.time(), time.perf_counter()
        serving = self._follower.serving
        if serving is None or serving.champion.quick is None:
            return False
        batch = serving.champion.quick.read(body, content_type)
        if batch is None:
            return False
        served = self._served(serving, batch, received_at, request_id, body, content_type, headers)
        answered = self._answered_here(served, serving)
        if answered is None:
            return False
        # Before the log, so that an answer that cannot be written is not an event that the long way logs again.
        content = protocol.encode_answer(answered.predictions, answered.unwrapped)

        def told(logged: bool | None) -> None:
            exposed = served if logged else _without_exposure(served)
            try:
                reply = None if logged is None else self._reply(exposed, answered, serving, started, content)
            except Exception:
                reply = None
            tell(reply)

        self._commit.add(served, answered, told)
        return True

    async def _answer(
        self, body: bytes, content_type: str | None, request_id: str, headers: Mapping[str, str]
    ) -> Reply:
        received_at, started = time.time(), time.perf_counter()
        serving = self._follower.serving
        if serving is None:
            raise protocol.unavailable(
                f"No champion of {self.config.model} is loaded yet; see /status, try again."
            )
        batch = serving.champion.read(body, content_type, serving.exposure.feature_set)
        served = self._served(serving, batch, received_at, request_id, body, content_type, headers)
        answered = self._answered_here(served, serving) or await self._scored(served, serving)
        if not self._logged(served, answered):
            exposed = CHALLENGER in served.route.arms
            served = _without_exposure(served)
            if exposed:  # nobody may keep an answer of the challenger that is not in the log
                answered = self._answered_here(served, serving) or await self._scored(served, serving)
        content = protocol.encode_answer(answered.predictions, answered.unwrapped)
        return self._reply(served, answered, serving, started, content)

    def _served(
        self,
        serving: Serving,
        batch: Batch,
        received_at: float,
        request_id: str,
        body: bytes,
        content_type: str | None,
        headers: Mapping[str, str],
    ) -> Served:
        """Decide what is served to whom."""
        envelopes = read_envelopes(batch, self.config.traffic, headers, received_at, request_id)
        return Served(
            request_id,
            trace_id_of(headers.get("traceparent")),
            received_at,
            serving.exposure.generation,
            body,
            content_type,
            headers,
            batch,
            envelopes,
            route(serving.exposure, envelopes, received_at, counted=self._log.broken is None),
        )

    def _reply(
        self, served: Served, answered: Answered, serving: Serving, started: float, content: bytes
    ) -> Reply:
        """Mirror and count what was answered and return what the caller gets."""
        self._rehearse(served, serving)
        told = _headers(serving.exposure.generation, self._count(served, answered, serving, started))
        if served.trace_id is not None:
            told = [*told, (b"traceresponse", served.headers["traceparent"].encode())]
        return Reply(content, told)

    def _answered_here(self, served: Served, serving: Serving) -> Answered | None:
        """Answer with the compiled champion on the event loop, which is quicker than to hand it to a thread."""
        champion = serving.champion
        if CHALLENGER in served.route.arms or not self._scorer.quick_enough(champion, served.batch.size):
            return None
        started = time.perf_counter()
        scored = champion.score_compiled(served.batch)
        if scored is None:
            return None
        self._scorer.remember(champion, scored)
        latency = round((time.perf_counter() - started) * 1000, 3)
        return Answered.alike(scored, RowAnswer(champion.version, latency, scored.cpu_ms))

    async def _scored(self, served: Served, serving: Serving) -> Answered:
        """Ask the versions.

        Raises:
            Exception: What the caller gets where the champion cannot answer.
        """
        body = Body(served.body, served.content_type)
        try:
            return await self._scorer.answer(served.batch, served.route, serving, body)
        except ChampionFailed as failure:
            secrets = secrets_in(served.batch, self.config.traffic, served.headers)
            raise self._champion_error(failure, served, secrets) from None

    def record_outcomes(self, body: bytes) -> int:
        """Log what came of earlier requests.

        Returns:
            How many outcomes were recorded.

        Raises:
            MlflowException: An item is bad, or the log cannot be written; nothing was recorded.
        """
        lines = read_outcomes(protocol.parse_json(body), time.time())
        try:
            self._outcomes.append(lines)
        except EventsUnwritable as error:
            _log.error("%s", error.message)
            raise protocol.unavailable(
                f"The outcomes were not recorded, try again: {error.message}"
            ) from None
        return len(lines)

    def flags(self) -> Exposure | None:
        """Return the exposure that is being served."""
        return self._follower.serving.exposure if self._follower.serving else None

    def status(self) -> dict[str, Any]:
        """Return what is served to whom, and what is wrong, as JSON-safe data."""
        return status(self.config.model, *self._parts())

    def prometheus(self) -> bytes:
        """Return the metrics page."""
        return self.metrics.render()

    def _parts(self) -> tuple[Follower, ModelPool, Scorer, RequestLog, EventWriter, EventWriter, int]:
        return (
            self._follower,
            self._pool,
            self._scorer,
            self._log,
            self._requests,
            self._outcomes,
            self._under_way,
        )

    def _logged(self, served: Served, answered: Answered) -> bool:
        """Log the answers and return whether they are in the log."""
        try:
            self._log.write([self._log.line(served, answered)])
        except EventsUnwritable:
            return False
        return True

    def _champion_error(self, failure: ChampionFailed, served: Served, secrets: set[str]) -> Exception:
        """Return what the caller gets, and log what is the model's fault and not the caller's."""
        error = failure.error
        if isinstance(error, MlflowException):
            error.message = redact(error.message, secrets)
            rejected: Exception = error
            if int(error.get_http_status_code()) < 500:
                return rejected
        described = describe(error, secrets)
        ids = {"request_id": served.request_id, "trace_id": served.trace_id}
        _log.error("champion %s failed: %s", failure.version, described, extra=ids)
        for row in failure.rows:
            self.metrics.unanswered(served.route.arms[row], failure.version, described)
        lost = [
            RowAnswer(failure.version, failure.latency_ms, None, reason is not None, described)
            for reason in failure.rows.values()
        ]
        with suppress(EventsUnwritable):  # counted and shown in /status; the caller gets an error either way
            answered = Answered(None, [None] * len(lost), lost)
            self._log.write([self._log.line(served, answered, list(failure.rows))])
        if isinstance(error, MlflowException):
            return rejected
        if isinstance(error, TimeoutError):
            return GatewayTimeout()
        if isinstance(error, TooBusy):
            return protocol.unavailable(f"Too many requests wait for the model ({error}); try again.")
        return protocol.bad_request(
            "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe "
            "is compatible with the model for inference."
        )

    def _rehearse(self, served: Served, serving: Serving) -> None:
        if not serving.exposure.mirror or serving.challenger is None or not served.batch.splittable:
            return
        rows = served.route.champion_rows
        if rows:
            everything = len(rows) == served.batch.size
            copy = Copy(
                served.request_id,
                served.trace_id,
                served.received_at,
                serving.exposure.run_id,
                Body(served.body, served.content_type),
                None if everything else rows,
                [served.envelopes.event_ids[row] for row in rows],
                [served.envelopes.event_times[row] for row in rows],
            )
            serving.challenger.rehearse(copy)

    def _count(
        self, served: Served, answered: Answered, serving: Serving, started: float
    ) -> tuple[tuple[str, str], ...]:
        """Count a request and return which arms were answered by which versions, in the order of the rows."""
        arms, rows = served.route.arms, answered.rows
        seconds = time.perf_counter() - started
        if CHALLENGER not in arms and rows:
            # One call of the champion answered everything.
            version, cpu = rows[0].version, rows[0].cpu_ms or 0.0
            counts = {arms[0]: 1} if len(arms) == 1 else Counter(arms)
            for arm, count in counts.items():
                self.metrics.answered(arm, version, count, seconds, cpu * count / 1000)
            return tuple([(arm, version) for arm in counts])
        found: dict[tuple[str, str], list[RowAnswer]] = {}
        for arm, row in zip(arms, rows, strict=True):
            found.setdefault((arm, row.version), []).append(row)
            if row.fallback:
                self.metrics.unanswered(arm, serving.exposure.challenger or "", row.error)
        for (arm, version), own in found.items():
            cpu = sum(row.cpu_ms or 0.0 for row in own) / 1000
            self.metrics.answered(arm, version, len(own), seconds, cpu)
        return tuple(found)


def _without_exposure(served: Served) -> Served:
    return replace(served, route=Route((UNEXPOSED,) * served.batch.size, None, 0))


@lru_cache(maxsize=64)
def _headers(generation: int, pairs: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    """Return the headers that say which arms were answered by which versions, in the order of the rows."""
    arms, versions = dict.fromkeys(arm for arm, _ in pairs), dict.fromkeys(version for _, version in pairs)
    return [
        (b"x-understudy-generation", b"%d" % generation),
        (b"x-understudy-arm", ",".join(arms).encode()),
        (b"x-understudy-version", ",".join(versions).encode()),
    ]
