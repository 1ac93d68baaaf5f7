"""The command line: exit codes, JSON shapes, and errors without tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import declared
from tests.commands import answered, exposed_run, run
from tests.servers import free_port
from understudy.exposure import read_flag
from understudy.session import session
from understudy.store import exposures, runs


def test_valid_files_are_counted(home: Path) -> None:
    path = declared.write(home / "experiments")
    assert "1 experiment file valid." in run("validate").stdout
    assert answered("validate") == {"valid": True, "files": [str(path)], "problems": []}
    assert answered("validate", str(path))["valid"]


def test_every_problem_of_every_file_is_told(home: Path) -> None:
    declared.write(home / "experiments")
    (home / "experiments" / "bad.yaml").write_text("name: bad\nmodle: x\n")
    declared.write(home / "experiments", name="suiteless", checks=[{"suite": "gone", "dataset": "holdout"}])
    found = answered("validate", code=1)
    assert not found["valid"]
    assert {problem["file"] for problem in found["problems"]} == {"bad.yaml", "suiteless.yaml"}
    assert {problem["code"] for problem in found["problems"]} == {"SPEC_INVALID", "SUITE_INVALID"}
    told = run("validate")
    assert told.exit_code == 1
    assert "bad.yaml:2: modle: unknown field. Did you mean 'model'?" in told.stderr


def test_nothing_to_validate_is_no_success(home: Path) -> None:
    assert answered("validate", code=1) == {"valid": False, "files": [], "problems": []}
    assert "UNDERSTUDY_EXPERIMENTS" in run("validate").stderr
    assert answered("validate", str(home / "gone.yaml"), code=1)["problems"][0]["code"] == "SPEC_INVALID"


def test_the_schema_is_json(home: Path) -> None:
    assert json.loads(run("schema").stdout)["title"] == "Experiment"


def test_the_status_of_a_fresh_installation_says_what_to_do(home: Path) -> None:
    assert answered("status") == {"models": []}
    assert "Start a run" in run("status").stdout


def test_an_unknown_model_is_an_error_with_the_known_ones(home: Path) -> None:
    assert answered("status", "nobody", code=1)["error"]["code"] == "NO_SUCH_MODEL"
    exposed_run()
    told = run("status", "nobody")
    assert told.exit_code == 1
    assert "Known models: delay" in told.stderr


def test_the_status_of_a_model_has_everything_that_whoever_is_on_call_needs(home: Path) -> None:
    exposed_run()
    (found,) = answered("status", "delay")["models"]
    wanted = {"run", "state", "stage", "percent", "lease_seconds_left", "champion", "challenger", "verdicts"}
    assert wanted <= set(found)
    assert (found["run"], found["state"], found["percent"]) == ("delay_test-v2-1", "exposed", 10.0)
    assert (found["champion"], found["challenger"], found["stages"]) == ("1", "2", [10.0, 50.0])
    table = run("status").stdout
    assert "10 % of units on version 2" in table
    assert "delay_test-v2-1" in table


def test_the_status_names_the_ring_that_is_exposed_and_nobody_else(home: Path) -> None:
    store = exposed_run()
    rings = (("origin=JFK", 50.0), ("origin=LGA", 20.0))
    with store.write() as connection:
        exposures.raise_to(connection, "delay_test-v2-1", 1, 0.0, 60.0, rings=rings, at=store.clock())
    (found,) = answered("status", "delay")["models"]
    assert (found["percent"], found["rings"]) == (0.0, dict(rings))
    assert "50 % of origin=JFK, 20 % of origin=LGA on version 2" in run("status").stdout


def test_a_rollback_without_a_reason_is_refused(home: Path) -> None:
    assert run("rollback", "delay").exit_code == 2
    assert answered("rollback", "delay", "--reason", "  ", code=1)["error"]["code"] == "BAD_PARAMETER"


@pytest.mark.parametrize("asked", [("--resume", "delay"), (), ("delay",), ("--resume", "--plan")])
def test_a_rollback_that_is_asked_for_in_half_is_refused(home: Path, asked: tuple[str, ...]) -> None:
    assert run("rollback", *asked).exit_code == 2


def test_without_anything_that_waits_resuming_says_so(home: Path) -> None:
    assert answered("rollback", "--resume") == {"rollbacks": []}
    assert "No rollback waits" in run("rollback", "--resume").stdout


def test_a_rollback_takes_exposure_to_zero_even_when_nothing_else_can_be_reached(home: Path) -> None:
    exposed_run()
    flag = read_flag(home / "home" / "flags.json", "delay")
    assert flag is not None
    assert flag.exposed
    found = answered("rollback", "delay", "--reason", "it hurts", code=1)
    assert found["error"]["code"] == "SETTING_MISSING"
    flag = read_flag(home / "home" / "flags.json", "delay")
    assert flag is not None
    assert not flag.exposed
    assert answered("status", "delay")["models"][0]["state"] == "rolling_back"


@pytest.mark.parametrize("command", [("status",), ("ledger", "verify"), ("ledger", "show")])
def test_a_store_that_cannot_be_opened_is_one_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{home}")
    assert answered(*command, code=1)["error"]["code"] == "STORE"
    told = run(*command)
    assert (told.exit_code, "UNDERSTUDY_STORE_URL" in told.stderr) == (1, True)


def test_the_doctor_finds_what_is_wrong_and_looks_at_everything(home: Path) -> None:
    findings = {found["what"]: found for found in answered("doctor", code=1)}
    sick = {what for what, found in findings.items() if not found["healthy"]}
    gateway = next(what for what in findings if what.startswith("gateway"))
    assert sick == {"experiments", "registry", gateway, "pseudonym key"}
    assert "MLFLOW_TRACKING_URI" in findings["registry"]["detail"]
    assert "UNDERSTUDY_GATEWAY_URLS" in findings[gateway]["detail"]
    told = run("doctor")
    assert told.exit_code == 1
    assert "BAD registry" in told.stdout


def test_the_doctor_survives_a_store_and_a_home_that_cannot_be_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    findings = {found["what"]: found["healthy"] for found in answered("doctor", code=1)}
    assert len(findings) == 8
    assert [what for what, healthy in findings.items() if healthy] == ["signing key"]


def test_the_doctor_publishes_a_lost_document_again(home: Path) -> None:
    exposed_run()
    published = (home / "home" / "flags.json").read_bytes()
    (home / "home" / "flags.json").write_text("torn")
    run("doctor")
    assert (home / "home" / "flags.json").read_bytes() == published


def test_the_installed_command_works_in_a_process_of_its_own(home: Path) -> None:
    declared.write(home / "experiments")
    done = subprocess.run(
        [sys.executable, "-m", "understudy.cli", "validate", "--json"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["valid"]


@pytest.mark.parametrize("command", ["plan", "rehearse"])
def test_without_a_past_nothing_is_planned_or_rehearsed_and_the_way_out_is_named(
    home: Path, command: str
) -> None:
    declared.write(home / "experiments")
    found = answered(command, declared.NAME, code=1)
    assert found["error"]["code"] == "NO_HISTORY"
    assert "Serve the champion" in found["error"]["message"]


@pytest.mark.parametrize("command", ["plan", "rehearse"])
def test_an_experiment_that_is_not_there_is_an_error_of_its_own(home: Path, command: str) -> None:
    assert answered(command, "nothing", code=1)["error"]["code"] == "NO_SUCH_EXPERIMENT"


def test_a_run_that_nobody_knows_cannot_be_reproduced(home: Path) -> None:
    assert answered("reproduce", "nothing", code=1)["error"]["code"] == "NO_SUCH_RUN"


def test_a_run_without_a_verdict_is_not_reproduced(home: Path) -> None:
    exposed_run()
    with session().store.read() as connection:
        (only,) = runs.latest(connection, declared.MODEL)
    found = answered("reproduce", only.run_id, code=1)
    assert (found["reproduced"], found["verdicts"]) == (False, [])


def test_a_run_is_followed_from_its_id_without_any_server(home: Path) -> None:
    exposed_run()
    found = answered("trace", "delay_test-v2-1")
    (only,) = found["runs"]
    assert only["mlflow"] == {"run_id": None, "url": None}
    assert [entry["action"] for entry in found["ledger"]] == ["run.started", "exposure.raised"]
    assert {entry["trace_id"] for entry in found["ledger"]} == {only["trace_id"]}
    told = run("trace", only["trace_id"]).stdout
    assert "run delay_test-v2-1  exposed, stage 1" in told
    assert "exposure.raised: Stage 1: 10 % of units." in told


def test_an_id_that_nothing_bears_is_an_error_that_says_what_can_be_asked(home: Path) -> None:
    assert answered("trace", "nothing", code=1)["error"]["code"] == "NO_SUCH_ID"
    assert "X-Request-Id" in run("trace", "nothing").stderr
