"""Imports in bulk: MLflow and what it brings are most of the time until a gateway or a challenger can load a model."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["importing", "set_defaults"]

_DEFAULTS = {
    # Otherwise it writes its own records as plain text.
    "MLFLOW_CONFIGURE_LOGGING": "false",
    # A serving process does not phone home, and an unreachable registry is asked again by the gateway itself.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Small batches gain nothing from a thread a core, and wait for each other on a busy machine.
    "OMP_NUM_THREADS": "1",
}

# Objects that a turn of the event loop makes are not garbage before their lines are written. With Python's own 700 the collector
# met them there, took them for old, and three times a second went through all that is old, for 50 ms.
_MOST_YOUNG = 20_000


def set_defaults() -> None:
    """Set what the libraries read from the environment, some of it when they are imported, unless it is set already."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep what was imported out of its sight for good.

    Imports make several hundred thousand objects and hardly any garbage. The collector would go through all of them ten
    times meanwhile, and later again in the middle of a request.

    After that the collector looks seldom: what answers and lines are made of goes without it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_MOST_YOUNG)
        gc.enable()
