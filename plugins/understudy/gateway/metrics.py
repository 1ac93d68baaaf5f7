"""What the gateway tells Prometheus about itself.

Counting happens on the event loop, once per request and arm, and is a few additions to plain numbers. Everything else is
read when somebody asks for the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["METRICS", "Described", "Hosted", "Loaded", "Metrics", "Reading"]

BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram, in seconds; what took longer is in one more."""

BREAKER_STATES = ("closed", "half-open", "open")
_MOST_KINDS = 64
_OTHER = "other"


@dataclass(frozen=True)
class Described:
    """One metric as the reference names it.

    Attributes:
        name: Its name in an expression.
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        labels: Names of its labels.
        help: What it counts, and when to worry.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


_ARM = ("arm", "version")
METRICS = (
    Described("understudy_requests_total", "counter", _ARM,
              "Requests in which this arm had rows. A request with rows of several arms counts once for each."),
    Described("understudy_rows_total", "counter", _ARM, "Rows answered, which is events, by the version that answered."),
    Described("understudy_request_seconds", "histogram", _ARM,
              "Time from the receipt of a request to its answer, for every arm that had rows in it."),
    Described("understudy_cpu_seconds_total", "counter", _ARM,
              "CPU time that scoring took, in whatever process it happened. A model's own threads are not in it."),
    Described("understudy_row_errors_total", "counter", (*_ARM, "kind"),
              "Rows that a version did not answer, by what was wrong: Timeout, TooBusy, BreakerOpen, Down, or the name of the "
              "model's error. Where it is the challenger's version the champion answered instead; where it is the champion's "
              "the caller got an error."),
    Described("understudy_errors_total", "counter", ("status", "kind"),
              "Requests answered with an error, by HTTP status and MLflow's error code or the name of the fault."),
    Described("understudy_under_way", "gauge", (), "Requests that are being answered now."),
    Described("understudy_ready", "gauge", (), "1 while a champion is loaded and answers."),
    Described("understudy_generation", "gauge", (), "Generation of the exposure that is served; it only grows."),
    Described("understudy_exposed", "gauge", (),
              "1 while any unit may see the challenger; 0 once the lease has lapsed or events cannot be logged."),
    Described("understudy_exposed_percent", "gauge", (),
              "Share of units on the challenger outside of rings, in percent; 0 when nobody is exposed."),
    Described("understudy_lease_left_seconds", "gauge", (),
              "Time until exposure ends by itself, if nobody renews it; 0 when there is none."),
    Described("understudy_document_error", "gauge", (),
              "1 while the published flag document cannot be used; the last good one stays in force until its lease ends."),
    Described("understudy_feature_set_error", "gauge", (),
              "1 while a version names another feature set in the registry than the flag document has for it, or nobody can "
              "tell. Nobody is exposed meanwhile, and a champion that is not served yet is not switched to."),
    Described("understudy_version_info", "gauge", ("version", "role", "compiled", "digest"),
              "1 for each version in use: its role, whether it is answered from a compiled form (`linear`, `onnx`), by a "
              "server of its own (`upstream`) or by MLflow itself (`no`), and the first digits of its files' SHA-256, which "
              "nobody here knows of a server."),
    Described("understudy_breaker_state", "gauge", ("version", "state"),
              "1 for the state that the challenger's breaker is in, 0 for the others."),
    Described("understudy_breaker_openings_total", "counter", ("version",), "How often the challenger's breaker opened."),
    Described("understudy_challenger_up", "gauge", ("version",), "1 while the challenger's process is loaded and answers."),
    Described("understudy_challenger_starts_total", "counter", ("version",),
              "How often a process was started for this challenger; more than one means that it died or was killed."),
    Described("understudy_mirror_rows_total", "counter", ("fate",),
              "Rows copied to the challenger by what became of them: `scored` and logged, `dropped` because too many waited "
              "or the process ended, `failed` to be logged."),
    Described("understudy_mirror_waiting", "gauge", (), "Copies of requests that wait for the mirror."),
    Described("understudy_events_total", "counter", ("kind",), "Events that reached the log, by kind."),
    Described("understudy_events_failed_total", "counter", ("kind",),
              "Events that could not be logged. While this happens nobody is exposed."),
    Described("understudy_event_lag_seconds", "gauge", ("kind",),
              "Seconds since the newest event reached the log; since the start of the process when there is none yet. It "
              "grows when there is no traffic, so alert on it together with the rate of requests."),
    Described("understudy_event_log_writable", "gauge", (), "0 while events cannot be written and only the champion serves."),
)  # fmt: skip
"""Every metric of the gateway's own. ``process_*`` and ``understudy_challenger_process_*`` come from `prometheus_client`."""

