"""How long the embedded installation takes to start and what it holds in memory, for both ways of starting Airflow."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

from understudy.stack import Stack
from understudy.stack.airflow_stack import Shape

_DAG = """
from airflow.sdk import dag, task

@dag(dag_id="nothing", schedule=None)
def nothing():
    @task
    def rest(): ...
    rest()

nothing()
"""


def main(repeats: int = 2) -> None:
    """Print one line for each start, the two shapes in turn so that drift hits both."""
    print("shape       MLflow  Airflow  DAG visible  stopped in  memory (PSS)")
    for _ in range(repeats):
        for shape in ("parts", "standalone"):
            _measure(shape)


def _measure(shape: Shape) -> None:
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        dags = Path(folder, "dags")
        dags.mkdir()
        (dags / "nothing.py").write_text(_DAG)
        began = time.monotonic()
        with Stack(Path(folder, "state"), dags=dags, shape=shape, started=took.__setitem__) as stack:
            assert stack.airflow is not None
            stack.airflow.wait_for_dags(["nothing"])
            visible = time.monotonic() - began
            memory = sum(_pss(pid) for process in stack.processes() for pid in process.members())
            began = time.monotonic()
        stopped = time.monotonic() - began
    print(
        f"{shape:10} {took['MLflow']:7.1f} {took['Airflow']:8.1f} {visible:12.1f} {stopped:11.1f} {memory / 1024:10.0f} MB",
        flush=True,
    )


def _pss(pid: int) -> int:
    """Proportional share of memory of a process in KiB; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
