"""Following one thing through every process: W3C trace context, and spans for whoever runs a collector."""

from understudy.telemetry.context import TraceContext, current, parse, trace_id_of, within
from understudy.telemetry.spans import Span, Tracer, span, tracer

__all__ = ["Span", "TraceContext", "Tracer", "current", "parse", "span", "trace_id_of", "tracer", "within"]
