"""The gateway's log: one JSON object a line on standard error, with the ids by which a request is followed."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["JsonLines", "log_as_json"]

_IDS = ("request_id", "trace_id")
_NOISY = ("mlflow", "alembic", "httpx", "urllib3")


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON.

    A line has ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message`` and ``model``; ``request_id`` and ``trace_id``
    where the record was logged with them as ``extra``; and for an exception its ``error`` and ``traceback``, which names
    the places only: what an exception says may quote a request.

    Args:
        model: Registered model name.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "model": self._model,
        }
        line |= {name: value for name in _IDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["traceback"] = [
                f"{place.filename}:{place.lineno} {place.name}" for place in traceback.extract_tb(trace)
            ]
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json(model: str) -> None:
    """Send every log record and warning of this process to standard error as JSON lines.

    Args:
        model: Registered model name.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(model))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
