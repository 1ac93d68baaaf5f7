"""What one gateway process is told at its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import NoSuchExperiment, SpecInvalid
from understudy.spec import Breaker, Experiment

__all__ = ["GatewayConfig", "HeaderNames", "TrafficColumns", "breaker_of", "traffic_of"]


@dataclass(frozen=True)
class HeaderNames:
    """Which headers of a request stand in for columns, in lower case.

    Attributes:
        unit: Header with the randomised unit of every row.
        event_id: Header that names the request.
        event_time: Header with the Unix second at which its events happened.
    """

    unit: str | None = None
    event_id: str | None = None
    event_time: str | None = None


@dataclass(frozen=True)
class TrafficColumns:
    """Which columns of a request mean what.

    Attributes:
        unit: Column of the randomised unit.
        event_id: Column that names the request, if clients send one.
        event_time: Column with the Unix second at which the event happened, if clients send one.
        private: Columns that are never written anywhere.
        cohorts: Columns whose values are logged as cohorts.
        headers: What a row has where its own column has no value.
    """

    unit: str
    event_id: str | None
    event_time: str | None
    private: frozenset[str]
    cohorts: tuple[str, ...]
    headers: HeaderNames = HeaderNames()

    @property
    def secret(self) -> frozenset[str]:
        """Columns whose raw values may not appear in any log or message."""
        return self.private | {self.unit}

    @property
    def envelope(self) -> frozenset[str]:
        """Columns that describe the request and are no features of it."""
        return frozenset(name for name in (self.unit, self.event_id, self.event_time) if name)


@dataclass(frozen=True)
class GatewayConfig:
    """Everything a gateway process needs to know.

    Attributes:
        model: Registered model name.
        traffic: The columns of its requests.
        flags_path: The published flag document.
        events_dir: Root of the event log.
        pseudonym_key: Secret that keys the pseudonyms of units.
        challenger_timeout: Seconds after which the champion answers in the challenger's place.
        champion_timeout: Seconds after which a request is given up, as MLflow's server does.
        max_body_bytes: Largest accepted request body.
        receive_seconds: Seconds in which a request must have arrived.
        mirror_queue: Requests that may wait for the mirror; more are dropped and counted.
        breaker: When the challenger is not asked any more.
        challenger_memory: Bytes of data that the challenger's process may hold.
        poll_seconds: Time between two looks at the flag document.
    """

    model: str
    traffic: TrafficColumns
    flags_path: Path
    events_dir: Path
    pseudonym_key: bytes
    challenger_timeout: float = 2.0
    champion_timeout: float = 60.0
    max_body_bytes: int = 32 * 1024 * 1024
    receive_seconds: float = 30.0
    mirror_queue: int = 256
    breaker: Breaker = field(default_factory=Breaker)
    challenger_memory: int = 4 * 1024**3
    poll_seconds: float = 0.1


def traffic_of(model: str, experiments: Sequence[Experiment]) -> TrafficColumns:
    """Return the columns of a model's requests, on which all of its experiments must agree.

    Args:
        model: Registered model name.
        experiments: Every experiment of the installation.

    Raises:
        NoSuchExperiment: No experiment is about this model.
        SpecInvalid: Two of them read its requests differently.
    """
    own = [experiment for experiment in experiments if experiment.model == model]
    if not own:
        known = ", ".join(sorted({experiment.model for experiment in experiments})) or "none"
        raise NoSuchExperiment(
            f"No experiment is about model {model!r}, so its requests cannot be read; known models: {known}. "
            "Add an experiment file with `model` set to it, or start the gateway for one of those."
        )
    first = own[0]
    for other in own[1:]:
        for name in ("unit", "event_id", "event_time", "private", "headers"):
            ours, theirs = _read_alike(first, name), _read_alike(other, name)
            if ours != theirs:
                raise SpecInvalid(
                    f"{first.name} and {other.name} are both about model {model!r}, but traffic.{name} is {ours!r} in "
                    f"one and {theirs!r} in the other. One gateway serves both, so they must be the same."
                )
    return TrafficColumns(
        unit=first.traffic.unit,
        event_id=first.traffic.event_id,
        event_time=first.traffic.event_time,
        private=frozenset(first.traffic.private),
        cohorts=tuple(dict.fromkeys(cohort for experiment in own for cohort in experiment.traffic.cohorts)),
        headers=_header_names(first),
    )


def breaker_of(model: str, experiments: Sequence[Experiment]) -> Breaker:
    """Return the strictest breaker that a model's experiments ask for, setting by setting.

    A gateway serves all of them, and a disagreement about how early to protect users is no reason to serve none.

    Args:
        model: Registered model name.
        experiments: Every experiment of the installation.
    """
    own = [experiment.breaker for experiment in experiments if experiment.model == model] or [Breaker()]
    budgets = [breaker.latency for breaker in own if breaker.latency is not None]
    return Breaker(
        error_rate=min(breaker.error_rate for breaker in own),
        calls=min(breaker.calls for breaker in own),
        latency=min(budgets, default=None),
        rest=max(breaker.rest for breaker in own),
    )


def _read_alike(experiment: Experiment, field: str) -> object:
    """Return what two experiments of one model must have in common, in a form that can be compared and shown."""
    if field == "headers":
        return _header_names(experiment)
    value = getattr(experiment.traffic, field)
    return sorted(set(value)) if field == "private" else value


def _header_names(experiment: Experiment) -> HeaderNames:
    declared = experiment.traffic.headers.model_dump()
    return HeaderNames(**{field: name and name.lower() for field, name in declared.items()})
