"""A real MLflow and a real Airflow: they start, tasks run lean in them, and nothing of them is left afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from understudy.processes.process import ProcessEnded
from understudy.stack import Stack
from understudy.stack.local_http import answers, get_json, post_json

pytestmark = pytest.mark.stack

PROBE = """
from airflow.sdk import dag, task

@dag(dag_id="probe", schedule=None)
def probe():
    @task
    def look():
        import os, sys, threading
        # a parallel region in a forked process hangs if the parent's thread pool was not made for forking
        import duckdb, numpy, pandas
        from sklearn.ensemble import HistGradientBoostingClassifier
        rng = numpy.random.default_rng(1)
        x = rng.normal(size=(2000, 4))
        loaded = sorted({"mlflow", "great_expectations", "sklearn", "pandas", "duckdb"} & PRELOADED)
        HistGradientBoostingClassifier(max_iter=5).fit(x, x[:, 0] > 0)
        numpy.linalg.svd(x)
        frame = pandas.DataFrame(x)
        rows = duckdb.sql("select count(*) from frame").fetchall()[0][0]
        return {
            "loaded": loaded, "rows": rows, "threads": [thread.name for thread in threading.enumerate()],
            "env": {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "UNDERSTUDY_HOME", "AIRFLOW_HOME")},
        }

    look()

