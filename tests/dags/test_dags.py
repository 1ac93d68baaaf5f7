from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
HEAVY = {"mlflow", "great_expectations", "duckdb", "sklearn", "pandas", "numpy", "scipy", "fastapi", "altair"}

GOOD = """
name: {name}
model: {model}
owner: ana
description: Tries weather features.
hypothesis: Fewer wrong forecasts.
schedule: {schedule}
tags: [flights]
traffic: {{unit: tailnum}}
data: {{reference: a.parquet, holdout: b.parquet, label: late}}
checks: [{{suite: flights_training, dataset: holdout}}]
metrics:
  - {{name: brier, kind: brier, role: primary, margin: 0.01}}
  - {{name: errors, kind: error_rate, role: guardrail, margin: 0.01}}
stages:
  - {{percent: 1, soak: 5s, timeout: 60s, min_units: 10}}
  - {{percent: 50, soak: 5s, timeout: 60s, min_units: 10}}
planned_events: 1000
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process parses everything that these tests look at; importing Airflow takes longer than all of them."""
    good = tmp_path_factory.mktemp("good")
    (good / "first.yaml").write_text(GOOD.format(name="first", model="flights", schedule="'0 6 * * 1'"))
    untried = GOOD.format(name="second", model="flights", schedule="null")
    (good / "second.yaml").write_text(untried + "trial: {critical_path: null, spike: null}\n")
    mixed = tmp_path_factory.mktemp("mixed")
    (mixed / "first.yaml").write_text((good / "first.yaml").read_text())
    (mixed / "typo.yaml").write_text(
        GOOD.format(name="typo", model="other", schedule="null") + "look_evry: 5s\n"
    )
    bad_cron = GOOD.format(name="bad_cron", model="other", schedule="'99 6 * * 1'")
    (mixed / "bad_cron.yaml").write_text(bad_cron)
    jobs = {
        "good": {"experiments": str(good), "dag_id": None},
        "mixed": {"experiments": str(mixed), "dag_id": None},
        "task of first": {"experiments": str(mixed), "dag_id": "experiment__first"},
        "task of rollback": {"experiments": str(mixed), "dag_id": "rollback"},
        "repository": {"experiments": str(REPO / "experiments"), "dag_id": None},
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "parse_dags.py")],
        input=json.dumps(list(jobs.values())),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("ANSWERS", 1)[1]
    return dict(zip(jobs, json.loads(answers), strict=True))


def tasks_of(dag: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["__var"]["task_id"]: task["__var"] for task in dag["tasks"]}


def test_every_experiment_file_adds_a_dag_beside_the_fixed_ones(parsed: dict[str, Any]) -> None:
    assert set(parsed["good"]["dags"]) == {
        "experiment__first",
        "experiment__second",
        "audit",
        "event_log",
        "registry_intake",
        "registry_start",
        "rollback",
        "rollback_drill",
    }
    assert parsed["good"]["errors"] == {}


def test_the_shipped_experiments_parse_without_an_error(parsed: dict[str, Any], repo: Path) -> None:
    shipped = {f"experiment__{path.stem}" for path in (repo / "experiments").glob("*.yaml")}
    assert shipped
    assert shipped <= set(parsed["repository"]["dags"])
    assert parsed["repository"]["errors"] == {}


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    brought_in = {name.partition(".")[0] for name in parsed["good"]["modules"]}
    assert not brought_in & HEAVY


def test_parsing_leaves_the_lifecycle_and_the_store_alone(parsed: dict[str, Any]) -> None:
    rooms = (
        "lifecycle",
        "rollback",
        "drill",
        "store",
        "events",
        "stats",
        "policy",
        "registry",
        "expectations",
        "gateway",
    )
    ours = {name.split(".")[1] for name in parsed["good"]["modules"] if name.startswith("understudy.")}
    assert not ours & set(rooms)


def test_a_broken_file_hides_no_other_experiment(parsed: dict[str, Any]) -> None:
    assert set(parsed["mixed"]["dags"]) == {
        "experiment__first",
        "audit",
        "event_log",
        "registry_intake",
        "registry_start",
        "rollback",
        "rollback_drill",
    }


def test_a_broken_file_is_an_import_error_with_line_and_fix_on_a_file_without_dags(
    parsed: dict[str, Any],
) -> None:
    (path,) = parsed["mixed"]["errors"]
    assert path == "broken_experiments.py"
    message = parsed["mixed"]["errors"][path]
    assert "typo.yaml:" in message
    assert "look_evry: unknown field. Did you mean 'look_every'?" in message
    assert "bad_cron.yaml:" in message
    assert not [dag for dag in parsed["mixed"]["dags"].values() if dag["relative_fileloc"] == path]


def test_a_task_process_builds_only_the_dag_being_run(parsed: dict[str, Any]) -> None:
    assert set(parsed["task of first"]["dags"]) == {
        "experiment__first",
        "audit",
        "event_log",
        "registry_intake",
        "registry_start",
        "rollback",
        "rollback_drill",
    }
    assert not [name for name in parsed["task of rollback"]["dags"] if name.startswith("experiment__")]
    assert parsed["task of first"]["errors"] == {}, (
        "somebody else's broken file must not disturb a running task"
    )


