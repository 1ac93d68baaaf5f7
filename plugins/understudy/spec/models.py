"""Typed models of an experiment file. Unknown fields are refused; every field says what it is for."""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "Check",
    "Data",
    "Evaluation",
    "Experiment",
    "Metric",
    "MetricKind",
    "Registry",
    "Role",
    "Shadow",
    "Stage",
    "Traffic",
]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def _seconds(value: object) -> object:
    """Turn ``90``, ``"90s"``, ``"5m"``, ``"2h"`` or ``"7d"`` into seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError(
                f"{value!r} is not a duration; write a number and a unit, like 30s, 5m, 2h or 7d"
            )
        return float(match[1]) * _UNITS[match[2]]
    return value


Seconds = Annotated[
    float,
    BeforeValidator(
        _seconds, json_schema_input_type=float | Annotated[str, Field(pattern=f"^{_DURATION.pattern}$")]
    ),
    Field(gt=0, allow_inf_nan=False),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Column = Annotated[str, Field(min_length=1, max_length=120)]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class MetricKind(StrEnum):
    """What a metric measures on each event."""

    BRIER = "brier"
    LOG_LOSS = "log_loss"
    ACCURACY = "accuracy"
    ERROR_RATE = "error_rate"
    LATENCY_OVER = "latency_over"

    @property
    def needs_outcome(self) -> bool:
        """Whether the metric waits for the event's outcome."""
        return self in (MetricKind.BRIER, MetricKind.LOG_LOSS, MetricKind.ACCURACY)


class Role(StrEnum):
    """What a metric may decide."""

    PRIMARY = "primary"
    GUARDRAIL = "guardrail"
    WATCHED = "watched"


class Traffic(_Declared):
    """How requests are read: who is randomised, what is private, which cohorts are told apart."""

    unit: Column = Field(
        description="Column with the randomised unit; it never reaches the model or a log in clear."
    )
    event_id: Column | None = Field(
        None, description="Column that names the request, so that its outcome finds it."
    )
    event_time: Column | None = Field(
        None, description="Column with the Unix second at which the event happened."
    )
    private: tuple[Column, ...] = Field((), description="Columns that are never written anywhere.")
    cohorts: tuple[Column, ...] = Field((), description="Columns whose values are judged one by one.")
    maturity: Seconds = Field(
        86400.0,
        description="Time after an event until its outcome is certainly known; younger events do not count.",
    )

    @model_validator(mode="after")
    def _keeps_what_is_private_out_of_the_log(self) -> Self:
        logged = {"event_id": (self.event_id,), "event_time": (self.event_time,), "cohorts": self.cohorts}
        for field, columns in logged.items():
            hidden = sorted({self.unit, *self.private} & set(columns))
            if hidden:
                raise ValueError(
                    f"{field} is written to the log, and {hidden[0]!r} is declared as unit or private; name another column"
                )
        return self


class Data(_Declared):
    """Labelled datasets, as Parquet files below ``UNDERSTUDY_DATA``."""

    reference: str = Field(description="What the challenger was trained on.")
    holdout: str = Field(description="What neither version has seen.")
    label: Column = Field(description="Column with the true outcome, 0 or 1.")

    @field_validator("reference", "holdout")
    @classmethod
    def _stays_below_the_data_folder(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r} leaves the data folder; give a path relative to UNDERSTUDY_DATA")
        return value


class Check(_Declared):
    """One Great Expectations suite and the data that it is held against."""

    suite: Name = Field(description="File name in `expectations/`, without `.json`.")
    dataset: Literal["reference", "holdout", "requests"] = Field(
        description="The dataset, or recent logged requests."
    )


class Metric(_Declared):
    """One number that is compared between the arms."""

    name: Name = Field(description="How verdicts and charts call it.")
    kind: MetricKind = Field(description="What is measured on each event.")
    role: Role = Field(
        description="primary must win, guardrail must not be worse than its margin, watched is shown."
    )
    margin: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Largest tolerated harm, as an absolute difference of the metric.",
    )
    limit_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="For latency_over: what counts as slow."
    )

    @model_validator(mode="after")
    def _has_what_its_kind_and_role_need(self) -> Self:
        if self.role is not Role.WATCHED and self.margin is None:
            raise ValueError(f"a {self.role} metric needs `margin`: the largest harm that is still tolerable")
        if (self.kind is MetricKind.LATENCY_OVER) != (self.limit_ms is not None):
            raise ValueError("`limit_ms` belongs to kind latency_over, and latency_over needs it")
        return self


class Evaluation(_Declared):
    """What the challenger must show offline, on the holdout, paired with the champion."""

    min_gain: float = Field(
        0.0,
        allow_inf_nan=False,
        description="Lower bound of the primary's gain must be at least this; may be negative.",
    )
    max_cohort_loss: float = Field(
        0.02, gt=0, allow_inf_nan=False, description="No cohort may be proven worse by more than this."
    )
    min_rows: int = Field(1000, ge=2, description="Fewer labelled rows than this decide nothing.")


class Shadow(_Declared):
    """What the challenger must show on recent requests before anyone sees its answers."""

    requests: int = Field(
        5000, ge=100, description="How many recent requests are replayed through both versions."
    )
    min_requests: int = Field(500, ge=1, description="Fewer than this decide nothing.")
    max_score_shift: float = Field(
        0.1, gt=0, le=1, description="Largest tolerated shift of the mean predicted probability."
    )
    min_agreement: float = Field(
        0.7, gt=0, le=1, description="Smallest share of requests on which both versions decide alike at 0.5."
    )
    mirror: Seconds | None = Field(
        None, description="How long live requests are also copied to the challenger; nobody sees its answers."
    )
    max_error_rate: float = Field(
        0.0, ge=0, lt=1, description="Largest tolerated share of requests that cannot be scored."
    )


