"""A gateway that makes spans of what it does. Without a collector it is not even loaded, and requests pay nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mlflow.exceptions import MlflowException

from understudy.gateway.batch import Batch
from understudy.gateway.channel import Told
from understudy.gateway.config import GatewayConfig
from understudy.gateway.follower import Serving
from understudy.gateway.loading import Scored
from understudy.gateway.pool import Champion
from understudy.gateway.request_log import Served
from understudy.gateway.routing import Route
from understudy.gateway.scoring import Answered, Scorer
from understudy.gateway.service import Gateway, Reply
from understudy.telemetry import Tracer, parse, span

__all__ = ["TracedGateway"]


class TracedGateway(Gateway):
    """Serves one model and sends a span of every request, with one inside it for each thing that was done.

    Args:
        config: What it was told at its start.
        tracer: Sends the spans.
    """

    def __init__(self, config: GatewayConfig, tracer: Tracer) -> None:
        super().__init__(config)
        self._tracer = tracer
        self._scorer = _TracedScorer(tracer, config)

    async def stop(self) -> None:
        """Stop as a gateway does, and send the last spans."""
        await super().stop()
        await asyncio.to_thread(self._tracer.close)

    async def invoke(
        self, body: bytes, content_type: str | None, request_id: str, headers: Mapping[str, str]
    ) -> Reply:
        """Answer a scoring request; see `Gateway.invoke`."""
        attributes = {
            "http.request.method": "POST",
            "url.path": "/invocations",
            "understudy.model": self.config.model,
            "understudy.request_id": request_id,
        }
        caller = parse(headers.get("traceparent"))
        rejected: MlflowException | None = None
        with span("POST /invocations", parent=caller, server=True, attributes=attributes) as own:
            try:
                reply = await super().invoke(
                    body, content_type, request_id, {**headers, "traceparent": own.context.traceparent}
                )
                own.set(_told(reply))
                return reply
            except MlflowException as error:
                status = int(error.get_http_status_code())
                own.set({"http.response.status_code": status})
                if status >= 500:
                    raise
                # What the client did wrong is no error of the server.
                own.set({"error.type": error.error_code})
                rejected = error
        raise rejected

    def invoke_now(self, *_: Any, **__: Any) -> bool:
        """Leave every request to `invoke`, which makes its span."""
        return False

    def _answered_here(self, served: Served, serving: Serving) -> Answered | None:
        own = self._tracer.start("champion", attributes=_asked(serving.champion.version, served.batch.size))
        answered = super()._answered_here(served, serving)
        if answered is not None:  # otherwise the champion is asked elsewhere, and this span is never sent
            own.end()
        return answered

    def _logged(self, served: Served, answered: Answered) -> bool:
        with span("log"):
            return super()._logged(served, answered)

    def _rehearse(self, served: Served, serving: Serving) -> None:
        if not serving.exposure.mirror or serving.challenger is None:
            return
        with span("mirror", attributes=_asked(serving.challenger.version, len(served.route.champion_rows))):
            super()._rehearse(served, serving)


class _TracedScorer(Scorer):
    """Makes a span of every call of a version."""

    def __init__(self, tracer: Tracer, config: GatewayConfig) -> None:
        super().__init__(config.champion_timeout, config.challenger_timeout, config.breaker)
        self._tracer = tracer

    async def _by_both(
        self, batch: Batch, route: Route, serving: Serving, asked: asyncio.Future[Told], started: float
    ) -> tuple[Answered, str | float]:
        version = serving.challenger.version if serving.challenger else ""
        own = self._tracer.start("challenger", attributes=_asked(version, len(route.challenger_rows)))

        def ended(told: asyncio.Future[Told]) -> None:
            error = "Cancelled" if told.cancelled() else told.result().error
            own.end(error.partition(":")[0] if error else None)

        asked.add_done_callback(ended)
        return await super()._by_both(batch, route, serving, asked, started)

    async def _ask_champion(
        self,
        champion: Champion,
        batch: Batch,
        rows: list[int] | None,
        reasons: dict[int, str | None],
        started: float,
    ) -> Scored:
        size = batch.size if rows is None else len(rows)
        with span("champion", attributes=_asked(champion.version, size)):
            return await super()._ask_champion(champion, batch, rows, reasons, started)


def _asked(version: str, rows: int) -> dict[str, str | bool | int | float]:
    return {"understudy.version": version, "understudy.rows": rows}


def _told(reply: Reply) -> dict[str, str | bool | int | float | None]:
    """Return what the answer's own headers say of it."""
    said = dict(reply.headers)
    names = {"arm": b"x-understudy-arm", "version": b"x-understudy-version"}
    return {
        "http.response.status_code": 200,
        "understudy.generation": int(said[b"x-understudy-generation"]),
        **{f"understudy.{name}": said[header].decode() for name, header in names.items()},
    }
