"""The start of a run: what it writes down, and every bad start, after which nobody is exposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lifecycle.conftest import World
from tests.servers import free_port
from understudy import lifecycle
from understudy.errors import (
    ArtifactUnloadable,
    BadParameter,
    ConcurrentRun,
    DataMissing,
    NoSuchExperiment,
    NoSuchVersion,
    SpecInvalid,
    SuiteInvalid,
    UnderstudyError,
    Unreachable,
    VersionIncompatible,
)
from understudy.lifecycle import preregister
from understudy.session import Passage
from understudy.store import records
from understudy.store.runs import RunState


def nobody_is_exposed(world: World) -> bool:
    exposure = world.exposure()
    if exposure is None:
        return not world.settings.flags_path.exists()
    return not exposure.exposed and world.published() == exposure


def test_a_start_freezes_the_spec_takes_the_lock_and_proves_the_way_back(world: World) -> None:
    answer = world.begin("2")
    run_id = answer["run_id"]
    assert (answer["outcome"], answer["version"], run_id) == ("PASS", "2", "delay_test-v2-1")
    run = world.run(run_id)
    assert (run.state, run.champion, run.actor) == (RunState.PREPARING, "1", "Ada")
    assert run.spec_digest == world.experiment.digest()
    assert world.alias("challenger") == "2"
    assert answer["evidence"]["cohorts"] == ["origin=JFK", "origin=LGA"]
    with world.store.read() as connection:
        point = records.rollback_point(connection, run_id)
        assert f"{world.model}:2" in records.accepted_starts(connection)
    assert point is not None
    assert (point["version"], point["manifest"]["parts"]["probe"]["count"]) == ("1", 200)
    assert world.actions() == ["champion.adopted", "run.started", "rollback_point.taken"]
    assert nobody_is_exposed(world)


def test_the_start_is_an_mlflow_run_that_leads_back_to_airflow(world: World) -> None:
    answer = world.begin("2")
    mlflow_run = world.run(answer["run_id"]).mlflow_run_id
    found = world.client.get_run(mlflow_run)
    assert found.data.tags["airflow.url"] == "http://airflow/run"
    assert found.data.params["challenger"] == "2"
    assert answer["mlflow_url"].startswith(world.models.uri)


def test_without_a_version_the_alias_challenger_is_taken(world: World) -> None:
    world.client.set_registered_model_alias(world.model, "challenger", "2")
    assert world.begin()["version"] == "2"


def test_the_same_key_twice_is_the_same_run(world: World) -> None:
    first, second = world.begin("2"), world.begin("2")
    assert first["run_id"] == second["run_id"]
    assert world.actions().count("run.started") == 1
    found = world.client.search_runs(
        [world.client.get_experiment_by_name("delay_test").experiment_id],
        f"tags.`understudy.run` = '{first['run_id']}' AND params.model = '{world.model}'",
    )
    assert len(found) == 1


def test_a_start_told_again_to_an_exposed_run_is_answered_although_it_would_be_refused_now(
    world: World,
) -> None:
    first = world.begin("2")
    run_id = world.exposed_run(run_id=first["run_id"])
    before = world.exposure()
    world.client.delete_model_version(world.model, "2")
    again = world.begin("2")
    told = ("run_id", "version", "outcome", "trace_id")
    assert [again[key] for key in told] == [first[key] for key in told]
    assert world.run(run_id).state is RunState.EXPOSED
    assert world.exposure() == before


def test_a_start_that_is_refused_after_another_telling_of_it_has_exposed_the_run_does_not_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(passage: Passage) -> dict[str, Any]:
        world.exposed_run(run_id=passage.run.run_id)
        raise VersionIncompatible("This telling is late.")

    monkeypatch.setattr(preregister, "require_rehearsed", slow)
    with pytest.raises(VersionIncompatible, match="late"):
        world.begin("2")
    run, exposure = world.active(), world.published()
    assert run is not None
    assert run.state is RunState.EXPOSED
    assert (exposure.run_id, exposure.exposed) == (run.run_id, True)


def test_a_key_whose_run_has_ended_starts_nothing(world: World) -> None:
    run_id = world.begin("2")["run_id"]
    lifecycle.abort(run_id, "stopped by a test")
    with pytest.raises(BadParameter, match="stopped by a test"):
        world.begin("2")
    assert world.active() is None


def test_a_second_run_of_the_model_is_refused_and_the_first_is_untouched(world: World) -> None:
    run_id = world.begin("2")["run_id"]
    with pytest.raises(ConcurrentRun, match=run_id):
        world.begin("2", key="start-2")
    assert world.run(run_id).state is RunState.PREPARING
    assert world.actions() == ["champion.adopted", "run.started", "rollback_point.taken"]


INCOMPATIBLE: dict[str, tuple[type[UnderstudyError], str]] = {
    "without signature": (VersionIncompatible, "infer_signature"),
    "spoilt": (ArtifactUnloadable, "cannot be loaded"),
    "needs nobody's column": (VersionIncompatible, "humidity.*Deliver the features"),
    "needs the unit": (VersionIncompatible, "tailnum.*Train it without"),
    "needs the pilot": (VersionIncompatible, "pilot.*Train it without"),
    "needs the label": (VersionIncompatible, "late"),
    "answers classes": (VersionIncompatible, "same output"),
}


@pytest.mark.parametrize(("kind", "expected"), INCOMPATIBLE.items(), ids=INCOMPATIBLE.keys())
def test_a_version_that_cannot_take_the_champions_place_ends_its_run_with_the_fix(
    make_world: Callable[..., World], kind: str, expected: tuple[type[UnderstudyError], str]
) -> None:
    world = make_world(versions=("plain", kind))
    error, said = expected
    with pytest.raises(error, match=said):
        world.begin("2")
    run = world.run("delay_test-v2-1")
    assert run.state is RunState.FAILED
    assert error.code in (run.ending or "")
    assert world.active() is None
    assert world.alias() == "1"
    assert world.alias("challenger") is None
    assert world.actions()[-1] == "run.failed"
    assert nobody_is_exposed(world)


def test_a_champion_that_cannot_be_loaded_is_no_way_back(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("spoilt", "good"))
    with pytest.raises(ArtifactUnloadable, match="Version 1 of"):
        world.begin("2")
    assert nobody_is_exposed(world)


NO_START: dict[str, tuple[str | None, type[UnderstudyError], str]] = {
    "no version and no alias": (None, NoSuchVersion, "challenger"),
    "a version that is not there": ("77", NoSuchVersion, "Registered versions: 1, 2"),
    "no number": ("two", NoSuchVersion, "'two'"),
    "the champion itself": ("1", BadParameter, "champion itself"),
}


@pytest.mark.parametrize(("version", "error", "said"), NO_START.values(), ids=NO_START.keys())
def test_a_challenger_that_is_none_starts_nothing(
    world: World, version: str | None, error: type[UnderstudyError], said: str
) -> None:
    with pytest.raises(error, match=said):
        world.begin(version)
    assert world.active() is None
    assert nobody_is_exposed(world)


def test_without_a_champion_there_is_nothing_to_fall_back_to(world: World) -> None:
    world.client.delete_registered_model_alias(world.model, "champion")
    with pytest.raises(NoSuchVersion, match="nothing to fall back to"):
        world.begin("2")
    assert nobody_is_exposed(world)


def test_a_model_that_is_not_registered_is_named(world: World) -> None:
    world.client.delete_registered_model(world.model)
    with pytest.raises(NoSuchVersion, match=world.model):
        world.begin("2")


def test_a_broken_unknown_or_suiteless_experiment_starts_nothing(world: World) -> None:
    with pytest.raises(NoSuchExperiment, match="Did you mean 'delay_test'"):
        lifecycle.begin("delay_tset", None, "k", "Ada", "r", {})
    world.declare(checks=[{"suite": "nothing", "dataset": "holdout"}])
    with pytest.raises(SuiteInvalid, match="Known suites: rows"):
        world.begin("2")
    (world.settings.experiments / "delay_test.yaml").write_text("name: delay_test\nmodle: x\n")
    with pytest.raises(SpecInvalid, match="Did you mean 'model'"):
        world.begin("2")
    assert nobody_is_exposed(world)


def test_a_missing_holdout_is_named_and_ends_the_run(world: World) -> None:
    world.declare(data={"reference": "reference.parquet", "holdout": "gone.parquet", "label": "late"})
    with pytest.raises(DataMissing, match=r"gone\.parquet"):
        world.begin("2")
    assert world.active() is None
    assert nobody_is_exposed(world)


def test_mlflow_that_is_down_is_unreachable_and_nobody_is_exposed(world: World) -> None:
    with world.mlflow_down(), pytest.raises(Unreachable, match="MLFLOW_TRACKING_URI"):
        world.begin("2")
    assert world.active() is None
    assert nobody_is_exposed(world)


def test_a_gateway_that_is_down_is_unreachable_nobody_is_exposed_and_the_start_may_be_repeated(
    make_world: Callable[..., World],
) -> None:
    world = make_world(gateways=f"http://127.0.0.1:{free_port()}")
    for _ in range(2):
        with pytest.raises(Unreachable, match="UNDERSTUDY_GATEWAY_URLS"):
            world.begin("2")
    run = world.active()
    assert run is not None
    assert run.state is RunState.PREPARING
    assert nobody_is_exposed(world)


def test_a_run_keeps_the_spec_it_was_started_with(world: World) -> None:
    run_id = world.begin("2")["run_id"]
    before = world.experiment
    world.declare(alpha=0.2)
    assert world.session.passage(run_id).experiment == before
