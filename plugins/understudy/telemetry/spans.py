"""Spans for an OpenTelemetry collector, if the environment names one; otherwise nothing is loaded and nothing is sent.

The exporter works behind a bounded queue in a thread of its own: with the collector down, spans are dropped and work goes
on. The SDK's own variables apply (``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``, ``OTEL_BSP_MAX_QUEUE_SIZE`` …). The
tracer is ours alone and never the process's global one, which may be Airflow's or that of a model's code.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from understudy.telemetry.context import CURRENT, TraceContext, current

if TYPE_CHECKING:
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import SpanContext

__all__ = ["Span", "Tracer", "span", "tracer"]

Value = str | bool | int | float

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Span:
    """One piece of work under way.

    Args:
        context: Its place in the trace, for whatever it causes.
        sdk: What is sent to the collector; nothing where there is none.
    """

    def __init__(self, context: TraceContext, sdk: SdkSpan | None = None) -> None:
        self.context = context
        self._sdk = sdk

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Add facts; one that is None is left out."""
        if self._sdk is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._sdk.set_attribute(name, value)

    def end(self, error: str | None = None) -> None:
        """Close the span.

        Args:
            error: What kind of error ended it. Never its message, which may quote somebody's data.
        """
        if self._sdk is None:
            return
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._sdk.set_attribute("error.type", error)
            self._sdk.set_status(Status(StatusCode.ERROR, error))
        self._sdk.end()


class Tracer:
    """Makes spans and sends them in the background; to the collector this process is ``OTEL_SERVICE_NAME``."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = Resource({"service.name": "understudy", "service.namespace": "understudy"})
        # Not closed at exit by the SDK: that would wait up to half a minute for a collector that is down.
        self._provider = TracerProvider(
            resource=Resource.create().merge(named).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("understudy")
        self._api = trace
        self._nowhere = Context()

    def start(
        self,
        name: str,
        parent: TraceContext | None = None,
        *,
        server: bool = False,
        attributes: Mapping[str, Value] | None = None,
        caused_by: TraceContext | None = None,
    ) -> Span:
        """Open a span.

        Args:
            name: What is being done; few different ones.
            parent: Work elsewhere that it is part of. Without one it is part of the work under way here, and not made
                where that is not recorded; without either it begins a trace.
            server: Whether it answers somebody's request.
            attributes: Facts about it; nothing private.
            caused_by: A place in another trace to link to.
        """
        if parent is None:
            parent = current()
            if parent is not None and not parent.sampled:
                return Span(parent)
        api, inside = self._api, self._nowhere
        if parent is not None:
            inside = api.set_span_in_context(api.NonRecordingSpan(self._place(parent)), inside)
        sdk = self._tracer.start_span(
            name,
            context=inside,
            kind=api.SpanKind.SERVER if server else api.SpanKind.INTERNAL,
            attributes=attributes,
            links=[api.Link(self._place(caused_by))] if caused_by else None,
        )
        found = sdk.get_span_context()
        sampled = found.trace_flags.sampled
        return Span(TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", sampled), sdk)

    def _place(self, place: TraceContext) -> SpanContext:
        flags = self._api.TraceFlags(int(place.sampled))
        trace_id, span_id = int(place.trace_id, 16), int(place.span_id, 16)
        return self._api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Send what is queued, for at most so many seconds."""
        _at_most(seconds, self._provider.force_flush)

    def close(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Send what is queued, for at most so many seconds, and stop."""
        _at_most(seconds, self._provider.shutdown)


_tracers: dict[str, Tracer | None] = {}
_opening = threading.Lock()


def tracer() -> Tracer | None:
    """Return this process's tracer, or nothing where no collector is configured or the SDK cannot be set up."""
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    with _opening:
        if endpoint not in _tracers:
            _tracers[endpoint] = _opened()
        return _tracers[endpoint]


def _opened() -> Tracer | None:
    try:
        return Tracer()
    except Exception as error:  # what is traced matters more than the trace
        _log.warning("spans are not sent, the exporter cannot be set up: %s: %s", type(error).__name__, error)
        return None


@contextmanager
def span(
    name: str,
    *,
    parent: TraceContext | None = None,
    server: bool = False,
    attributes: Mapping[str, Value] | None = None,
    caused_by: TraceContext | None = None,
    flush: bool = False,
) -> Iterator[Span]:
    """Run a block as one piece of work of a trace, whether or not anybody collects spans.

    Args:
        name: What is being done; few different ones.
        parent: The work it is part of; default: where this code runs, else a new trace.
        server: Whether it answers somebody's request.
        attributes: Facts about it; nothing private.
        caused_by: A place in another trace to link to.
        flush: Whether this process may end right after, as Airflow's task processes do without a word.

    Yields:
        The span; its place in the trace is `current` meanwhile.
    """
    own = tracer()
    if own is None:
        around = parent or current()
        opened = Span(around.child() if around else TraceContext.new())
    else:
        opened = own.start(name, parent, server=server, attributes=attributes, caused_by=caused_by)
    token = CURRENT.set(opened.context)
    error: str | None = None
    try:
        yield opened
    except BaseException as raised:
        error = str(getattr(raised, "code", "") or type(raised).__name__)
        raise
    finally:
        CURRENT.reset(token)
        opened.end(error)
        if own is not None and flush:
            own.flush()


def _at_most(seconds: float, work: Callable[[], object]) -> None:
    """Wait for work, but no longer; the SDK itself takes no deadline."""
    worker = threading.Thread(target=work, name="understudy-spans", daemon=True)
    worker.start()
    worker.join(seconds)
