from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from understudy.errors import DataMissing
from understudy.orchestration.intake import accept, announce, plan_starts

START = {
    "key": "flights:2",
    "model": "flights",
    "version": "2",
    "signal": "alias",
    "experiments": ["one", "two"],
}


class Emission:
    """The part of an outlet event that the intake uses."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.extra: dict[str, Any] = {}

    def add_partitions(self, keys: list[str]) -> None:
        self.keys += keys


def test_every_pending_start_is_announced_under_its_own_key_and_then_accepted(lifecycle: Any) -> None:
    other = START | {"key": "flights:3", "version": "3", "signal": "stage"}
    lifecycle.answers = {"pending_starts": [[START, other]], "accept_starts": None}
    emission = Emission()
    announced = announce(emission)
    assert emission.keys == ["flights:2", "flights:3"]
    assert not lifecycle.called("accept_starts"), "Airflow has not committed the announcement yet"
    accept(announced)
    assert lifecycle.calls[-1] == ("accept_starts", {"flights:2": "alias", "flights:3": "stage"})


def test_nothing_pending_announces_nothing(lifecycle: Any) -> None:
    lifecycle.answers["pending_starts"] = [[]]
    emission = Emission()
    with pytest.raises(AirflowSkipException):
        announce(emission)
    assert emission.keys == []


def event(**starts: Any) -> Any:
    return SimpleNamespace(extra={"starts": {start["key"]: start for start in starts.values()}})


def test_a_key_starts_each_experiment_of_its_model_once_by_a_fixed_id() -> None:
    plan = plan_starts("flights:2", [event(other=START | {"key": "flights:3"}), event(first=START)])
    assert plan == [
        {
            "dag_to_start": f"experiment__{name}",
            "run_id_to_start": "registry__flights:2",
            "conf": {
                "version": "2",
                "reason": "Version 2 of flights got the alias challenger in the registry.",
            },
        }
        for name in ("one", "two")
    ]


def test_keys_that_airflow_merged_are_read_from_the_newest_event() -> None:
    plan = plan_starts("flights:2", [event(first=START), event(first=START | {"signal": "stage"})])
    assert plan[0]["conf"]["reason"] == "Version 2 of flights was moved to Staging in the registry."


@pytest.mark.parametrize("events", [[], [SimpleNamespace(extra={})]])
def test_a_key_that_nobody_announced_starts_nothing(events: list[Any]) -> None:
    with pytest.raises(DataMissing, match="not announced by registry_intake"):
        plan_starts("flights:2", events)
