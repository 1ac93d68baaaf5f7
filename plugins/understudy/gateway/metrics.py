"""What the gateway tells Prometheus about itself."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The gateway's own registry, apart from any that a model's code may use."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self.rows = Counter("understudy_rows", "Rows answered.", ["arm", "version"], registry=own)
        self.fallbacks = Counter(
            "understudy_fallbacks", "Challenger rows that the champion answered.", registry=own
        )
        self.errors = Counter(
            "understudy_errors", "Requests answered with an error.", ["status"], registry=own
        )
        self.latency = Histogram(
            "understudy_request_seconds", "Time to answer a scoring request.", buckets=_BUCKETS, registry=own
        )
        self.mirror_dropped = Gauge(
            "understudy_mirror_dropped_rows", "Rows not mirrored: the queue was full.", registry=own
        )
        self.generation = Gauge("understudy_generation", "Generation being served.", registry=own)
        self.lease_left = Gauge(
            "understudy_lease_left_seconds", "Time until exposure ends by itself; 0 = none.", registry=own
        )
        self.events_written = Gauge("understudy_events_written", "Events in the log.", ["kind"], registry=own)
        self.events_failed = Gauge(
            "understudy_events_failed", "Events that could not be logged.", ["kind"], registry=own
        )

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
