"""A gateway with one part taken out, so that what the part costs can be measured: only for that.

``python -m bench.performance.stripped PART --model ...``; the parts are the keys of `PARTS`.
"""

from __future__ import annotations

import sys
from typing import Any

from understudy.gateway import loading, service
from understudy.gateway.__main__ import main
from understudy.gateway.compiled.model import Compilation
from understudy.gateway.request_log import RequestLog
from understudy.gateway.routing import Envelopes, Route


def _without_routing() -> None:
    """Give every row the same unit, name and arm, unseen; the log still makes a pseudonym for each."""

    def envelopes(batch: Any, traffic: Any, headers: Any, received_at: float, request_id: str) -> Envelopes:
        size = batch.size
        return Envelopes(["unit"] * size, ["event"] * size, [received_at] * size, [{}] * size)

    def route(exposure: Any, envelopes: Envelopes, now: float, *, counted: bool) -> Route:
        return Route(("unexposed",) * len(envelopes.units), exposure.run_id, exposure.stage)

    vars(service).update(read_envelopes=envelopes, route=route)


def _without_log() -> None:
    """Write no events."""

    def write(self: RequestLog, lines: Any) -> None:
        return None

    type.__setattr__(RequestLog, "line", lambda self, served, answered, rows=None: None)
    type.__setattr__(RequestLog, "write", write)


def _without_compiled() -> None:
    """Answer through MLflow."""
    vars(loading).update(compile_model=lambda predictor: Compilation(None, "not compiled: for comparison"))


PARTS = {"routing": _without_routing, "log": _without_log, "compiled": _without_compiled}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
