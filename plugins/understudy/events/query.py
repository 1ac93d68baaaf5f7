"""What to look for in the event log: metrics, cohorts, maturity, planned shares."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.stats.losses import LABEL_KINDS, SERVED_KINDS

__all__ = ["ARMS", "MISSING", "SERVED_VALUES", "VALUE_KINDS", "EvidenceQuery", "MetricQuery"]

ARMS = ("control", "challenger")
MISSING = "(missing)"
"""Cohort value of events that do not name theirs."""

SERVED_VALUES = frozenset({"latency_ms", "cpu_ms", "prediction"})
"""Numbers that every served request carries; every other number comes with an outcome."""

VALUE_KINDS = frozenset({"mean", "ratio", "per_unit"})
KINDS = LABEL_KINDS | SERVED_KINDS | VALUE_KINDS | {"calibration"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BETTER = ("lower", "higher", "same")


@dataclass(frozen=True)
class MetricQuery:
    """A metric to measure.

    Attributes:
        name: how the evidence calls it.
        kind: one of the kinds of an experiment file, fairness_gap left out (it is derived from another's cells).
        limit_ms: for latency_over, what counts as slow.
        value: for mean, ratio and per_unit, the number above the line.
        over: for ratio, the number below the line.
        better: for mean, ratio and per_unit; "higher" turns the sign, so that more is worse on the harm scale.
        cap: for mean, ratio and per_unit; larger values count as this.
        window: seconds; an outcome that occurred later than this after its event does not count.
        covariate: "history" gathers each unit's own past of the metric beside it.
    """

    name: str
    kind: str
    limit_ms: float | None = None
    value: str | None = None
    over: str | None = None
    better: str | None = None
    cap: float | None = None
    window: float | None = None
    covariate: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of {self.name!r} is {self.kind!r}; it must be one of {sorted(KINDS)}")
        if self.kind == "latency_over" and self.limit_ms is None:
            raise ValueError(f"{self.name!r} has no limit_ms; latency_over needs one")
        for wanted, given, what in (
            (self.kind in VALUE_KINDS, self.value, "value"),
            (self.kind == "ratio", self.over, "over"),
        ):
            if wanted != (given is not None) or (given is not None and not _NAME.fullmatch(given)):
                raise ValueError(
                    f"{what} of {self.name!r} is {given!r}; {self.kind} needs {'a' if wanted else 'no'} name there"
                )
        if self.kind in VALUE_KINDS and self.better not in _BETTER:
            raise ValueError(f"better of {self.name!r} is {self.better!r}; it must be one of {_BETTER}")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the numbers that it needs beside the prediction: "outcome", or numbers sent with outcomes."""
        if self.kind in LABEL_KINDS or self.kind == "calibration":
            return ("outcome",)
        named = dict.fromkeys(name for name in (self.value, self.over) if name is not None)
        return tuple(name for name in named if name not in SERVED_VALUES)

    @property
    def served(self) -> bool:
        """Whether it is known as soon as a request is served."""
        return not self.inputs

    @property
    def per_unit(self) -> bool:
        """Whether its denominator counts units."""
        return self.kind == "per_unit"

    @property
    def follows_units(self) -> bool:
        """Whether something must be taken in once per unit, not per event."""
        return self.per_unit or self.covariate is not None

    def ripe_after(self, maturity: float) -> float:
        """Return the age, in seconds of event time, at which an event counts: nobody is asked before it is certain."""
        return 0.0 if self.served else max(maturity, self.window or 0.0)


@dataclass(frozen=True)
class EvidenceQuery:
    """What to look for.

    Attributes:
        model: registered model name.
        metrics: what to measure.
        cohorts: names of the cohort columns; every value seen becomes a cohort of its own.
        maturity: seconds of event time after which an event's outcome is certainly known, if it ever will be.
        shares: planned shares per stage, ``{stage: {"control": .., "challenger": ..}}`` in any scale; units
            seen in a stage that is not listed make the sample-ratio test alarm.
        versions: version that each arm must be answered by; an event answered by another one is counted apart.
            Empty: not checked.
    """

    model: str
    metrics: tuple[MetricQuery, ...]
    cohorts: tuple[str, ...] = ()
    maturity: float = 0.0
    shares: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.maturity >= 0 and math.isfinite(self.maturity)):
            raise ValueError(f"maturity is {self.maturity!r}; it must be a number of seconds, zero or more")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"metrics are {names}; each needs a name of its own")

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the numbers that are read from outcomes, beside the outcome itself."""
        wanted = {name for metric in self.metrics for name in metric.inputs} - {"outcome"}
        return tuple(sorted(wanted))

    @property
    def labels(self) -> tuple[int, ...]:
        """Positions of the metrics that wait for an outcome."""
        return tuple(index for index, metric in enumerate(self.metrics) if not metric.served)

    @property
    def digest(self) -> str:
        """Fingerprint of everything that decides what is counted; increments of another one are not merged."""
        content: dict[str, Any] = {
            "metrics": [asdict(metric) for metric in self.metrics],
            "cohorts": self.cohorts,
            "maturity": self.maturity,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
