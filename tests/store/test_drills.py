"""Results of drills are kept, the newest of each scenario counts, and the ledger has a line for each drill."""

from __future__ import annotations

from understudy.store import Store, drills, ledger
from understudy.store.drills import Drilled


def result(drill: str, scenario: str, passed: bool, at: float, model: str = "m") -> Drilled:
    return Drilled(drill, model, "3", scenario, passed, f"{scenario} é", {"units": 7, "zero_after": None}, at)


def record(store: Store, *found: Drilled) -> None:
    with store.write() as connection:
        drills.record(connection, found, actor="Ada", reason="how it went")


def test_the_newest_result_of_each_scenario_counts(either: Store) -> None:
    first, second = result("a", "slow", False, 1.0), result("a", "drift", True, 1.0)
    record(either, first, second)
    again = result("b", "slow", True, 2.0)
    record(either, again)
    record(either, result("c", "slow", False, 3.0, model="other"))
    with either.read() as connection:
        assert drills.newest(connection, "m") == {"slow": again, "drift": second}
        assert drills.newest(connection, "nobody") == {}


def test_a_drill_is_one_entry_of_the_ledger(either: Store) -> None:
    record(either, result("a", "slow", False, 5.0), result("a", "drift", True, 5.0))
    with either.read() as connection:
        (entry,) = ledger.entries(connection, actions=("drill.finished",))
    assert (entry.model, entry.actor, entry.reason, entry.at) == ("m", "Ada", "how it went", 5.0)
    assert entry.body == {
        "drill": "a",
        "version": "3",
        "passed": False,
        "scenarios": {"slow": False, "drift": True},
    }
