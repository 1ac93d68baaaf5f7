"""What an experiment file says about serving: where the envelope is, when an arm is cut off, how it is tried out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from understudy.spec.fields import Declared, Seconds, below_the_data_folder

__all__ = ["Breaker", "CriticalPath", "Headers", "Spike", "Trial"]

Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=100)]


class Headers(Declared):
    """HTTP headers that stand in for columns; a row's own column wins where it has a value."""

    unit: Header | None = Field(None, description="Header with the randomised unit of every row.")
    event_id: Header | None = Field(
        None,
        description="Header that names the request; rows after the first get `-1`, `-2` and so on appended.",
    )
    event_time: Header | None = Field(
        None, description="Header with the Unix second at which the request's events happened."
    )


class Breaker(Declared):
    """When the gateway stops asking the challenger and answers from the champion, before any look at the evidence."""

    error_rate: float = Field(
        0.5, gt=0, le=1, description="Share of the last calls that failed, timed out or were too slow: open."
    )
    calls: int = Field(20, ge=5, le=10_000, description="How many last calls are judged; fewer open nothing.")
    latency: Seconds | None = Field(
        None, description="A call that takes longer counts as failed, though its answer is used."
    )
    rest: Seconds = Field(
        10.0,
        description="How long it stays open until single calls are let through to see whether it has recovered.",
    )


class CriticalPath(Declared):
    """Requests that the challenger must answer well, one by one, before anybody is exposed."""

    file: str | None = Field(
        None,
        description="JSON-lines file below `UNDERSTUDY_DATA` with made-up requests and the range each answer must lie in; "
        "without one, the newest requests of the log, each of which must be answered with a finite number.",
    )
    requests: int = Field(
        20, ge=1, le=1000, description="How many requests of the log, where no file is named."
    )

    @field_validator("file")
    @classmethod
    def _stays_below_the_data_folder(cls, value: str | None) -> str | None:
        return None if value is None else below_the_data_folder(value)


class Spike(Declared):
    """A burst of traffic that the challenger must survive before anybody is exposed."""

    times: float = Field(
        5.0,
        gt=1,
        le=100,
        allow_inf_nan=False,
        description="Multiple of what one gateway got in the busiest minute of the last day.",
    )
    seconds: Seconds = Field(
        10.0,
        description="Shortest length of the burst; where little traffic comes, it lasts for 100 requests.",
    )
    max_error_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Largest tolerated share of requests without an answer.",
    )
    max_p99: Seconds = Field(1.0, description="Longest tolerated 99th percentile of the time to answer.")


class Trial(Declared):
    """What the challenger must show on a gateway of its own that nobody else is routed to; null leaves a part out."""

    critical_path: CriticalPath | None = Field(
        CriticalPath(), description="Single requests whose answers are checked."
    )
    spike: Spike | None = Field(Spike(), description="A burst of requests from the log.")

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of the lifecycle that are asked for, in their order."""
        asked = {"critical_path": self.critical_path, "spike": self.spike}
        return tuple(step for step, declared in asked.items() if declared is not None)
