"""MLServer with its scikit-learn runtime, in an environment of its own: it cannot be locked beside what this project runs on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.performance.models import FEATURES

__all__ = ["install", "mlserver_bodies", "mlserver_path", "write_settings"]

_LOCK = Path(__file__).resolve().parents[2] / "requirements" / "mlserver.txt"


def install(folder: Path) -> Path:
    """Make an environment from ``requirements/mlserver.txt`` and return its ``mlserver``."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    pinned = ["--quiet", "--python", python, "--require-hashes", "-r", _LOCK]
    subprocess.run([uv, "pip", "install", *pinned], check=True)
    return folder / "bin" / "mlserver"


def write_settings(folder: Path, model: str, pickle: Path, port: int, grpc_port: int) -> None:
    """Say what is served where: one process without workers beside it, no access log."""
    told = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(told))
    served = {
        "name": model,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(pickle)},
    }
    (folder / "model-settings.json").write_text(json.dumps(served))


def mlserver_path(model: str) -> str:
    """Return where a model answers."""
    return f"/v2/models/{model}/infer"


def mlserver_bodies(bodies: list[bytes]) -> list[bytes]:
    """Return requests for MLServer with the features of those for MLflow; it has no use for the unit."""
    found = []
    for body in bodies:
        rows = [row[1:] for row in json.loads(body)["dataframe_split"]["data"]]
        asked = {
            "name": "features",
            "shape": [len(rows), FEATURES],
            "datatype": "FP64",
            "data": [cell for row in rows for cell in row],
        }
        told = {"inputs": [asked], "outputs": [{"name": "predict_proba"}]}
        found.append(json.dumps(told).encode())
    return found
