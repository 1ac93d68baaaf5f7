"""Verdicts, rollback points and registry starts."""

from __future__ import annotations

from tests.store.conftest import Start
from understudy.store import Store, records
from understudy.verdicts import Outcome, Verdict


def test_verdicts_come_back_in_the_order_they_fell_and_none_is_overwritten(store: Store) -> None:
    with store.write() as connection:
        for number in range(5):
            verdict = Verdict(Outcome.PASS, "r", f"look {number}", {"n": number})
            step = "shadow" if number == 2 else "stage_1"
            evidence = {"looked": True} if number == 4 else None
            records.record_verdict(connection, "run", step, verdict, at=1.0, stage=1, evidence=evidence)
    with store.read() as connection:
        every = records.verdicts_of(connection, "run")
        last = records.verdicts_of(connection, "run", "stage_1", newest=2)
        assert records.verdicts_of(connection, "other") == []
    assert [item.verdict.sentence for item in every] == [f"look {number}" for number in range(5)]
    assert [item.verdict.evidence for item in last] == [{"n": 3}, {"n": 4}]
    assert [item.evidence for item in last] == [None, {"looked": True}]


def test_the_first_rollback_point_of_a_run_stays(store: Store, start: Start) -> None:
    run = start()
    with store.write() as connection:
        assert records.rollback_point(connection, run.run_id) is None
        for number in range(2):
            records.save_rollback_point(
                connection, run.run_id, run.model, str(number), {"n": number}, "d", at=1.0
            )
        found = records.rollback_point(connection, run.run_id)
    assert found is not None
    assert (found["version"], found["manifest"]) == ("0", {"n": 0})


def test_a_start_of_the_registry_door_is_accepted_once(store: Store) -> None:
    for signal in ("alias", "stage"):
        with store.write() as connection:
            records.accept_starts(connection, {"delay:2": signal, f"delay:{signal}": signal}, at=1.0)
    with store.read() as connection:
        assert records.accepted_starts(connection) == {"delay:2", "delay:alias", "delay:stage"}
