"""The exposure ladder: its stages, the rings that go first, and whom each stage reaches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from understudy.exposure import RING_PERCENT, column_and_value
from understudy.spec.fields import Declared, Seconds

__all__ = ["Reach", "Stage", "reach_of", "refuse_unless_climbing"]


class Stage(Declared):
    """One step of the exposure ladder."""

    percent: float = Field(
        ge=0.001,
        le=100,
        allow_inf_nan=False,
        description="Share of units on the challenger; control is as large. A thousandth of a percent is the finest.",
    )
    ring: tuple[str, ...] = Field(
        (),
        description="Cohorts, as column=value, of which this share is exposed and nobody else; empty: of everyone.",
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

    @property
    def shown(self) -> str:
        """Whom the stage exposes, in words."""
        return f"{self.percent:g} % of {', '.join(self.ring) or 'units'}"

    @field_validator("ring")
    @classmethod
    def _names_cohorts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for cohort in value:
            if value.count(cohort) > 1:
                raise ValueError(f"ring {cohort!r} is named twice; name it once")
            if not column_and_value(cohort)[1]:
                raise ValueError(f"{cohort!r} is no ring: who has no value in a column belongs to no ring")
        return value

    @model_validator(mode="after")
    def _leaves_a_control_as_large(self) -> Self:
        if self.ring and self.percent > RING_PERCENT:
            raise ValueError(
                f"a ring stage exposes at most {RING_PERCENT:g} %, not {self.percent:g} %: its control must be as large"
            )
        return self

    @model_validator(mode="after")
    def _leaves_time_to_pass(self) -> Self:
        if self.timeout <= self.soak:
            raise ValueError(f"timeout ({self.timeout:g}s) must be longer than soak ({self.soak:g}s)")
        return self


class Reach(NamedTuple):
    """Whom a stage exposes.

    Attributes:
        percent: Share of everybody; 0 at a ring stage.
        rings: Cohorts that may be exposed further, with their percent.
    """

    percent: float
    rings: dict[str, float]


def reach_of(stages: Sequence[Stage], number: int) -> Reach:
    """Return whom a stage of a ladder exposes. A ring keeps what an earlier stage gave it.

    Args:
        stages: The ladder.
        number: Index of the stage, from 1.
    """
    rings: dict[str, float] = {}
    for stage in stages[:number]:
        for cohort in stage.ring:
            rings[cohort] = max(stage.percent, rings.get(cohort, 0.0))
    present = stages[number - 1]
    return Reach(0.0 if present.ring else present.percent, rings)


def refuse_unless_climbing(stages: Sequence[Stage]) -> None:
    """Refuse a ladder on which anybody would be exposed less than before, or a stage that exposes nobody more.

    Raises:
        ValueError: With the stages in question.
    """
    everyone = [stage for stage in stages if not stage.ring]
    if any(later.ring and not earlier.ring for earlier, later in pairwise(stages)) or not everyone:
        raise ValueError("ring stages come first, and at least one stage for everyone after them")
    if any(later.percent <= earlier.percent for earlier, later in pairwise(everyone)):
        shown = " → ".join(f"{stage.percent:g}" for stage in everyone)
        raise ValueError(f"stages must climb, but are {shown}; order them by percent without repeats")
    for number, stage in enumerate(stages[: -len(everyone)], 1):
        before = reach_of(stages, number - 1).rings if number > 1 else {}
        known = [before.get(cohort, 0.0) for cohort in stage.ring]
        if max(known) > stage.percent or min(known) >= stage.percent:
            raise ValueError(
                f"stage {number} exposes {stage.percent:g} % of {', '.join(stage.ring)}, which have {max(known):g} % "
                "already; a ring stage adds a cohort or raises its percent"
            )
