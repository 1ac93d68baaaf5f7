"""One gateway: reads a request, decides the arms, asks the versions, logs the events, then answers."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from mlflow.exceptions import MlflowException

from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.exposure import UNEXPOSED, Exposure
from understudy.gateway import protocol
from understudy.gateway.config import GatewayConfig
from understudy.gateway.follower import Follower, Serving
from understudy.gateway.metrics import Metrics
from understudy.gateway.mirror import Copy, Mirror
from understudy.gateway.outcomes import read_outcomes
from understudy.gateway.pool import ModelPool
from understudy.gateway.redaction import describe, redact
from understudy.gateway.request_log import RequestLog, Served
from understudy.gateway.routing import Route, read_envelopes, route, secrets_in
from understudy.gateway.scoring import Answered, ChampionFailed, RowAnswer, Scorer
from understudy.gateway.workers import TooBusy

__all__ = ["Gateway", "GatewayTimeout", "Reply"]

_MIRROR_DRAIN_SECONDS = 3.0
_log = logging.getLogger(__name__)


class GatewayTimeout(Exception):
    """The champion did not answer in time."""


@dataclass(frozen=True)
class Reply:
    """An answer to a scoring request."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Gateway:
    """Serves one model.

    Args:
        config: What it was told at its start.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        writer_id = f"{int(time.time()):x}-{uuid4().hex[:12]}"
        self._requests = EventWriter(config.events_dir, config.model, "requests", writer_id)
        self._outcomes = EventWriter(config.events_dir, config.model, "outcomes", writer_id)
        self._mirrors = EventWriter(config.events_dir, config.model, "mirrors", writer_id)
        self._pool = ModelPool(config.model, config.traffic)
        self._follower = Follower(config.model, config.flags_path, self._pool, config.poll_seconds)
        self._scorer = Scorer(config.champion_timeout, config.challenger_timeout)
        self._mirror = Mirror(config.model, config.traffic, self._mirrors, config.mirror_queue)
        self._log = RequestLog(config, self._requests)
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
        await asyncio.to_thread(self._mirror.close, _MIRROR_DRAIN_SECONDS)
        for writer in (self._requests, self._outcomes, self._mirrors):
            writer.close()

    async def invoke(self, body: bytes, content_type: str | None, request_id: str) -> Reply:
        """Answer a scoring request.

        Args:
            body: Its body.
            content_type: Its ``Content-Type`` header.
            request_id: Its correlation id.

        Raises:
            MlflowException: With MLflow's code for what is wrong.
            UnsupportedMediaType: The body is of no known type.
            GatewayTimeout: The champion did not answer in time.
        """
        self._under_way += 1
        try:
            return await self._answer(body, content_type, request_id)
        finally:
            self._under_way -= 1

    async def _answer(self, body: bytes, content_type: str | None, request_id: str) -> Reply:
        received_at = time.time()
        started = time.perf_counter()
        serving = self._follower.serving
        if serving is None:
            raise protocol.unavailable(
                f"No champion of {self.config.model} is loaded yet; see /status, try again."
            )
        batch = protocol.parse(body, content_type)
        envelopes = read_envelopes(batch, self.config.traffic, received_at)
        secrets = secrets_in(batch, self.config.traffic)
        chosen = route(serving.exposure, envelopes, time.time(), counted=self._log.broken is None)
        served = Served(request_id, received_at, serving.exposure.generation, batch, envelopes, chosen)
        try:
            answered = await self._scorer.answer(batch, chosen, serving, secrets)
        except ChampionFailed as failure:
            raise self._champion_error(failure, served, secrets) from None
        chosen, answered = await self._recorded(served, answered, serving, secrets)
        self._rehearse(served, chosen, serving)
        self._count(chosen, answered, time.perf_counter() - started)
        headers = {
            "X-Understudy-Generation": str(serving.exposure.generation),
            "X-Understudy-Arm": _distinct(chosen.arms),
            "X-Understudy-Version": _distinct(row.version for row in answered.rows),
        }
        return Reply(protocol.encode_answer(answered.predictions, answered.unwrapped), headers)

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
        serving = self._follower.serving
        exposure = serving.exposure if serving else None
        return {
            "model": self.config.model,
            "ready": self.ready,
            "generation": exposure.generation if exposure else None,
            "champion": exposure.champion if exposure else None,
            "challenger": exposure.challenger if exposure else None,
            "challenger_error": serving.challenger_error if serving else None,
            "run": exposure.run_id if exposure else None,
            "stage": exposure.stage if exposure else 0,
            "percent": exposure.percent if exposure else 0.0,
            "contained": list(exposure.contained) if exposure else [],
            "lease_expires_at": exposure.lease_expires_at if exposure else None,
            "exposed": bool(exposure and exposure.live(time.time()) and not self._log.broken),
            "loaded": self._pool.versions,
            "under_way": self._under_way,
            "waiting_for": self._follower.waiting_for,
            "document_error": self._follower.document_error,
            "events": {
                "requests": self._requests.written,
                "outcomes": self._outcomes.written,
                "failed": self._requests.failed + self._outcomes.failed + self._mirrors.failed,
                "error": self._log.broken,
            },
            "mirror": {
                "on": bool(exposure and exposure.mirror and exposure.challenger),
                "events": self._mirrors.written,
                "dropped": self._mirror.dropped,
            },
        }

    def prometheus(self) -> bytes:
        """Return the metrics page."""
        exposure = self.flags()
        if exposure is not None:
            self.metrics.generation.set(exposure.generation)
            self.metrics.lease_left.set(max(0.0, (exposure.lease_expires_at or 0) - time.time()))
        self.metrics.mirror_dropped.set(self._mirror.dropped)
        for kind, writer in (
            ("requests", self._requests),
            ("outcomes", self._outcomes),
            ("mirrors", self._mirrors),
        ):
            self.metrics.events_written.labels(kind).set(writer.written)
            self.metrics.events_failed.labels(kind).set(writer.failed)
        return self.metrics.render()

    async def _recorded(
        self, served: Served, answered: Answered, serving: Serving, secrets: set[str]
    ) -> tuple[Route, Answered]:
        """Log the answers; if that fails, nobody may keep an answer of the challenger."""
        try:
            self._log.write(served, dict(enumerate(answered.rows)))
            return served.route, answered
        except EventsUnwritable:
            nobody = Route((UNEXPOSED,) * served.batch.size, None, 0)
            if not served.route.challenger_rows:
                return nobody, answered
        try:
            return nobody, await self._scorer.answer(served.batch, nobody, serving, secrets)
        except ChampionFailed as failure:
            raise self._champion_error(failure, replace(served, route=nobody), secrets) from None

    def _champion_error(self, failure: ChampionFailed, served: Served, secrets: set[str]) -> Exception:
        """Return what the caller gets, and log what is the model's fault and not the caller's."""
        error = failure.error
        if isinstance(error, MlflowException) and int(error.get_http_status_code()) < 500:
            error.message = redact(f"Failed to predict data. \nError: {error.message}", secrets)
            rejected: Exception = error
            return rejected
        described = describe(error, secrets)
        _log.error("champion %s failed on request %s: %s", failure.version, served.request_id, described)
        lost = {
            row: RowAnswer(None, failure.version, failure.latency_ms, None, reason is not None, described)
            for row, reason in failure.rows.items()
        }
        with suppress(EventsUnwritable):  # counted and shown in /status; the caller gets an error either way
            self._log.write(served, lost)
        if isinstance(error, TimeoutError):
            return GatewayTimeout()
        if isinstance(error, TooBusy):
            return protocol.unavailable(f"Too many requests wait for the model ({error}); try again.")
        return protocol.internal_error(
            "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe "
            f"is compatible with the model for inference. Error: {described}"
        )

    def _rehearse(self, served: Served, chosen: Route, serving: Serving) -> None:
        if not serving.exposure.mirror or serving.challenger is None or not served.batch.splittable:
            return
        rows = chosen.champion_rows
        if rows:
            copy = Copy(
                served.request_id,
                served.received_at,
                serving.exposure.run_id,
                served.batch,
                rows,
                served.envelopes,
                serving.challenger,
            )
            self._mirror.offer(copy)

    def _count(self, chosen: Route, answered: Answered, seconds: float) -> None:
        for arm, row in zip(chosen.arms, answered.rows, strict=True):
            self.metrics.rows.labels(arm, row.version).inc()
            if row.fallback:
                self.metrics.fallbacks.inc()
        self.metrics.latency.observe(seconds)


def _distinct(values: Any) -> str:
    return ",".join(dict.fromkeys(values))