class Stage(_Declared):
    """One step of the exposure ladder."""

    percent: float = Field(
        ge=0.001,
        le=100,
        allow_inf_nan=False,
        description="Share of units on the challenger; control is as large. A thousandth of a percent is the finest.",
    )
    soak: Seconds = Field(description="Shortest time at this stage.")
    timeout: Seconds = Field(
        description="Longest time at this stage; a stage that has not passed by then is rolled back."
    )
    min_units: int = Field(ge=2, description="Units that each arm must have before the stage may pass.")
    margin_scale: float = Field(
        1.0,
        ge=1,
        le=100,
        description="Margins are multiplied by this while exposure is small and evidence thin.",
    )

    @model_validator(mode="after")
    def _leaves_time_to_pass(self) -> Self:
        if self.timeout <= self.soak:
            raise ValueError(f"timeout ({self.timeout:g}s) must be longer than soak ({self.soak:g}s)")
        return self


class Registry(_Declared):
    """How the MLflow registry starts this experiment and is moved by it."""

    start_on: tuple[Literal["alias", "stage"], ...] = Field(
        ("alias", "stage"),
        description="Start when alias `challenger` is set, or when a version moves to Staging.",
    )
    move_stage: bool = Field(
        False, description="Move the legacy stage (Production, Archived) along with the alias."
    )


class Experiment(_Declared):
    """One experiment: what is tried, what must not break, how it is exposed, when it starts."""

    name: Name = Field(description="Lower case, digits and underscores; the file's own name.")
    model: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100, description="Registered MLflow model."
    )
    owner: str = Field(min_length=1, max_length=80, description="Who answers for it; the owner of the DAG.")
    description: str = Field(min_length=1, description="What the model is for, in a sentence.")
    hypothesis: str = Field(min_length=1, description="What is expected to get better, by how much, and why.")
    tags: tuple[str, ...] = Field((), description="Tags of the DAG.")
    schedule: str | None = Field(None, description="Cron expression of scheduled starts.")
    traffic: Traffic = Field(description="How requests are read.")
    data: Data = Field(description="Labelled datasets.")
    checks: tuple[Check, ...] = Field(min_length=1, description="Suites that data must meet before exposure.")
    metrics: tuple[Metric, ...] = Field(min_length=1, description="One primary, one or more guardrails.")
    evaluation: Evaluation = Field(Evaluation(), description="What must be shown offline.")
    shadow: Shadow = Field(Shadow(), description="What must be shown on replayed requests.")
    stages: tuple[Stage, ...] = Field(min_length=1, description="The exposure ladder, climbing.")
    alpha: float = Field(
        0.05,
        gt=0,
        le=0.2,
        allow_inf_nan=False,
        description="Error budget of false rollbacks, shared by all metrics.",
    )
    planned_events: int = Field(
        ge=100, description="Events of both arms expected by the last stage; tunes the intervals."
    )
    look_every: Seconds = Field(5.0, description="Time between two looks at the evidence.")
    lease: Seconds = Field(30.0, description="Exposure lapses after this unless fresh evidence renews it.")
    stale_after: Seconds = Field(
        20.0, description="Evidence whose newest event is older than this is not fresh."
    )
    registry: Registry = Field(Registry(), description="How the MLflow registry starts and follows it.")

    @field_validator("schedule")
    @classmethod
    def _is_a_cron_expression(cls, value: str | None) -> str | None:
        from croniter import croniter

        if value is not None and not (
            croniter.is_valid(value) and (value[0] == "@" or len(value.split()) == 5)
        ):
            raise ValueError(f"{value!r} is not a cron expression of five fields, like '0 6 * * 1'")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics_can_decide(cls, value: tuple[Metric, ...]) -> tuple[Metric, ...]:
        _refuse_repeats("metric", [metric.name for metric in value])
        if sum(metric.role is Role.PRIMARY for metric in value) != 1:
            raise ValueError("exactly one metric must have role primary: it is what the challenger must win")
        if not any(metric.role is Role.GUARDRAIL for metric in value):
            raise ValueError(
                "at least one metric must have role guardrail, or nothing could stop a harmful challenger"
            )
        return value

    @field_validator("stages")
    @classmethod
    def _stages_climb(cls, value: tuple[Stage, ...]) -> tuple[Stage, ...]:
        percents = [stage.percent for stage in value]
        if any(later <= earlier for earlier, later in pairwise(percents)):
            shown = " → ".join(f"{percent:g}" for percent in percents)
            raise ValueError(f"stages must climb, but are {shown}; order them by percent without repeats")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lease < 2 * self.look_every:
            raise ValueError(
                f"lease ({self.lease:g}s) must be at least twice look_every ({self.look_every:g}s), "
                "or one slow look would end the exposure"
            )
        if self.stale_after >= self.lease:
            raise ValueError(
                f"stale_after ({self.stale_after:g}s) must be shorter than lease ({self.lease:g}s)"
            )
        _refuse_repeats("check", [f"{check.suite} on {check.dataset}" for check in self.checks])
        return self

    @property
    def primary(self) -> Metric:
        """The metric that the challenger must win."""
        return next(metric for metric in self.metrics if metric.role is Role.PRIMARY)

    @property
    def deciding(self) -> tuple[Metric, ...]:
        """The metrics whose harm rolls back: the primary and the guardrails."""
        return tuple(metric for metric in self.metrics if metric.role is not Role.WATCHED)

    def digest(self) -> str:
        """Return the SHA-256 of the experiment's content, whatever its file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def frozen(self) -> dict[str, Any]:
        """Return the experiment as JSON-safe data; :meth:`model_validate` reads it back."""
        return self.model_dump(mode="json")


def _refuse_repeats(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r} is declared twice; give each its own name")
