"""What an experiment file says about the way back: what it may cost, and who must hear of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from understudy.spec.fields import Declared, Seconds

__all__ = ["Consumer", "Drill", "Restoration", "Scenario"]


class Scenario(StrEnum):
    """What a drill plants, in the order in which it is played."""

    HEALTHY = "healthy"
    DRIFT = "drift"
    MISSING_FEATURES = "missing_features"
    TAG_MISMATCH = "tag_mismatch"
    FLIPPED_SIGN = "flipped_sign"
    SHUFFLED_COHORT = "shuffled_cohort"
    STALE_FEATURE = "stale_feature"
    TRAINING_OUT_OF_SYNC = "training_out_of_sync"
    MISCALIBRATED = "miscalibrated"
    SMALL_HARM = "small_harm"
    NULL_HANDLING = "null_handling"
    SLOW = "slow"
    LATENCY = "latency"
    PARTIAL_DATA = "partial_data"
    TRAFFIC_SPIKE = "traffic_spike"
    REGISTRY_DOWN = "registry_down"
    DATABASE_DOWN = "database_down"
    CONTROL_PLANE_DOWN = "control_plane_down"


class Consumer(Declared):
    """Somebody downstream who uses the model's answers."""

    name: str = Field(min_length=1, max_length=100, description="Team, service or table.")
    contact: str = Field(
        min_length=1, max_length=200, description="Where to reach them: a channel or an address."
    )


class Restoration(Declared):
    """Objectives of a rollback; each rollback records what it measured beside them."""

    duration: Seconds = Field(30.0, description="From the request to the verified end.")
    zero_within: Seconds = Field(1.0, description="From the request to zero exposure in the flag document.")
    accuracy: float = Field(
        1.0, ge=0, le=1, allow_inf_nan=False, description="Share of the parts that are read back as recorded."
    )
    impact: float = Field(
        100.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Largest share of units, in %, whose answers change.",
    )


class Drill(Declared):
    """How well the way back must have been practised before many units may be exposed."""

    above: float = Field(
        5.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Exposure above this share of units, in %, needs drills that passed; 100 asks for none.",
    )
    max_age: Seconds = Field(14 * 86400.0, description="A drill older than this does not count.")
    scenarios: tuple[Scenario, ...] = Field(
        (), description="Which scenarios must have passed; empty: all of them."
    )

    @field_validator("scenarios")
    @classmethod
    def _names_each_once(cls, value: tuple[Scenario, ...]) -> tuple[Scenario, ...]:
        for scenario in value:
            if value.count(scenario) > 1:
                raise ValueError(f"scenario {scenario.value!r} is named twice; name it once")
        return value

    @property
    def demanded(self) -> tuple[Scenario, ...]:
        """The scenarios that must have passed."""
        return self.scenarios or tuple(Scenario)
