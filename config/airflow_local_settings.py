"""Loads the heavy libraries once, in the process that tasks are forked from, so that no task waits for them.

Airflow imports this file in every one of its processes (put this folder on ``PYTHONPATH``). Only two of them are
parents of tasks: ``airflow scheduler``, whose LocalExecutor forks its workers, and ``airflow celery worker``. Everybody
else must not pay for it. Which process this is shows in the command line, which is still the one it was started with:
Airflow renames processes only after its settings are loaded, and a forked child never runs this file again.

Nothing here may start a thread of Python or open a connection, for neither survives the fork. Importing these libraries
does not, as a test checks; the threads that OpenBLAS and jemalloc keep are made again in the child by those libraries.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time

__all__: list[str] = []  # Airflow copies public names from here into its settings

_HEAVY = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "duckdb",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "great_expectations",
    "understudy.lifecycle",
    "understudy.rollback",
)


def _forks_tasks(arguments: list[str]) -> bool:
    command = [argument for argument in arguments[1:] if not argument.startswith("-")]
    return command[:1] == ["scheduler"] or command[:2] == ["celery", "worker"]


def _preload() -> None:
    began = time.monotonic()
    log = logging.getLogger(__name__)
    for name in _HEAVY:
        try:
            importlib.import_module(name)
        except Exception as error:
            # Whatever is wrong with it: a task that needs it will say so itself, and the scheduler must start all the same.
            log.warning("not preloaded: %s (%s)", name, error)
    log.info("preloaded %d modules in %.1f s", len(_HEAVY), time.monotonic() - began)


if _forks_tasks(sys.argv):
    _preload()
