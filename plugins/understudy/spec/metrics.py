"""What can be measured, and what a measurement may decide."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from understudy.spec.fields import Column, Declared, Name, Seconds

__all__ = ["SERVED_VALUES", "Better", "Metric", "MetricKind", "Role"]

SERVED_VALUES = frozenset({"latency_ms", "cpu_ms", "prediction"})
"""Numbers that every served request carries; every other ``value`` comes with an outcome."""


class MetricKind(StrEnum):
    """What a metric measures."""

    BRIER = "brier"
    LOG_LOSS = "log_loss"
    ACCURACY = "accuracy"
    ERROR_RATE = "error_rate"
    LATENCY_OVER = "latency_over"
    MEAN = "mean"
    RATIO = "ratio"
    PER_UNIT = "per_unit"
    CALIBRATION = "calibration"
    FAIRNESS_GAP = "fairness_gap"

    @property
    def needs_outcome(self) -> bool:
        """Whether the metric can be measured wherever a prediction meets its true outcome, so also offline."""
        return self in (MetricKind.BRIER, MetricKind.LOG_LOSS, MetricKind.ACCURACY)

    @property
    def of_value(self) -> bool:
        """Whether the metric measures a named number."""
        return self in (MetricKind.MEAN, MetricKind.RATIO, MetricKind.PER_UNIT)


class Role(StrEnum):
    """What a metric may decide."""

    PRIMARY = "primary"
    GUARDRAIL = "guardrail"
    WATCHED = "watched"


class Better(StrEnum):
    """Which way a number is better."""

    LOWER = "lower"
    HIGHER = "higher"
    SAME = "same"


class Metric(Declared):
    """One number that is compared between the arms."""

    name: Name = Field(description="How verdicts and charts call it.")
    kind: MetricKind = Field(description="What is measured.")
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
    value: Name | None = Field(
        None,
        description="For mean, ratio and per_unit: a number sent with outcomes, or latency_ms, cpu_ms, prediction.",
    )
    over: Name | None = Field(
        None, description="For ratio: the number below the line, sent with the same outcome."
    )
    better: Better | None = Field(
        None,
        description="For mean, ratio and per_unit: lower, higher, or same (harm is a change in either direction).",
    )
    cap: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Values above this count as this; fix it from past data."
    )
    window: Seconds | None = Field(
        None, description="Outcomes that occur later than this after their event do not count."
    )
    covariate: Literal["history"] | None = Field(
        None,
        description="history: each unit's own past of this metric takes noise away (CUPED).",
    )
    of: Name | None = Field(
        None, description="For fairness_gap: the metric whose gap between groups is meant."
    )
    by: Column | None = Field(None, description="For fairness_gap: the cohort column that forms the groups.")
    dry_run: bool = Field(False, description="Judged and shown, but never decides.")

    @model_validator(mode="after")
    def _has_what_its_kind_and_role_need(self) -> Self:
        if self.role is not Role.WATCHED and self.margin is None:
            raise ValueError(f"a {self.role} metric needs `margin`: the largest harm that is still tolerable")
        if (self.kind is MetricKind.LATENCY_OVER) != (self.limit_ms is not None):
            raise ValueError("`limit_ms` belongs to kind latency_over, and latency_over needs it")
        self._needs(self.kind.of_value, "mean, ratio and per_unit", "value", "better")
        self._needs(self.kind is MetricKind.RATIO, "ratio", "over")
        self._needs(self.kind is MetricKind.FAIRNESS_GAP, "fairness_gap", "of", "by")
        if self.cap is not None and not self.kind.of_value:
            raise ValueError("`cap` belongs to kinds mean, ratio and per_unit; leave it out")
        if self.role is Role.PRIMARY and (self.better is Better.SAME or self.dry_run):
            raise ValueError(
                "the primary must win, so it needs a direction and cannot be a dry run; use another role"
            )
        if self.covariate and self.kind is MetricKind.FAIRNESS_GAP:
            raise ValueError("a fairness_gap follows the metric in `of`; give that one the covariate")
        return self

    def _needs(self, wanted: bool, kinds: str, *fields: str) -> None:
        for field in fields:
            if wanted != (getattr(self, field) is not None):
                raise ValueError(f"`{field}` belongs to {kinds}, and they need it")

    @property
    def decides(self) -> bool:
        """Whether its harm may take exposure back."""
        return self.role is not Role.WATCHED and not self.dry_run

    @property
    def served(self) -> bool:
        """Whether it is known as soon as a request is served, without waiting for an outcome."""
        if self.kind in (MetricKind.ERROR_RATE, MetricKind.LATENCY_OVER):
            return True
        return self.kind.of_value and self.value in SERVED_VALUES and self.over in (None, *SERVED_VALUES)
