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


def set_defaults() -> None:
    """Set what the libraries read from the environment, some of it when they are imported, unless it is set already."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep what was imported out of its sight for good.

    Imports make several hundred thousand objects and hardly any garbage. The collector would go through all of them ten
    times meanwhile, and later again in the middle of a request.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