import sys
PRELOADED = set(sys.modules)
probe()
"""


def eventually(reached: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    dags = folder / "dags"
    dags.mkdir()
    (dags / "probe.py").write_text(PROBE)
    took: dict[str, float] = {}
    running = Stack(folder / "state", dags=dags, shape="standalone", started=took.__setitem__)
    with running:
        print("ready after", {name: round(seconds, 1) for name, seconds in took.items()})
        yield running
        pids = [pid for process in running.processes() for pid in process.members()]
    assert pids
    assert not any(lives(pid) for pid in pids)
    assert not answers(running.mlflow_url)
    assert not answers(running.airflow_url)


@pytest.fixture(scope="module")
def seen(stack: Stack) -> dict[str, Any]:
    """What a task saw that ran in this Airflow."""
    assert stack.airflow is not None
    stack.airflow.wait_for_dags(["probe"])
    runs = f"{stack.airflow_url}/api/v2/dags/probe/dagRuns"
    post_json(runs, {"logical_date": None, "dag_run_id": "one"}, token=stack.airflow.token())

    def state() -> str:
        return get_json(f"{runs}/one", token=stack.airflow.token())["state"]

    assert eventually(lambda: state() in {"success", "failed"}, 120)
    assert state() == "success"
    entry = get_json(
        f"{runs}/one/taskInstances/look/xcomEntries/return_value?deserialize=true",
        token=stack.airflow.token(),
    )
    return entry["value"]


def test_both_servers_answer(stack: Stack) -> None:
    assert answers(f"{stack.mlflow_url}/health")
    assert stack.airflow is not None
    assert stack.airflow.healthy()
    stack.check()


def test_mlflow_keeps_what_it_is_told_in_the_state_folder(stack: Stack) -> None:
    made = post_json(f"{stack.mlflow_url}/api/2.0/mlflow/registered-models/create", {"name": "m"})
    assert made["registered_model"]["name"] == "m"
    assert (stack.state / "mlflow" / "mlflow.db").exists()


def test_a_task_finds_the_heavy_libraries_loaded_and_working(seen: dict[str, Any]) -> None:
    assert seen["loaded"] == ["duckdb", "great_expectations", "mlflow", "pandas", "sklearn"]
    assert seen["rows"] == 2000
    assert seen["threads"] == ["MainThread"]


def test_a_task_knows_which_installation_it_belongs_to(stack: Stack, seen: dict[str, Any]) -> None:
    assert seen["env"] == {
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        "UNDERSTUDY_HOME": str(stack.state / "understudy"),
        "AIRFLOW_HOME": str(stack.state / "airflow"),
    }


def test_only_the_scheduler_pays_for_preloading(stack: Stack) -> None:
    """The shared libraries mapped into a process show what it has imported."""
    loaded = {}
    for process in stack.processes():
        for pid in process.members():
            line = " ".join(psutil.Process(pid).cmdline())
            maps = Path(f"/proc/{pid}/maps")
            if maps.exists() and "airflow" in line:
                loaded[line] = "duckdb" in maps.read_text()
    payers = {line for line, paid in loaded.items() if paid}
    assert any("scheduler" in line for line in payers)
    # its own forks share the pages: the workers and the log server
    forks = ("scheduler", "LocalExecutor", "serve-logs")
    assert not [line for line in payers if not any(name in line for name in forks)]


def test_each_user_can_sign_in_with_the_generated_password_and_no_other(stack: Stack) -> None:
    assert stack.airflow is not None
    for user, password in stack.logins.items():
        assert post_json(f"{stack.airflow_url}/auth/token", {"username": user, "password": password})[
            "access_token"
        ]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post_json(f"{stack.airflow_url}/auth/token", {"username": "admin", "password": "admin"})


def test_another_shell_joins_through_the_env_file(stack: Stack) -> None:
    command = f'set -a; . "{stack.state}/env"; echo "$MLFLOW_TRACKING_URI $AIRFLOW_HOME"'
    said = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=True, env={}
    ).stdout
    assert said.split() == [stack.mlflow_url, str(stack.state / "airflow")]


def test_a_gateway_that_cannot_start_is_reported_and_gone(stack: Stack) -> None:
    with pytest.raises(ProcessEnded, match="Gateway of no-such-model"):
        stack.start_gateway("no-such-model", timeout=60)
    assert stack.gateway is not None
    stack.stop_gateway()
    stack.check()


def test_a_second_stack_runs_beside_the_first(stack: Stack, tmp_path: Path) -> None:
    with Stack(tmp_path / "state", airflow=False) as second:
        assert second.mlflow_url != stack.mlflow_url
        assert answers(f"{second.mlflow_url}/health")
        stack.check()


def test_a_server_that_was_killed_is_named(tmp_path: Path) -> None:
    with Stack(tmp_path / "state", airflow=False) as stack:
        pids = stack.mlflow.process.members()
        os.kill(stack.mlflow.process.pid, signal.SIGKILL)
        assert eventually(lambda: not stack.mlflow.process.running, 10)
        with pytest.raises(ProcessEnded, match="MLflow ended with status -9"):
            stack.check()
    assert len(pids) > 1
    assert not any(lives(pid) for pid in pids)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_make_up_leaves_no_process_behind_however_it_ends(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-m", "understudy.stack", "--state", str(tmp_path / "state")]
    log = tmp_path / "log"
    with log.open("wb") as output:
        owner = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=output, stderr=output, start_new_session=True,
            # A suite that runs in the background hands down an ignored SIGINT, and nobody could interrupt anything.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    # SIGKILL and SIGTERM hit a complete installation, SIGINT one that is still starting.
    sign = "login viewer" if number != signal.SIGINT else ""
    ready = (
        (lambda: sign in log.read_text()) if sign else (lambda: len(psutil.Process(owner.pid).children()) > 2)
    )
    try:
        assert eventually(lambda: ready() or owner.poll() is not None, 240)
        assert owner.poll() is None, log.read_text()
        pids = [child.pid for child in psutil.Process(owner.pid).children(recursive=True)]
        os.kill(owner.pid, number)
        assert owner.wait(60) == status, log.read_text()
        assert eventually(lambda: not any(lives(pid) for pid in pids), 30)
    finally:
        if owner.poll() is None:
            owner.terminate()
            owner.wait(60)
    assert len(pids) > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "log", "state"]
    assert not (home / "airflow").exists()
    print(
        "written to the home folder:",
        sorted(str(path.relative_to(home)) for path in home.rglob("*")) or "nothing",
    )
    shutil.rmtree(tmp_path / "state")
