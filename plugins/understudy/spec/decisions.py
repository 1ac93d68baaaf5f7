"""How much is tolerated before a decision falls, and how wrong the decisions themselves may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from understudy.spec.fields import Declared, Name, Seconds

__all__ = ["Budget", "Limits", "Risk"]


class Limits(Declared):
    """How many looks in a row are tolerated; the next one acts. Each kind has a counter of its own."""

    failures: int = Field(
        0, ge=0, description="Looks in a row at which harm is proven. 0: the first one rolls back."
    )
    errors: int | None = Field(
        None, ge=0, description="Looks in a row that could not measure; none: only the lease ends it."
    )
    inconclusive: int | None = Field(
        None,
        ge=0,
        description="Looks in a row, after the soak, that could not decide; none: only the time-out ends it.",
    )


class Budget(Declared):
    """An error budget: how many bad answers challengers of this model may give."""

    metric: Name = Field(description="A metric of kind error_rate or latency_over; its events are counted.")
    service: int = Field(gt=0, description="Bad challenger answers that all runs of the model may cost.")
    window: Seconds = Field(
        30 * 86400.0, description="How far back the runs of the model count against `service`."
    )
    stage: int | None = Field(None, gt=0, description="Bad challenger answers that one stage may cost.")
    on_spent: Literal["hold", "roll_back"] = Field(
        "roll_back", description="What a spent budget does: never advance, or roll back."
    )


class Risk(Declared):
    """Ceilings for the rehearsal: what the policy itself may get wrong. A spec that misses one is not started."""

    false_promotion: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of runs that promote a challenger whose harm is at a margin, in any world with harm.",
    )
    false_rollback: float | None = Field(
        None, gt=0, lt=1, description="Share of runs that roll back a challenger that is no worse."
    )
    missed_harm: float | None = Field(
        None, gt=0, lt=1, description="Share of runs that promote a challenger with twice a margin of harm."
    )
    harmed_units: float | None = Field(
        None, gt=0, description="Units expected to be exposed before twice a margin of harm is found."
    )
    detection: Seconds | None = Field(
        None, description="Median time until twice a margin of harm is found and rolled back."
    )
    promotion: Seconds | None = Field(
        None, description="Median time until a challenger with the hoped-for gain is promoted."
    )
    hoped_gain: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Gain of the primary that the hypothesis hopes for; default: its margin.",
    )
    replicates: int = Field(400, ge=50, le=20000, description="Simulated runs per world.")