_DESCRIBED = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Loaded:
    """A version in use."""

    version: str
    role: str
    compiled: str = "no"
    digest: str = ""


@dataclass(frozen=True)
class Hosted:
    """The challenger's process and its breaker."""

    version: str
    pid: int | None
    up: bool
    starts: int
    breaker: str
    openings: int


@dataclass(frozen=True)
class Reading:
    """What is read off the gateway when somebody asks for the page.

    Attributes:
        under_way: Requests that are being answered.
        ready: Whether a champion answers.
        generation: What is served, if something is.
        exposed: Whether any unit may see the challenger.
        exposed_percent: Share of units on the challenger outside of rings.
        lease_left: Seconds until exposure ends by itself.
        document_error: Whether the flag document cannot be used.
        feature_set_error: Whether a version does not fit the feature set that the document has for it.
        versions: The versions in use.
        challenger: The challenger's process, if there is one.
        mirror_rows: Rows by fate: ``scored``, ``dropped``, ``failed``.
        mirror_waiting: Copies under way.
        events: Events in the log by kind.
        events_failed: Events that could not be logged, by kind.
        event_lag: Seconds since the newest event of each kind.
        writable: Whether events can be logged.
    """

    under_way: int = 0
    ready: bool = False
    generation: int | None = None
    exposed: bool = False
    exposed_percent: float = 0.0
    lease_left: float = 0.0
    document_error: bool = False
    feature_set_error: bool = False
    versions: Sequence[Loaded] = ()
    challenger: Hosted | None = None
    mirror_rows: Mapping[str, int] = field(default_factory=dict)
    mirror_waiting: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    events_failed: Mapping[str, int] = field(default_factory=dict)
    event_lag: Mapping[str, float] = field(default_factory=dict)
    writable: bool = True


class _Arm:
    """What one version answered to one arm."""

    __slots__ = ("buckets", "cpu", "requests", "rows", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.seconds = 0.0
        self.cpu = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)


