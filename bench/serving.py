"""The gateway against other servers of the same models, and what each of its parts costs; writes docs/performance.md.

``mlflow models serve``, a bare server and the gateway answer the same requests, one after the other in every round, so that
whatever else the machine does hits them alike; a figure is the median of the rounds, a ratio the median of the rounds'
ratios. The load comes from wrk on the same machine over connections that stay open. Takes about fifteen minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from bench.performance import load, models
from bench.performance.memory import own_memory
from bench.performance.mlserver import mlserver_bodies
from bench.performance.report import DOCS, made, store
from bench.performance.series import Series, Serving
from bench.performance.servers import Server, Servers, start_servers

CONNECTIONS = (1, 8, 32)
PARTS = {"gateway": "", "without routing": "routing", "without event log": "log"}
ROWS = {1: 4096, 100: 64}
"""Rows of a request, and how many such requests are sent in turn."""

_PACE_MS = 7
Requests = dict[tuple[str, int, str], Path]


@dataclass(frozen=True)
class _Case:
    """One server under one kind of load.

    Attributes:
        told: What the report says of it.
        server: The server.
        bodies: What it is asked.
        mirror: Whether its mirror is on; nothing leaves it as it is.
        without: The part that it goes without; nothing where none can be taken out.
    """

    told: Series
    server: Server
    bodies: Path
    mirror: bool | None = None
    without: str | None = None


def main(seconds: float = 2.0, rounds: int = 3, docs: Path = DOCS) -> None:
    """Measure, print one line a measurement, and write the report.

    Args:
        seconds: Length of one measurement.
        rounds: How often each is made. The parts, whose differences are small, take six times as many of half the length; the
            mirror, whose load is light and varies most, 24 times as many.
        docs: Where the report goes.
    """
    if why := load.missing():
        print(f"skipped: {why}")
        return
    with (
        tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder,
        own_memory() as memory,
        start_servers(Path(folder), tuple(models.MODELS)) as servers,
    ):
        requests = _requests(Path(folder))
        peers = [case for model in models.MODELS for case in _peers(servers, model, requests)]
        parts = list(_parts(servers, peers, requests))
        mirrored = list(_mirrored(parts[-1].server, requests))
        found = Serving(
            made=made("serving", seconds=seconds, rounds=rounds) | {"memory": memory},
            peers=_measured(peers, seconds, rounds),
            parts=_measured(parts, seconds / 2, 6 * rounds) + _measured(mirrored, seconds / 2, 24 * rounds),
            memory={f"{case.told.server}, {case.told.model}": _memory(case.server) for case in peers},
        )
    store(docs, found)


def _requests(folder: Path) -> Requests:
    found: Requests = {}
    for model, (rows, count) in product(models.MODELS, ROWS.items()):
        unseen = models.bodies(rows, count, model)
        kinds = {
            "unexposed": unseen,
            "exposed": models.bodies(rows, count, model, exposed=True),
            "for MLServer": mlserver_bodies(unseen),
        }
        for kind, bodies in kinds.items():
            found[model, rows, kind] = load.write_bodies(folder / f"{model}-{rows}-{kind[:7]}", bodies)
    return found


def _peers(servers: Servers, model: str, requests: Requests) -> Iterator[_Case]:
    """Start what is compared, and return server after server within each kind of load."""
    started = {
        "mlflow models serve": servers.mlflow(model),
        "bare, scikit-learn": servers.bare(model, compiled=False),
        "bare, compiled": servers.bare(model, compiled=True),
        "gateway": servers.gateway(model),
    }
    if model == "boosting":
        started["gateway, not compiled"] = servers.gateway(model, without="compiled")
    else:
        started["MLServer"] = servers.mlserver(model)
    for rows, connections in product(ROWS, CONNECTIONS):
        for label, server in started.items():
            asked = requests[model, rows, "for MLServer" if label == "MLServer" else "unexposed"]
            yield _Case(Series(label, model, rows, connections), server, asked)


def _parts(servers: Servers, peers: Sequence[_Case], requests: Requests) -> Iterator[_Case]:
    """Return each model's gateway with and without each part, by turns in one process."""
    for model in models.MODELS:
        gateway = servers.gateway(model, without="any")
        for rows, (label, part) in product(ROWS, PARTS.items()):
            yield _Case(
                Series(label, model, rows, 8), gateway, requests[model, rows, "unexposed"], without=part
            )
    whole = next(case.server for case in peers if case.told.server == "gateway")
    exposed = requests[whole.model, 1, "exposed"]
    yield _Case(Series("challenger's units", whole.model, 1, 8), whole, exposed)


def _mirrored(gateway: Server, requests: Requests) -> Iterator[_Case]:
    """Return the gateway with its mirror on and off; off comes last, so that whoever is next finds it off."""
    for label, on in (("mirror on", True), ("mirror off", False)):
        told = Series(label, "logistic", 1, 8, pause_ms=_PACE_MS)
        yield _Case(told, gateway, requests["logistic", 1, "unexposed"], mirror=on)


def _measured(cases: Sequence[_Case], seconds: float, rounds: int) -> list[Series]:
    found: list[Series] = [case.told for case in cases]
    for _ in range(rounds):
        for place, case in enumerate(cases):
            told, server = case.told, case.server
            if case.mirror is not None:
                server.expose(mirror=case.mirror)
            if case.without is not None:
                server.leave_out(case.without)
            one = load.drive(
                server.url, server.pids, case.bodies, told.connections, seconds, told.pause_ms, server.path
            )
            found[place] = replace(found[place], rounds=[*found[place].rounds, one])
            print(
                f"{told.model:9} {told.server:22} {told.rows:4} row(s) {told.connections:3} connection(s) "
                f"{one.rate:9,.0f}/s p50 {one.p50_ms:8.3f} p99 {one.p99_ms:8.3f} ms {one.cpu_us:8.1f} us CPU"
                + (f" {one.errors} ERRORS" if one.errors else ""),
                flush=True,
            )
    return found


def _memory(server: Server) -> dict[str, float]:
    return {"server": load.memory_mb(server.pids), "challenger": load.memory_mb(server.challenger_pids)}
