"""A gateway with one part taken out, so that what the part costs can be measured: only for that.

``python -m bench.performance.stripped PART --model ...``, where the part is ``compiled``, or ``any``: then it is the one that the
file `WANTED` in the working directory names, ``routing`` or ``log``, and no part where it is empty. That is one process with and
without the part, because two processes of the same program differ by as much as a part costs.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from understudy.gateway import loading, service
from understudy.gateway.__main__ import main
from understudy.gateway.compiled.model import Compilation
from understudy.gateway.request_log import RequestLog
from understudy.gateway.routing import Envelopes, Route

WANTED, LEFT_OUT = Path("part-wanted"), Path("part-left-out")
_LOOK_SECONDS = 0.05
_Change = tuple[Any, str, Any]


def _without_routing() -> list[_Change]:
    """Give every row the same unit, name and arm, unseen; the log still makes a pseudonym for each."""

    def envelopes(batch: Any, traffic: Any, headers: Any, received_at: float, request_id: str) -> Envelopes:
        size = batch.size
        return Envelopes(["unit"] * size, ["event"] * size, [received_at] * size, [{}] * size)

    def route(exposure: Any, envelopes: Envelopes, now: float, *, counted: bool) -> Route:
        return Route(("unexposed",) * len(envelopes.units), exposure.run_id, exposure.stage)

    return [(service, "read_envelopes", envelopes), (service, "route", route)]


def _without_log() -> list[_Change]:
    """Write no events."""

    def write(self: RequestLog, lines: Any) -> None:
        return None

    def line(self: RequestLog, served: Any, answered: Any, rows: Any = None) -> None:
        return None

    return [(RequestLog, "line", line), (RequestLog, "write", write)]


def _without_compiled() -> list[_Change]:
    """Answer through MLflow."""
    return [(loading, "compile_model", lambda predictor: Compilation(None, "not compiled: for comparison"))]


_PARTS = {"routing": _without_routing, "log": _without_log, "compiled": _without_compiled, "": list[_Change]}


def _leave_out(part: str) -> list[_Change]:
    """Take a part out and return what puts it back."""
    changes = _PARTS[part]()
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    _apply(changes)
    return before


def _apply(changes: list[_Change]) -> None:
    for owner, name, value in changes:
        setattr(owner, name, value)


def _follow() -> None:
    """Leave out what is wanted, for ever."""
    back: list[_Change] = []
    left_out = ""
    while True:
        wanted = WANTED.read_text() if WANTED.exists() else ""
        if wanted != left_out:
            _apply(back)
            back, left_out = _leave_out(wanted), wanted
            LEFT_OUT.write_text(left_out)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    if sys.argv[1] == "any":
        threading.Thread(target=_follow, daemon=True).start()
    else:
        _leave_out(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
