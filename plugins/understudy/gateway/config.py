"""What one gateway process is told at its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import NoSuchExperiment, SpecInvalid
from understudy.spec import Experiment

__all__ = ["GatewayConfig", "TrafficColumns", "traffic_of"]


@dataclass(frozen=True)
class TrafficColumns:
    """Which columns of a request mean what.

    Attributes:
        unit: Column of the randomised unit.
        event_id: Column that names the request, if clients send one.
        event_time: Column with the Unix second at which the event happened, if clients send one.
        private: Columns that are never written anywhere.
        cohorts: Columns whose values are logged as cohorts.
    """

    unit: str
    event_id: str | None
    event_time: str | None
    private: frozenset[str]
    cohorts: tuple[str, ...]

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
        mirror_queue: Batches that may wait for the mirror; more are dropped and counted.
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
    mirror_queue: int = 256
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
        for field in ("unit", "event_id", "event_time", "private"):
            ours, theirs = getattr(first.traffic, field), getattr(other.traffic, field)
            same = set(ours) == set(theirs) if field == "private" else ours == theirs
            if not same:
                raise SpecInvalid(
                    f"{first.name} and {other.name} are both about model {model!r}, but traffic.{field} is {ours!r} in "
                    f"one and {theirs!r} in the other. One gateway serves both, so they must be the same."
                )
    return TrafficColumns(
        unit=first.traffic.unit,
        event_id=first.traffic.event_id,
        event_time=first.traffic.event_time,
        private=frozenset(first.traffic.private),
        cohorts=tuple(dict.fromkeys(cohort for experiment in own for cohort in experiment.traffic.cohorts)),
    )
