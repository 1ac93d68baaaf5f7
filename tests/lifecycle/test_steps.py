"""Before anybody is exposed, and after: data, evaluation, shadow, comparison, promotion, report."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.lifecycle.conftest import World, flights
from understudy import lifecycle
from understudy.errors import DataMissing, StepNotPassed, UnderstudyError
from understudy.lifecycle.check_data import _parquet
from understudy.lifecycle.evaluate import _answered
from understudy.lifecycle.registry_watch import accept_starts, pending_starts
from understudy.lifecycle.status import status
from understudy.store.runs import RunState
from understudy.verdicts import Outcome

SECRET = "N-SECRET-12345"


def log_requests(world: World, rows: int = 400, frame: pd.DataFrame | None = None) -> None:
    """Log requests as the gateway would: the unit as a pseudonym, private columns left out."""
    requests = flights(5, rows) if frame is None else frame
    features = requests.drop(columns=["tailnum", "pilot", "late"], errors="ignore")
    now = world.clock()
    world.write(
        "requests",
        [
            {
                "event_id": f"e{number}",
                "request_id": f"e{number}",
                "received_at": now - 10,
                "event_time": now - 10,
                "model": world.model,
                "run": None,
                "stage": 0,
                "generation": 1,
                "arm": "unexposed",
                "version": "1",
                "fallback": False,
                "unit": "f" * 32,
                "cohorts": {"origin": row.get("origin")},
                "features": row,
                "prediction": 0.5,
                "error": None,
                "latency_ms": 1.0,
            }
            for number, row in enumerate(features.to_dict("records"))
        ],
    )


def begun(world: World, version: str = "2", **changes: Any) -> str:
    world.declare(**changes)
    return str(world.begin(version)["run_id"])


def refused(step: Callable[[str], dict[str, Any]], run_id: str) -> dict[str, Any]:
    with pytest.raises(StepNotPassed) as caught:
        step(run_id)
    return caught.value.verdict


def parts(verdict: dict[str, Any]) -> dict[str, str]:
    return {part["reason"]: part["outcome"] for part in verdict["parts"]}


def artifacts(world: World, verdict: dict[str, Any]) -> dict[str, str]:
    """Return every text that a step left in MLflow."""
    step_run = verdict["mlflow_url"].rpartition("/")[2]
    folder = Path(world.client.download_artifacts(step_run, ""))
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# check_data


def test_data_that_meets_every_expectation_passes_and_leaves_its_pages_in_mlflow(world: World) -> None:
    run_id = begun(world)
    log_requests(world)
    answer = lifecycle.check_data(run_id)
    assert answer["outcome"] == "PASS"
    assert "All 4 expectations hold" in answer["sentence"]
    assert set(artifacts(world, answer)) == {"data_docs/rows.reference.html", "data_docs/rows.requests.html"}


def test_a_null_among_recent_requests_fails_without_showing_anybodys_row(world: World) -> None:
    run_id = begun(world)
    frame = flights(5, 400)
    frame.loc[7, "hour"] = np.nan
    frame.loc[7, "origin"] = SECRET
    log_requests(world, frame=frame)
    verdict = refused(lifecycle.check_data, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("FAIL", "expectation_failed")
    assert SECRET not in str(verdict) + "".join(artifacts(world, verdict).values())


def test_requests_are_kept_whatever_their_columns_hold() -> None:
    frame = pd.DataFrame(
        {
            "hour": [5.5, np.nan],
            "mixed": ["a", 3],
            "object": [{}, {"origin": "JFK"}],
            "missing": [None, {"deep": [1]}],
            "list": [[1], [2, 3]],
        }
    )
    again = pd.read_parquet(io.BytesIO(_parquet(frame)))
    assert again["hour"].equals(frame["hour"])
    assert again["mixed"].tolist() == ["a", "3"]
    assert again["object"].tolist() == ["{}", "{'origin': 'JFK'}"]
    assert (again["missing"].isna().tolist(), again["missing"][1]) == ([True, False], "{'deep': [1]}")
    assert [list(found) for found in again["list"]] == [[1], [2, 3]]


@pytest.mark.parametrize("step", [lifecycle.check_data, lifecycle.shadow])
def test_without_logged_requests_nothing_is_judged(
    world: World, step: Callable[[str], dict[str, Any]]
) -> None:
    run_id = begun(world)
    with pytest.raises(DataMissing, match="Send traffic"):
        step(run_id)
    assert not world.published().exposed


# evaluate


def test_a_better_challenger_passes_and_its_forecast_is_kept_by_cohort(world: World) -> None:
    run_id = begun(world)
    answer = lifecycle.evaluate(run_id)
    assert answer["outcome"] == "PASS"
    assert set(answer["evidence"]["forecast"]) == {"all", "origin=JFK", "origin=LGA"}
    assert answer["evidence"]["forecast"]["all"]["upper"] < 0
    assert artifacts(world, answer)["paired.csv"].count("\n") == 4
    assert parts(answer)["every_row_answered"] == "PASS"


def test_a_worse_challenger_fails(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("plain", "harmful"))
    verdict = refused(lifecycle.evaluate, begun(world))
    assert (verdict["outcome"], verdict["reason"]) == ("FAIL", "gain_not_proven")


def test_a_gain_that_is_too_small_for_the_spec_does_not_pass(world: World) -> None:
    run_id = begun(world, evaluation={"min_rows": 200, "min_gain": 0.3})
    assert refused(lifecycle.evaluate, run_id)["reason"] == "gain_not_proven"


def test_one_harmed_cohort_fails_though_everyone_together_gains(world: World) -> None:
    frame = flights(3, 3000)
    few = frame.index < 450
    frame["origin"] = np.where(few, "JFK", "LGA")
    frame.loc[few, "late"] = (frame["wind"] < 15).astype(int)[few]
    frame.to_parquet(world.settings.data / "cohort.parquet")
    run_id = begun(world, data=_holdout("cohort.parquet"))
    verdict = refused(lifecycle.evaluate, run_id)
    assert (verdict["outcome"], verdict["cohort"]) == ("FAIL", "origin=JFK")
    assert parts(verdict) == {
        "every_row_answered": "PASS",
        "gain_proven": "PASS",
        "cohort_harmed": "FAIL",
        "cohort_unharmed": "PASS",
    }


def _holdout(name: str) -> dict[str, str]:
    return {"reference": "reference.parquet", "holdout": name, "label": "late"}


UNUSABLE: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no label": (lambda frame: frame.drop(columns="late"), "no column late"),
    "no unit": (lambda frame: frame.drop(columns="tailnum"), "no column tailnum"),
    "too few rows": (lambda frame: frame.head(199), "199 rows.*asks for 200"),
    "rows without an outcome": (
        lambda frame: frame.assign(late=frame["late"].where(frame.index > 2)),
        "3 of 1200 rows",
    ),
    "an outcome that is neither": (lambda frame: frame.assign(late=frame["late"] + 1), "neither 0 nor 1"),
    "an outcome in words": (lambda frame: frame.assign(late="yes"), "1200 of 1200 rows"),
}


@pytest.mark.parametrize(("spoil", "said"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_holdout_that_cannot_judge_is_named_with_the_fix(
    world: World, spoil: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    name = f"{abs(hash(said))}.parquet"
    spoil(flights(3)).to_parquet(world.settings.data / name)
    run_id = begun(world, data=_holdout(name))
    with pytest.raises(DataMissing, match=said):
        lifecycle.evaluate(run_id)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.parquet", lambda path: flights(3).head(0).to_parquet(path)),
        ("letter.parquet", lambda path: path.write_text("Dear reader")),
        ("folder.parquet", lambda path: path.mkdir(exist_ok=True)),
    ],
)
def test_a_dataset_without_rows_starts_nothing(world: World, name: str, write: Callable[[Path], Any]) -> None:
    write(world.settings.data / name)
    with pytest.raises(DataMissing, match=name):
        begun(world, data=_holdout(name))
    assert world.active() is None


def test_an_answer_that_is_no_number_never_passes() -> None:
    assert _answered("2", np.array([0.1, 0.9])).passed
    for bad in (np.nan, np.inf):
        assert _answered("2", np.array([0.1, bad])).outcome is Outcome.ERROR


# shadow

LENIENT = {"requests": 400, "min_requests": 100, "min_agreement": 0.4}


def test_a_challenger_that_answers_alike_passes_the_shadow(world: World) -> None:
    run_id = begun(world, shadow=LENIENT)
    log_requests(world)
    answer = lifecycle.shadow(run_id)
    assert answer["outcome"] == "PASS"
    assert "400 recent requests" in answer["sentence"]


def test_a_challenger_that_decides_the_other_way_round_fails_the_shadow(
    make_world: Callable[..., World],
) -> None:
    world = make_world(versions=("plain", "harmful"))
    run_id = begun(world)
    log_requests(world)
    assert refused(lifecycle.shadow, run_id)["reason"] == "disagreement_too_high"


def test_too_few_requests_decide_nothing(world: World) -> None:
    run_id = begun(world, shadow=LENIENT)
    log_requests(world, rows=99)
    verdict = refused(lifecycle.shadow, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("INCONCLUSIVE", "too_few_requests")


def test_requests_that_the_challenger_cannot_answer_fail_the_shadow(world: World) -> None:
    run_id = begun(world, shadow=LENIENT | {"max_error_rate": 0.9})
    log_requests(world, frame=flights(5, 400).drop(columns="wind"))
    verdict = refused(lifecycle.shadow, run_id)
    assert verdict["outcome"] == "FAIL"
    assert parts(verdict)["error_rate_too_high"] == "FAIL"
    assert parts(verdict)["too_few_requests"] == "INCONCLUSIVE"


# compare, promote, report


def test_a_run_that_did_not_climb_its_ladder_is_not_compared(world: World) -> None:
    run_id = begun(world)
    verdict = refused(lifecycle.compare, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "ladder_not_climbed")


def test_a_climbed_ladder_without_evidence_wins_nothing(world: World) -> None:
    run_id = world.exposed_run(stage=2)
    world.record(run_id, "stage_2")
    verdict = refused(lifecycle.compare, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("INCONCLUSIVE", "undetermined")


@pytest.mark.parametrize("outcome", [None, *(found for found in Outcome if found is not Outcome.PASS)])
def test_only_a_comparison_that_passed_promotes(world: World, outcome: Outcome | None) -> None:
    run_id = world.exposed_run()
    if outcome:
        world.record(run_id, "compare", outcome=outcome)
    with pytest.raises(UnderstudyError, match="Only PASS promotes"):
        lifecycle.promote(run_id)
    assert world.alias() == "1"
    assert world.run(run_id).state is RunState.EXPOSED


def test_a_promotion_may_be_repeated_and_is_written_down_once(world: World) -> None:
    run_id = world.exposed_run()
    world.record(run_id, "compare")
    for _ in range(2):
        assert lifecycle.promote(run_id)["reason"] == "promoted"
    assert (world.alias(), world.alias("challenger")) == ("2", None)
    assert world.actions().count("champion.promoted") == 1
    assert world.published().champion == "2"


def test_the_report_is_kept_in_mlflow_whatever_became_of_the_run(world: World) -> None:
    run_id = world.exposed_run(run_id=begun(world))
    lifecycle.look(run_id, 1)
    lifecycle.abort(run_id, "<script>alert(1)</script> was seen")
    answer = lifecycle.report(run_id)
    assert answer["state"] == "rolling_back"
    page = artifacts(world, answer)["report.html"]
    assert run_id in page
    assert "<script>alert" not in page
    assert lifecycle.report("nobody")["outcome"] == "none"


# where things stand, and the registry door


def test_the_status_says_what_is_served_to_whom_until_when(world: World) -> None:
    run_id = world.exposed_run()
    (found,) = status(world.session, world.model)
    assert (found["run"], found["state"], found["stage"], found["percent"]) == (run_id, "exposed", 1, 10.0)
    assert (found["champion"], found["challenger"], found["lease_seconds_left"]) == ("1", "2", 30.0)
    world.clock.now += 31
    (lapsed,) = status(world.session)
    assert (lapsed["percent"], lapsed["lease_seconds_left"]) == (0.0, 0.0)
    assert status(world.session, "nobody") == []


def test_the_registry_door_asks_for_each_version_once_and_never_for_the_champion(world: World) -> None:
    assert pending_starts() == []
    world.client.set_registered_model_alias(world.model, "challenger", "2")
    (pending,) = pending_starts()
    assert (pending["key"], pending["signal"]) == (f"{world.model}:2", "alias")
    assert pending["experiments"] == ["delay_test"]
    accept_starts({pending["key"]: pending["signal"]})
    assert pending_starts() == []
    world.client.set_registered_model_alias(world.model, "challenger", "1")
    assert pending_starts() == []


def test_a_version_moved_to_staging_asks_to_be_tried_unless_the_spec_says_otherwise(world: World) -> None:
    world.client.transition_model_version_stage(world.model, "2", "Staging")
    assert [found["signal"] for found in pending_starts()] == ["stage"]
    world.declare(registry={"start_on": ["alias"]})
    assert pending_starts() == []


def test_a_start_by_hand_is_not_started_again_by_the_registry_door(world: World) -> None:
    world.begin("2")
    assert world.alias("challenger") == "2"
    assert pending_starts() == []


def test_loading_a_model_leaves_the_environment_of_child_processes_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    before = dict(os.environ)
    world.session.registry.load(world.model, "1")
    assert dict(os.environ) == before
