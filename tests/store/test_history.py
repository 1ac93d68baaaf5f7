"""Which version served whom at a time: the ledger says so, with the entries that put it in force."""

from __future__ import annotations

import pytest

from tests.declared import MODEL
from tests.store.conftest import Clock, Start
from understudy.errors import BadParameter
from understudy.exposure import CHALLENGER, assign
from understudy.record.as_of import Situation
from understudy.record.exported import verify_lines
from understudy.store import Store, exposures, history, ledger, runs
from understudy.store.runs import RunState

BEGIN = 1_700_000_000.0


def asked(store: Store, at: float, model: str = MODEL) -> Situation:
    with store.read() as connection:
        return history.as_of(connection, model, at)


def actions(found: Situation) -> list[str]:
    return [entry.action for entry in found.why]


def raise_to(store: Store, run: runs.Run, stage: int, percent: float, **more: object) -> None:
    with store.write() as connection:
        exposures.raise_to(connection, run.run_id, stage, percent, 30.0, at=store.clock(), **more)  # type: ignore[arg-type]


def renew(store: Store, run: runs.Run) -> None:
    with store.write() as connection:
        assert exposures.renew(connection, run.run_id, 30.0, at=store.clock())


def drop(store: Store) -> None:
    with store.write() as connection:
        exposures.drop(connection, MODEL, actor="a", reason="harm", at=store.clock())


def test_before_the_first_entry_nothing_is_on_record(store: Store, start: Start) -> None:
    start()
    found = asked(store, BEGIN - 1)
    assert (found.in_force, found.why, found.sentence()) == (
        None,
        (),
        "Nothing is on record before that time.",
    )
    assert found.version_for("u", {}) is None


def test_a_model_that_the_ledger_never_heard_of_is_an_error_that_names_those_it_knows(
    store: Store, start: Start
) -> None:
    start()
    with pytest.raises(BadParameter, match=f"knows: {MODEL}"):
        asked(store, BEGIN, "nobody")


