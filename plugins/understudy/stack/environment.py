"""The environment that every server of one embedded installation gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["REPO", "base_environment"]

REPO = Path(__file__).resolve().parents[3]
"""The checkout: the folder with ``dags/``, ``plugins/``, ``config/``, ``experiments/`` and ``expectations/``."""

_OURS = ("AIRFLOW", "_AIRFLOW", "MLFLOW", "_MLFLOW", "UNDERSTUDY", "GX_", "OTEL_", "PYTHON")
_LOCAL = "127.0.0.1,localhost"


def base_environment(state: Path) -> dict[str, str]:
    """Return this process's environment without anything that would steer the servers elsewhere.

    Settings of another Airflow or MLflow on the machine are dropped, telemetry is off, local addresses never go
    through a proxy, and commands of this virtual environment are found first.

    Args:
        state: Folder of the installation.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONPATH"] = os.pathsep.join(str(path) for path in (REPO / "config", REPO / "plugins", REPO))
    env["PYTHONUNBUFFERED"] = "1"
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(part for part in (env.get(name), _LOCAL) if part)
    env["MLFLOW_DISABLE_TELEMETRY"] = "true"
    env["DO_NOT_TRACK"] = "true"
    env["GX_ANALYTICS_ENABLED"] = "false"
    env["MPLCONFIGDIR"] = str(state / "cache" / "matplotlib")
    return env
