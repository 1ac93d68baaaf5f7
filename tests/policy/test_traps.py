"""Sixteen ways in which rollout systems fail open or judge wrongly: one test each.

Every trap was found in a system that people run (Argo Rollouts, Flagger, Kayenta, GrowthBook, SageMaker, flagd, LaunchDarkly,
MLflow, Great Expectations, Airflow, or published A/A studies). What is not about judging is held in full elsewhere; here
the real thing is only touched:

== ================================================= ======================================================================
#  trap                                              held in full by
== ================================================= ======================================================================
1  nothing was measured, so all is well              test_bad_input, test_properties
2  the limit in the docs is not the limit in the code test_limits, test_budgets, test_look (soak, units, margins)
3  undecided was promoted                            test_ship, test_properties
4  a guardrail is not read until the hold ends       test_look::test_proven_harm_acts
5  a breach is ignored while something else is open  test_look, test_limits, test_containment
6  no guardrail, or one that cannot be measured      tests/spec/test_models.py, test_bad_input
7  a baseline of zero hides the errors               test_look, tests/stats/test_event_split.py
8  what cannot be computed passes                    test_bad_input
9  the arms are swapped                              test_bad_input::test_swapped_arms_swap_the_answer
10 a new hash moves every user                       tests/test_exposure.py (golden units, and flagd itself beside them)
11 rollback asks for approval, a start starts twice  tests/lifecycle/test_rollback.py, test_preregister.py, tests/store/
12 whoever moves the alias last wins                 tests/store/test_exposures.py, test_ledger.py, lifecycle/test_rollback.py
13 a lost webhook is a lost start                    tests/lifecycle/test_steps.py, tests/orchestration/test_triggers.py
14 an empty suite passes                             tests/test_expectations.py
15 no answer, or a refusal, counts as a yes          tests/orchestration/test_triggers.py, tests/dags/test_dags.py
16 looking often, at streams that remember           tests/stats/test_null_worlds.py, the calibration report
== ================================================= ======================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from scipy.stats import binom

from tests import declared
from tests.policy.scenes import (
    EXPERIMENT,
    HARM,
    NEVER,
    NOW,
    SILENT,
    UNDECIDED,
    brier,
    came_to,
    errors,
    evidence,
    judge,
    metrics,
)
from understudy import policy
from understudy.errors import ConcurrentRun, StaleGeneration, SuiteInvalid
from understudy.expectations import load_suite
from understudy.exposure import Exposure, assign
from understudy.lifecycle import registry_watch
from understudy.policy import History, Kind
from understudy.rollback.execute import execute
from understudy.settings import Settings
from understudy.stats.cells import Cells
from understudy.stats.evidence import Evidence, Quality
from understudy.stats.ratio import ArmMoments, difference_arrays
from understudy.store import Store, exposures, ledger, runs
from understudy.verdicts import Outcome, worst_of

NOTHING = Evidence("delay", "r", NOW, Cells.stack([]), Quality())


def test_trap_1_a_run_without_a_single_measurement_never_passes() -> None:
    assert judge(NOTHING).verdict.outcome is Outcome.ERROR
    assert judge(NOTHING, 301).kind is Kind.ROLL_BACK
    assert not policy.compare_online(EXPERIMENT, NOTHING).passed
    assert worst_of([], "fine").outcome is Outcome.ERROR


def test_trap_2_a_limit_of_two_tolerates_two_and_acts_at_the_third() -> None:
    seen, kinds = History(), []
    for _ in range(3):
        decision = judge(HARM, history=seen, limits={"failures": 2})
        seen = decision.history
        kinds.append(decision.kind)
    assert kinds == [Kind.HOLD, Kind.HOLD, Kind.ROLL_BACK]


@pytest.mark.parametrize("seconds", [0.0, 60.0, 300.0, 301.0])
def test_trap_3_what_is_undecided_never_raises_exposure_and_never_ships(seconds: float) -> None:
    decision = judge(UNDECIDED, seconds)
    assert decision.verdict.outcome is Outcome.INCONCLUSIVE
    assert decision.kind is not Kind.ADVANCE
    assert not policy.compare_online(EXPERIMENT, UNDECIDED).passed


def test_trap_4_a_breach_in_the_first_second_of_the_hold_acts_in_that_second() -> None:
    assert came_to(judge(HARM, 0.0)) == (Kind.ROLL_BACK, "guardrail_breached")


WAITING: dict[str, dict[str, Any]] = {
    "for its soak": {"seconds": 1.0},
    "for units": {"seen": replace(HARM, quality=replace(HARM.quality, stages=()))},
    "for fresh events": {"seen": replace(HARM, quality=SILENT.quality)},
    "for a budget": {"budgets": [{"metric": "errors", "service": 1, "on_spent": "hold"}]},
    "with a contained cohort": {"cohorts": ("origin=JFK",), "contained": ("origin=JFK",)},
    "after many undecided looks": {"history": History(inconclusive=99, errors=99)},
    "at a later stage": {"stage": 2},
}


@pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING.keys())
def test_trap_5_a_breach_acts_whatever_the_run_is_waiting_for(waiting: dict[str, Any]) -> None:
    assert came_to(judge(**({"seen": HARM} | waiting))) == (Kind.ROLL_BACK, "guardrail_breached")


def test_trap_6_a_run_without_a_working_guardrail_does_not_start_and_an_unmeasured_one_never_passes() -> None:
    only_primary = [metric for metric in metrics() if metric["role"] == "primary"]
    dry = {"name": "dry", "kind": "error_rate", "role": "guardrail", "margin": 0.1, "dry_run": True}
    for listed in (only_primary, [*only_primary, dry]):
        with pytest.raises(ValidationError, match="nothing could stop a harmful challenger"):
            declared.experiment(metrics=listed)
    assert judge(evidence(brier(-0.05))).kind is Kind.HOLD
    assert not policy.compare_online(EXPERIMENT, evidence(brier(-0.05))).passed


def test_trap_7_errors_are_found_against_a_control_that_never_fails() -> None:
    assert judge(evidence(brier(-0.05), errors(100, 1000))).kind is Kind.ROLL_BACK
    few = judge(evidence(brier(-0.05), errors(0, 40)))
    assert (few.kind, few.verdict.metric) == (Kind.HOLD, "errors")  # zero of forty is not zero


def test_trap_8_a_statistic_that_cannot_be_computed_is_never_a_pass() -> None:
    for cell in (brier(-0.05, spread=0.0), brier(-0.05, units=1), brier(-0.05, units=0)):
        decision = judge(evidence(cell, NEVER))
        assert (decision.kind, decision.verdict.reason) == (Kind.HOLD, "undetermined")


def test_trap_9_a_planted_harm_is_harm_and_the_same_with_swapped_arms_is_a_gain() -> None:
    planted = brier(0.1)
    assert judge(evidence(planted, NEVER)).kind is Kind.ROLL_BACK
    swapped = replace(planted, control=planted.challenger, challenger=planted.control)
    assert policy.compare_online(EXPERIMENT, evidence(swapped, NEVER)).passed


def test_trap_10_units_keep_the_arms_that_were_pinned() -> None:
    five = Exposure("flight-delay", 1, "1", "2", "r", 2, 5.0, lease_expires_at=10)
    arms = {unit: assign(five, unit, 0.0) for unit in ("N7500AA", "N1580AA", "N100AA", "N285AA", "N988AA")}
    assert arms == {
        "N7500AA": "challenger",
        "N1580AA": "challenger",
        "N100AA": "unexposed",
        "N285AA": "unexposed",
        "N988AA": "control",
    }


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    opened = Store.open(Settings.from_env(), lambda: NOW)
    yield opened
    opened.close()


def exposed_run(store: Store) -> runs.Run:
    with store.write() as connection:
        exposures.adopt(connection, declared.MODEL, "1", actor="tests", at=NOW)
        run = create(connection)
        runs.set_state(connection, run.run_id, runs.RunState.EXPOSED, NOW)
        exposures.raise_to(connection, run.run_id, 1, 10.0, 30.0, at=NOW)
    return run


def create(connection: sa.Connection) -> runs.Run:
    return runs.create(
        connection, key="k", spec=EXPERIMENT.frozen(), spec_digest="d" * 64, version="2", champion="1",
        actor="tests", reason="a test", airflow={}, at=NOW,
    )  # fmt: skip


def drop(store: Store) -> Exposure:
    with store.write() as connection:
        return exposures.drop(connection, declared.MODEL, actor="tests", reason="harm", at=NOW)


def test_trap_11_taking_back_asks_nobody_and_may_be_repeated_and_a_start_starts_once(store: Store) -> None:
    asked = set(inspect.signature(execute).parameters)
    assert asked == {"model", "reason", "actor", "key", "target_version", "dry_run"}
    run = exposed_run(store)
    with store.read() as connection:
        assert runs.by_key(connection, "k") == runs.get(connection, run.run_id)
    with pytest.raises(ConcurrentRun), store.write() as connection:
        create(connection)
    assert drop(store) == drop(store)


def test_trap_12_a_promotion_that_a_rollback_overtook_is_void_and_the_past_cannot_be_rewritten(
    store: Store,
) -> None:
    run = exposed_run(store)
    with store.write() as connection:
        runs.set_state(connection, run.run_id, runs.RunState.PROMOTING, NOW)
    drop(store)
    with pytest.raises(StaleGeneration), store.write() as connection:
        exposures.promote(connection, run.run_id, at=NOW)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
        connection.execute(sa.text("DELETE FROM ledger"))
    with store.read() as connection:
        assert ledger.verify(connection) is None


def test_trap_13_a_start_is_found_by_reading_the_registry_though_no_webhook_ever_came(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared.write(tmp_path / "experiments")
    registry = SimpleNamespace(
        versions=lambda model: [],
        alias=lambda model, alias: {"champion": "1", "challenger": "2"}.get(alias),
    )
    doors = SimpleNamespace(
        settings=SimpleNamespace(experiments=tmp_path / "experiments"), store=store, registry=registry
    )
    monkeypatch.setattr(registry_watch, "session", lambda: doors)
    for _ in range(2):  # a reading that was lost is simply repeated
        assert [start["key"] for start in registry_watch.pending_starts()] == ["delay:2"]
    registry_watch.accept_starts({"delay:2": "alias"})
    assert registry_watch.pending_starts() == []


@pytest.mark.parametrize("text", ['{"name": "suite", "expectations": []}', '{"name": "suite"}', "{}"])
def test_trap_14_a_suite_that_checks_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(SuiteInvalid):
        load_suite(tmp_path, "suite")


def test_trap_15_no_answer_in_time_is_a_no_whatever_the_question_was() -> None:
    for seen in (UNDECIDED, SILENT, NOTHING, evidence(stages=())):
        late = judge(seen, 301.0)
        assert (late.kind, late.renew_lease) == (Kind.ROLL_BACK, False)
    for count in range(4):
        history = History(errors=count, inconclusive=count)
        assert judge(SILENT, history=history, limits={"errors": 2}).kind is not Kind.ADVANCE


def _looked_at_all_the_time(runs: int, looks: int) -> Iterator[Cells]:
    """Yield cells of A/A runs in which 60 units an arm return at every look.

    A unit remembers (its own level, and noise with lag-1 autocorrelation 0.3), and all units share a season and a slow
    drift with autocorrelation 0.3.
    """
    rng = np.random.default_rng(16)
    shape = (2, runs, 1, 60)
    level, noise = rng.normal(0, 0.5, shape), rng.normal(0, 1, shape)
    shared = rng.normal(0, 0.5, (runs, 1, 1))
    total, events = np.zeros(shape), np.zeros(shape)
    for look in range(looks):
        noise = 0.3 * noise + np.sqrt(1 - 0.3**2) * rng.normal(0, 1, shape)
        shared = 0.3 * shared + np.sqrt(1 - 0.3**2) * rng.normal(0, 0.5, shared.shape)
        seen = rng.random(shape) < 0.5
        total += np.where(seen, level + noise + shared + np.sin(look / 5), 0.0)
        events += seen
        arms = [ArmMoments.from_units(t[..., None], d[..., None]) for t, d in zip(total, events, strict=True)]
        yield Cells(("brier",), ("brier",), ("all",), *arms)


def test_trap_16_looking_all_the_time_at_streams_that_remember_alarms_no_more_than_promised() -> None:
    number, looks = 400, 60
    found, fooled = np.zeros(number, bool), np.zeros(number, bool)
    experiment = declared.experiment(metrics=metrics(brier_margin=1e-12), planned_events=20_000)
    for cells in _looked_at_all_the_time(number, looks):
        found |= policy.harmed_overall(policy.states(experiment, (), cells))
        estimate, se, *_ = difference_arrays(cells.control, cells.challenger)
        fooled |= (estimate / se > 1.96)[:, 0]
    # Half of 0.05 goes to this metric. With a true rate of that, more alarms than this come once in ten thousand runs.
    assert found.sum() <= binom.ppf(1 - 1e-4, number, 0.025)
    assert fooled.mean() > 0.08  # an ordinary test at the same 0.025 is wrong far more often
