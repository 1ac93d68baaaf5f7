"""Typed models of an experiment file. Unknown fields are refused; every field says what it is for."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from understudy.exposure import LONGEST_LEASE, column_and_value
from understudy.spec.decisions import Budget, Limits, Risk
from understudy.spec.fields import Column, Declared, Name, Seconds, below_the_data_folder
from understudy.spec.metrics import Metric, MetricKind, Role
from understudy.spec.restoration import Consumer, Drill, Restoration
from understudy.spec.serving import Breaker, Headers, Trial
from understudy.spec.stages import Stage, refuse_unless_climbing

__all__ = [
    "Check",
    "Data",
    "Evaluation",
    "Experiment",
    "OffPolicy",
    "Registry",
    "Shadow",
    "Traffic",
]


class Traffic(Declared):
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
    headers: Headers = Field(Headers(), description="Headers that stand in for columns of a request.")
    maturity: Seconds = Field(
        86400.0,
        description="Time after an event until its outcome is certainly known; younger events do not count.",
    )

    @model_validator(mode="after")
    def _keeps_what_is_private_out_of_the_log(self) -> Self:
        named = [column for column in self.cohorts if "=" in column]
        if named:
            raise ValueError(
                f"cohorts are written as column=value, and the column {named[0]!r} has an = itself; rename it"
            )
        logged = {"event_id": (self.event_id,), "event_time": (self.event_time,), "cohorts": self.cohorts}
        for field, columns in logged.items():
            hidden = sorted({self.unit, *self.private} & set(columns))
            if hidden:
                raise ValueError(
                    f"{field} is written to the log, and {hidden[0]!r} is declared as unit or private; name another column"
                )
        return self


class Data(Declared):
    """Labelled datasets, as Parquet files below ``UNDERSTUDY_DATA``."""

    reference: str = Field(description="What the challenger was trained on.")
    holdout: str = Field(description="What neither version has seen.")
    label: Column = Field(description="Column with the true outcome, 0 or 1.")

    @field_validator("reference", "holdout")
    @classmethod
    def _stays_below_the_data_folder(cls, value: str) -> str:
        return below_the_data_folder(value)


class Check(Declared):
    """One Great Expectations suite and the data that it is held against."""

    suite: Name = Field(description="File name in `expectations/`, without `.json`.")
    dataset: Literal["reference", "holdout", "requests"] = Field(
        description="The dataset, or recent logged requests."
    )


class OffPolicy(Declared):
    """Logged decisions whose actions changed what happened next, with the probability of each action."""

    logged: str = Field(description="Parquet file below `UNDERSTUDY_DATA`, one row a decision.")
    action: Column = Field(description="Column with the action taken, 0 or 1.")
    propensity: Column = Field(
        description="Column with the probability with which that action was taken, logged when it was taken."
    )
    reward: Column = Field(description="Column with what came of it; more is better.")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="A version takes action 1 when its prediction is at least this."
    )

    @field_validator("logged")
    @classmethod
    def _stays_below_the_data_folder(cls, value: str) -> str:
        return below_the_data_folder(value)


class Evaluation(Declared):
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
    off_policy: OffPolicy | None = Field(
        None,
        description="Where actions influence outcomes: logged decisions that both versions are valued on.",
    )


class Shadow(Declared):
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


class Registry(Declared):
    """How the MLflow registry starts this experiment and is moved by it."""

    start_on: tuple[Literal["alias", "stage"], ...] = Field(
        ("alias", "stage"),
        description="Start when alias `challenger` is set, or when a version moves to Staging.",
    )
    move_stage: bool = Field(
        False, description="Move the legacy stage (Production, Archived) along with the alias."
    )


class Experiment(Declared):
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
    trial: Trial = Field(
        Trial(),
        description="What the challenger must show on a gateway of its own before anybody is exposed.",
    )
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
    lease: Seconds = Field(
        30.0, le=LONGEST_LEASE, description="Exposure lapses after this unless fresh evidence renews it."
    )
    stale_after: Seconds = Field(
        20.0, description="Evidence whose newest event is older than this is not fresh."
    )
    limits: Limits = Field(Limits(), description="How many looks in a row are tolerated.")
    breaker: Breaker = Field(Breaker(), description="When the gateway stops asking the challenger by itself.")
    cohort_harm: Literal["roll_back", "contain"] = Field(
        "roll_back",
        description="What harm in one cohort does: roll back the run, or send that cohort back to the champion alone.",
    )
    max_contained: int = Field(
        1, ge=1, description="With cohort_harm contain: so many cohorts may go back; one more ends the run."
    )
    budgets: tuple[Budget, ...] = Field((), description="Error budgets: how many bad answers may be spent.")
    risk: Risk | None = Field(
        None, description="Ceilings that the rehearsed policy must meet, or the run does not start."
    )
    registry: Registry = Field(Registry(), description="How the MLflow registry starts and follows it.")
    consumers: tuple[Consumer, ...] = Field((), description="Who uses the answers; told after a rollback.")
    rollback: Restoration = Field(Restoration(), description="Objectives of a rollback.")
    drill: Drill = Field(
        Drill(), description="How well the way back must have been practised before many units are exposed."
    )

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
        if not any(metric.role is Role.GUARDRAIL and metric.decides for metric in value):
            raise ValueError(
                "at least one metric must have role guardrail, and no dry run, or nothing could stop a harmful challenger"
            )
        for metric in value:
            if metric.kind is MetricKind.FAIRNESS_GAP:
                _refuse_unknown_of(metric, value)
        return value

    @field_validator("stages")
    @classmethod
    def _stages_climb(cls, value: tuple[Stage, ...]) -> tuple[Stage, ...]:
        refuse_unless_climbing(value)
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
        for metric in self.metrics:
            if metric.by is not None and metric.by not in self.traffic.cohorts:
                raise ValueError(
                    f"{metric.name} compares groups by {metric.by!r}, which is not in traffic.cohorts; add it there"
                )
        self._rings_can_be_told()
        self._budgets_can_be_counted()
        _refuse_repeats("consumer", [consumer.name for consumer in self.consumers])
        _refuse_repeats("check", [f"{check.suite} on {check.dataset}" for check in self.checks])
        return self

    def _rings_can_be_told(self) -> None:
        for stage in self.stages:
            for column in (column_and_value(cohort)[0] for cohort in stage.ring):
                if column not in self.traffic.cohorts:
                    raise ValueError(
                        f"a ring is a cohort, and its column {column!r} is not in traffic.cohorts; add it there"
                    )
                if "." in column:
                    raise ValueError(
                        f"OpenFeature's SDKs look up a column with a dot, like {column!r}, somewhere else; rename it"
                    )

    def _budgets_can_be_counted(self) -> None:
        counted = {
            metric.name
            for metric in self.metrics
            if metric.kind in (MetricKind.ERROR_RATE, MetricKind.LATENCY_OVER) and not metric.covariate
        }
        for budget in self.budgets:
            if budget.metric not in counted:
                raise ValueError(
                    f"a budget counts bad answers, and {budget.metric!r} is no metric of kind error_rate or latency_over "
                    "without a covariate"
                )
        _refuse_repeats("budget", [budget.metric for budget in self.budgets])

    @property
    def primary(self) -> Metric:
        """The metric that the challenger must win."""
        return next(metric for metric in self.metrics if metric.role is Role.PRIMARY)

    @property
    def deciding(self) -> tuple[Metric, ...]:
        """The metrics whose harm rolls back: the primary and the guardrails, dry runs left out."""
        return tuple(metric for metric in self.metrics if metric.decides)

    def digest(self) -> str:
        """Return the SHA-256 of the experiment's content, whatever its file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def frozen(self) -> dict[str, Any]:
        """Return the experiment as JSON-safe data; :meth:`model_validate` reads it back."""
        return self.model_dump(mode="json")


def _refuse_unknown_of(gap: Metric, metrics: tuple[Metric, ...]) -> None:
    measured = {metric.name for metric in metrics if metric.kind is not MetricKind.FAIRNESS_GAP}
    if gap.of not in measured:
        raise ValueError(
            f"{gap.name} is the gap of {gap.of!r}, which is no other metric; name one of {sorted(measured)}"
        )


def _refuse_repeats(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r} is declared twice; give each its own name")