def test_a_run_is_followed_from_the_champion_alone_through_its_stages_to_promotion(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    clock.now = BEGIN + 10
    with store.write() as connection:
        exposures.stand_by(connection, run.run_id, mirror=True, at=clock())
    clock.now = BEGIN + 20
    raise_to(store, run, 1, 0.0, rings=[("origin=JFK", 50.0)])
    clock.now = BEGIN + 30
    raise_to(store, run, 1, 10.0, rings=[("origin=JFK", 50.0)])
    clock.now = BEGIN + 40
    with store.write() as connection:
        exposures.contain(connection, run.run_id, ["carrier=AA"], reason="harm", at=clock())
    clock.now = BEGIN + 50
    raise_to(store, run, 2, 100.0)
    clock.now = BEGIN + 60
    with store.write() as connection:
        runs.set_state(connection, run.run_id, RunState.PROMOTING, clock())
        before = exposures.find(connection, MODEL)
        assert before is not None
        promoted = exposures.promote(connection, run.run_id, at=clock())
        body = {
            "champion": "2",
            "before": "1",
            "generation": promoted.generation,
            "lease_before": before.lease_expires_at,
        }
        ledger.append(
            connection, at=clock(), actor="a", action="champion.promoted", model=MODEL, reason="r", body=body
        )

    assert asked(store, BEGIN + 5).sentence() == "Version 1 served everybody."
    assert asked(store, BEGIN + 15).sentence() == "Version 1 served everybody; version 2 scored copies only."
    ring = asked(store, BEGIN + 25)
    assert ring.sentence() == "Version 2 served 50 % of origin=JFK; version 1 served everybody else."
    first = asked(store, BEGIN + 35)
    assert (
        first.sentence()
        == "Version 2 served 10 % of units, 50 % of origin=JFK; version 1 served everybody else."
    )
    assert (first.lease, actions(first)) == ("held", ["champion.adopted", "exposure.raised"])
    assert first.exposure is not None
    assert (first.exposure.run_id, first.exposure.stage, first.exposure.generation) == (run.run_id, 1, 4)
    contained = asked(store, BEGIN + 45)
    assert "except carrier=AA" in contained.sentence()
    assert actions(contained) == ["champion.adopted", "exposure.raised", "cohort.contained"]
    last = asked(store, BEGIN + 55)
    assert (
        "Version 2 served 95 % of units, except carrier=AA;" in last.sentence()
    )  # the holdback is taken off
    assert last.exposure is not None
    assert last.exposure.stage == 2
    promoted_now = asked(store, BEGIN + 60)
    assert (promoted_now.sentence(), actions(promoted_now)) == (
        "Version 2 served everybody.",
        ["champion.promoted"],
    )


def test_the_boundary_belongs_to_the_entry(store: Store, start: Start, clock: Clock) -> None:
    run = start()
    clock.now = BEGIN + 10
    raise_to(store, run, 1, 10.0)
    assert asked(store, BEGIN + 10 - 1e-3).lease == "none"
    assert asked(store, BEGIN + 10).lease == "held"


def test_a_unit_is_told_the_version_that_the_gateway_gave_it(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    raise_to(store, run, 1, 10.0, rings=[("origin=JFK", 50.0)])
    with store.read() as connection:
        exposed = exposures.find(connection, MODEL)
    assert exposed is not None
    clock.now += 5
    drop(store)
    found = asked(store, BEGIN + 3)
    seen = set()
    for number in range(400):
        unit, cohorts = f"unit-{number}", {"origin": ("JFK", "EWR")[number % 2]}
        arm = assign(exposed, unit, BEGIN + 3, cohorts)
        assert found.version_for(unit, cohorts) == ("2" if arm == CHALLENGER else "1")
        seen.add(arm)
    assert len(seen) == 3


def test_a_lease_that_lapsed_before_somebody_dropped_it_served_nobody_since_then(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    raise_to(store, run, 1, 10.0)
    clock.now = BEGIN + 20
    renew(store, run)  # until BEGIN + 50
    clock.now = BEGIN + 500
    drop(store)
    assert asked(store, BEGIN + 49.9).lease == "held"
    lapsed = asked(store, BEGIN + 50)
    assert (lapsed.lease, lapsed.version_for("u", {})) == ("lapsed", "1")
    assert lapsed.sentence() == "Version 1 served everybody; the lease of the exposure had lapsed."
    assert asked(store, BEGIN + 501).lease == "none"


def test_the_lease_of_what_is_still_in_force_is_the_stores(store: Store, start: Start, clock: Clock) -> None:
    run = start()
    raise_to(store, run, 1, 10.0)
    clock.now = BEGIN + 20
    renew(store, run)
    assert asked(store, BEGIN + 45).lease == "held"
    assert asked(store, BEGIN + 60).lease == "lapsed"


def test_where_nobody_wrote_the_lease_down_it_is_said_to_be_unknown(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    raise_to(store, run, 1, 10.0)
    clock.now = BEGIN + 20
    with store.write() as connection:
        body = {"champion": "1", "before": "1", "generation": 9}
        ledger.append(
            connection, at=clock(), actor="a", action="champion.restored", model=MODEL, reason="r", body=body
        )
        exposures.set_champion(connection, MODEL, "1", at=clock())
    found = asked(store, BEGIN + 10)
    assert (found.lease, found.version_for("u", {})) == ("unknown", None)
    assert "unless the lease of version 2 held for 10 % of units" in found.sentence()


def test_a_clock_that_ran_backwards_is_named(store: Store, start: Start, clock: Clock) -> None:
    run = start()
    clock.now = BEGIN + 100
    raise_to(store, run, 1, 10.0)
    clock.now = BEGIN + 50
    drop(store)
    found = asked(store, BEGIN + 60)
    assert found.sentence() == "Version 1 served everybody."
    assert found.doubt == (3,)


def test_an_export_of_a_run_shows_its_entries_and_proves_their_place(either: Store, clock: Clock) -> None:
    with either.write() as connection:
        for number in range(40):
            clock.now += 1
            ledger.append(
                connection, at=clock(), actor="a", action="b", reason="c", model="m" if number % 4 else None,
                run_id=f"r{number % 3}" if number > 5 else None,
            )  # fmt: skip
    with either.read() as connection:
        of_run = list(history.export(connection, 1.0, run_id="r1"))
        of_model = list(history.export(connection, 1.0, model="m", since=BEGIN + 11, until=BEGIN + 20))
        whole = list(history.export(connection, 1.0))
        nothing = list(history.export(connection, 1.0, run_id="nobody"))
        head = ledger.head(connection)
    shown = []
    for text in (of_run, of_model, whole, nothing):
        _, walk, entries = verify_lines(text)
        assert (walk.broken, walk.head) == (None, head)
        shown.append(entries)
    assert shown == [11, 8, 40, 0]
