"""Only the parents of tasks load the heavy libraries, and loading them leaves no thread behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.stack.environment import base_environment

_SCRIPT = """
import json, sys, threading
sys.argv = json.loads(sys.argv[1])
import airflow
airflow.configuration  # the settings, and with them the local settings, are loaded by now
print(json.dumps({
    "heavy": sorted({"mlflow", "great_expectations", "sklearn", "duckdb"} & set(sys.modules)),
    "own": "understudy.lifecycle" in sys.modules,
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""
HEAVY = ["duckdb", "great_expectations", "mlflow", "sklearn"]


def _start(tmp_path: Path, *arguments: str) -> dict[str, object]:
    env = {
        **base_environment(tmp_path),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    command = [
        sys.executable,
        "-c",
        _SCRIPT,
        json.dumps([str(Path(sys.executable).with_name("airflow")), *arguments]),
    ]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not preloaded" not in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [("scheduler", "--skip-serve-logs"), ("scheduler",), ("celery", "worker", "--queues", "default")],
    ids=" ".join,
)
def test_a_parent_of_tasks_loads_them_and_leaves_no_thread_behind(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert _start(tmp_path, *arguments) == {"heavy": HEAVY, "own": True, "threads": ["MainThread"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("dag-processor",),
        ("api-server",),
        ("triggerer",),
        ("db", "migrate"),
        ("celery", "stop"),
        ("jobs", "check"),
        (),
    ],
    ids=" ".join,
)
def test_nobody_else_pays_for_them(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _start(tmp_path, *arguments)["heavy"] == []
