"""How long a parse of ``dags/`` takes beyond importing Airflow, with the experiments of the checkout and with many more."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

_SCRIPT = """
import importlib.util, sys, time
import airflow.sdk, airflow.dag_processing.dagbag
began = time.perf_counter()
for number, path in enumerate(sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(f"parsed_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
print(time.perf_counter() - began)
"""


def main(copies: tuple[int, ...] = (1, 100), repeats: int = 3) -> None:
    """Print the best of a few parses for each number of experiments, and what one more experiment costs."""
    template = next(iter(sorted((REPO / "experiments").glob("*.yaml"))))
    seconds = []
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        for count in copies:
            experiments = Path(folder, str(count))
            experiments.mkdir()
            for number in range(count):
                text = template.read_text().replace(
                    f"name: {template.stem}", f"name: {template.stem}_{number}"
                )
                (experiments / f"{template.stem}_{number}.yaml").write_text(text)
            seconds.append(min(_parse(experiments, Path(folder)) for _ in range(repeats)))
            print(f"{count:5} experiments: {seconds[-1]:.3f} s beyond importing Airflow", flush=True)
    each = (seconds[-1] - seconds[0]) / (copies[-1] - copies[0])
    print(f"one more experiment: {each * 1000:.1f} ms")


def _parse(experiments: Path, home: Path) -> float:
    env = {**os.environ, "AIRFLOW_HOME": str(home / "airflow"), "UNDERSTUDY_HOME": str(home / "understudy")}
    env.update(UNDERSTUDY_EXPERIMENTS=str(experiments), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    dags = sorted(str(path) for path in (REPO / "dags").glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *dags],
        env=env,
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])