class Metrics(Collector):
    """The gateway's own registry, apart from any that a model's code may use.

    Args:
        read: Reads what is not counted; called once per page.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._arms: dict[tuple[str, str], _Arm] = {}
        self._row_errors: Counter[tuple[str, ...]] = Counter()
        self._errors: Counter[tuple[str, ...]] = Counter()
        self._pid: int | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        ProcessCollector("understudy_challenger", pid=lambda: self._pid or "none", registry=self._registry)

    def answered(self, arm: str, version: str, rows: int, seconds: float, cpu_seconds: float) -> None:
        """Count the part of a request that one version answered for one arm.

        Args:
            arm: The arm.
            version: The version that answered.
            rows: How many rows.
            seconds: Time that the whole request took.
            cpu_seconds: CPU time that these rows took.
        """
        found = self._arms.get((arm, version))
        if found is None:
            found = self._arms[arm, version] = _Arm()
        found.requests += 1
        found.rows += rows
        found.seconds += seconds
        found.cpu += cpu_seconds
        found.buckets[bisect_left(BUCKETS, seconds)] += 1

    def unanswered(self, arm: str, version: str, error: str | None, rows: int = 1) -> None:
        """Count rows that a version did not answer.

        Args:
            arm: Their arm.
            version: The version.
            error: Why, as the event log says it: a word, a colon and an explanation.
            rows: How many rows.
        """
        self._row_errors[_bounded(self._row_errors, arm, version, (error or _OTHER).partition(":")[0])] += (
            rows
        )

    def failed(self, status: int, kind: str) -> None:
        """Count a request that was answered with an error.

        Args:
            status: HTTP status.
            kind: MLflow's error code, or the name of the fault.
        """
        self._errors[_bounded(self._errors, str(status), kind)] += 1

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`'s ``Collector``."""
        reading = self._read()
        self._pid = reading.challenger.pid if reading.challenger else None
        yield from self._counted()
        yield from _read_off(reading)
        yield from _hosted(reading.challenger)

    def _counted(self) -> Iterator[Metric]:
        arms = self._arms.items()
        yield _counter("understudy_requests_total", ((key, arm.requests) for key, arm in arms))
        yield _counter("understudy_rows_total", ((key, arm.rows) for key, arm in arms))
        yield _counter("understudy_cpu_seconds_total", ((key, arm.cpu) for key, arm in arms))
        yield _counter("understudy_row_errors_total", self._row_errors.items())
        yield _counter("understudy_errors_total", self._errors.items())
        described = _DESCRIBED["understudy_request_seconds"]
        seconds = HistogramMetricFamily(described.name, described.help, labels=described.labels)
        bounds = [*map(str, BUCKETS), "+Inf"]
        for key, arm in arms:
            buckets = list(zip(bounds, map(float, accumulate(arm.buckets)), strict=True))
            seconds.add_metric(key, buckets, arm.seconds)
        yield seconds


Samples = Iterable[tuple[Sequence[str], float]]


def _read_off(reading: Reading) -> Iterator[Metric]:
    for name, value in {
        "understudy_under_way": reading.under_way,
        "understudy_ready": reading.ready,
        "understudy_generation": reading.generation,
        "understudy_exposed": reading.exposed,
        "understudy_exposed_percent": reading.exposed_percent,
        "understudy_lease_left_seconds": reading.lease_left,
        "understudy_document_error": reading.document_error,
        "understudy_feature_set_error": reading.feature_set_error,
        "understudy_mirror_waiting": reading.mirror_waiting,
        "understudy_event_log_writable": reading.writable,
    }.items():
        yield _gauge(name, [] if value is None else [((), value)])
    versions = ((one.version, one.role, one.compiled, one.digest[:12]) for one in reading.versions)
    yield _gauge("understudy_version_info", ((labels, 1) for labels in versions))
    yield _counter("understudy_mirror_rows_total", _by_name(reading.mirror_rows))
    yield _counter("understudy_events_total", _by_name(reading.events))
    yield _counter("understudy_events_failed_total", _by_name(reading.events_failed))
    yield _gauge("understudy_event_lag_seconds", _by_name(reading.event_lag))


def _hosted(hosted: Hosted | None) -> Iterator[Metric]:
    own = (hosted,) if hosted else ()
    states = [((one.version, state), state == one.breaker) for one in own for state in BREAKER_STATES]
    yield _gauge("understudy_breaker_state", states)
    yield _counter("understudy_breaker_openings_total", [((one.version,), one.openings) for one in own])
    yield _gauge("understudy_challenger_up", [((one.version,), one.up) for one in own])
    yield _counter("understudy_challenger_starts_total", [((one.version,), one.starts) for one in own])


def _counter(name: str, samples: Samples) -> Metric:
    described = _DESCRIBED[name]
    family = CounterMetricFamily(name, described.help, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def _gauge(name: str, samples: Samples) -> Metric:
    described = _DESCRIBED[name]
    family = GaugeMetricFamily(name, described.help, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def _by_name(values: Mapping[str, float]) -> Samples:
    return (((name,), value) for name, value in values.items())


def _bounded(known: Counter[tuple[str, ...]], *key: str) -> tuple[str, ...]:
    """Return a key that ends with a kind of error; a model that makes up new names does not get a new series for each."""
    return key if key in known or len(known) < _MOST_KINDS else (*key[:-1], _OTHER)
