"""The gateway's log lines: JSON, followable, and silent about what a request held."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from understudy.gateway.logs import JsonLines

FORMATTER = JsonLines("delay")


def line(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    logger = logging.getLogger("understudy.test")
    record = logger.makeRecord(
        "understudy.test",
        logging.ERROR,
        __file__,
        1,
        message,
        arguments,
        more.get("exc_info"),
        extra=more.get("extra"),
    )
    text = FORMATTER.format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_time_level_logger_message_and_model() -> None:
    found = line("champion %s failed:\n%s", "3", "“quoted”")
    moment = datetime.fromisoformat(found.pop("time"))
    assert moment.tzinfo is not None
    assert found == {
        "level": "ERROR",
        "logger": "understudy.test",
        "message": "champion 3 failed:\n“quoted”",
        "model": "delay",
    }


def test_the_ids_of_a_request_stand_in_fields_of_their_own() -> None:
    found = line("x", extra={"request_id": "r-1", "trace_id": "4bf9", "unit": "N12345"})
    assert (found["request_id"], found["trace_id"]) == ("r-1", "4bf9")
    assert "unit" not in found
    assert "trace_id" not in line("x", extra={"request_id": "r-1", "trace_id": None})


def test_an_exception_is_told_by_its_kind_and_place_never_by_its_words() -> None:
    def fail(pilot: str) -> None:
        raise ValueError(f"unknown pilot {pilot}")

    try:
        fail("Captain-7")
    except ValueError:
        found = line("it failed", exc_info=sys.exc_info())
    assert found["error"] == "ValueError"
    assert found["traceback"][-1].endswith(" fail")
    assert "Captain-7" not in json.dumps(found)


def test_everything_that_a_process_logs_is_json_warnings_and_the_servers_own_lines_too(
    tmp_path: Path,
) -> None:
    code = """
import logging, os, warnings
from understudy.gateway.logs import log_as_json
log_as_json("delay")
os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"
import mlflow, uvicorn
uvicorn.Config("understudy.gateway.app:create_app", log_config=None, log_level="warning")
logging.getLogger("uvicorn.error").error("server %s", 1)
logging.getLogger("mlflow.store").error("registry")
logging.getLogger("mlflow.store").warning("chatter")
warnings.warn("old", stacklevel=1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(text) for text in done.stderr.splitlines()]
    assert [(item["logger"], item["message"].strip()) for item in found[:2]] == [
        ("uvicorn.error", "server 1"),
        ("mlflow.store", "registry"),
    ]
    assert [item["logger"] for item in found[2:]] == ["py.warnings"]