def test_the_steps_follow_the_lifecycle_in_one_line(parsed: dict[str, Any]) -> None:
    tasks = tasks_of(parsed["good"]["dags"]["experiment__first"])
    line = ["preregister"]
    while following := tasks[line[-1]].get("downstream_task_ids", []):
        assert len(following) == 1
        line += following
    assert line == [
        "preregister",
        "check_data",
        "evaluate",
        "shadow",
        "critical_path",
        "spike",
        "stage_1.raise_exposure",
        "stage_1.guard",
        "stage_2.raise_exposure",
        "stage_2.guard",
        "compare",
        "promote",
        "roll_back",
        "report",
    ]


def test_each_stage_is_a_group_that_says_what_it_exposes(parsed: dict[str, Any]) -> None:
    groups = parsed["good"]["dags"]["experiment__first"]["task_group"]["children"]
    tooltips = {name: group[1]["tooltip"] for name, group in groups.items() if group[0] == "taskgroup"}
    assert tooltips == {
        "stage_1": "1 % of units for at least 5 s",
        "stage_2": "50 % of units for at least 5 s",
    }


def test_roll_back_and_report_run_whatever_happened_and_cannot_turn_a_run_green(
    parsed: dict[str, Any],
) -> None:
    tasks = tasks_of(parsed["good"]["dags"]["experiment__first"])
    assert [name for name, task in tasks.items() if task.get("is_teardown")] == ["roll_back", "report"]
    assert not [name for name, task in tasks.items() if task.get("is_setup")], (
        "a failed setup stops its teardowns"
    )
    assert not [name for name, task in tasks.items() if task.get("on_failure_fail_dagrun")]


def test_the_heavy_steps_go_to_the_evaluation_queue(parsed: dict[str, Any]) -> None:
    tasks = tasks_of(parsed["good"]["dags"]["experiment__first"])
    heavy = {name for name, task in tasks.items() if task.get("queue") == "evaluation"}
    assert heavy == {"preregister", "evaluate", "shadow", "critical_path", "spike", "compare"}


def test_a_spec_that_leaves_its_trial_out_gets_no_task_for_it(parsed: dict[str, Any]) -> None:
    tasks = tasks_of(parsed["good"]["dags"]["experiment__second"])
    assert {"critical_path", "spike"}.isdisjoint(tasks)
    assert tasks["shadow"]["downstream_task_ids"] == ["stage_1.raise_exposure"]


def test_the_spec_gives_schedule_owner_tags_and_page(parsed: dict[str, Any]) -> None:
    dag = parsed["good"]["dags"]["experiment__first"]
    assert dag["timetable"]["__var"]["expression"] == "0 6 * * 1"
    assert "NullTimetable" in parsed["good"]["dags"]["experiment__second"]["timetable"]["__type"]
    assert {"understudy", "experiment", "model:flights", "flights"} == set(dag["tags"])
    assert dag["default_args"]["__var"]["owner"] == "ana"
    assert "| brier | brier | primary | 0.01 |" in dag["doc_md"]
    assert dag["is_paused_upon_creation"] is False


def test_the_forms_explain_every_field(parsed: dict[str, Any]) -> None:
    for name in ("experiment__first", "rollback", "rollback_drill"):
        for _, param in parsed["good"]["dags"][name]["params"]:
            schema = param["schema"]["__var"] if "__var" in param["schema"] else param["schema"]
            assert schema["title"], name
            assert schema["description_md"], name


def test_a_rollback_is_offered_for_models_whose_experiment_is_broken_too(parsed: dict[str, Any]) -> None:
    params = dict(parsed["mixed"]["dags"]["rollback"]["params"])
    schema = params["model"]["schema"].get("__var", params["model"]["schema"])
    assert schema["examples"] == ["flights"]
    assert "enum" not in schema


def test_the_registry_door_is_watched_and_partitioned(parsed: dict[str, Any]) -> None:
    dags = parsed["good"]["dags"]
    intake, start = dags["registry_intake"], dags["registry_start"]
    watched = json.dumps(intake["timetable"])
    assert "understudy.orchestration.triggers.RegistryTrigger" in watched
    assert "Partitioned" in start["timetable"]["__type"]
    assert tasks_of(intake)["announce"]["downstream_task_ids"] == ["accept"], (
        "accepted only after it was announced"
    )


def test_the_event_log_is_kept_by_the_clock_without_anybody_switching_it_on(parsed: dict[str, Any]) -> None:
    dag = parsed["good"]["dags"]["event_log"]
    assert dag["timetable"]["__var"]["delta"] == 1800.0
    assert (dag["is_paused_upon_creation"], dag["catchup"], dag["max_active_runs"]) == (False, False, 1)
    (task,) = tasks_of(dag).values()
    assert task["queue"] == "evaluation"


def test_the_way_back_is_practised_every_week_one_model_after_the_other(parsed: dict[str, Any]) -> None:
    dag = parsed["good"]["dags"]["rollback_drill"]
    assert dag["timetable"]["__var"]["delta"] == 7 * 86400.0
    assert (dag["is_paused_upon_creation"], dag["catchup"], dag["max_active_runs"]) == (False, False, 1)
    tasks = tasks_of(dag)
    assert tasks["models"]["downstream_task_ids"] == ["drill"]
    assert tasks["drill"]["_is_mapped"]
    assert dict(dag["params"]).keys() == {"model", "scenarios"}


def test_the_audit_runs_every_day(parsed: dict[str, Any]) -> None:
    dag = parsed["good"]["dags"]["audit"]
    assert dag["timetable"]["__var"]["delta"] == 86400.0
    assert (dag["is_paused_upon_creation"], dag["catchup"]) == (False, False)
    assert set(tasks_of(dag)) == {"audit"}
