"""Writes what was measured as docs/performance.md for people, and as docs/performance.json for whoever wants to check it."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import msgspec

from bench.performance import returns
from bench.performance.goals import Goal, goals
from bench.performance.machine import machine
from bench.performance.models import TITLES
from bench.performance.series import Measured, Rollbacks, Series, Serving, Soak
from bench.performance.trend import trends

__all__ = ["DOCS", "made", "store", "text"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
_PACKAGES = (
    "mlflow",
    "scikit-learn",
    "numpy",
    "onnxruntime",
    "msgspec",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
)

_HEAD = """# Performance

<!-- Written by `make bench ARGS="serving soak rollback"`; do not edit. -->

What serving costs and how long the way back takes, measured on one machine that also makes the load. Absolute figures are worth
little elsewhere; ratios within one run are worth more. [performance.json](performance.json) has every round.
"""
_SERVING = """## Serving

Every server is one process with one thread for its numbers, and answers the same requests: 30 features and the column of the
unit, JSON `dataframe_split`, over connections that stay open. The load comes from wrk. Servers take turns within each round; a
figure is the median of the rounds, a ratio the median of the rounds' ratios. CPU is that of the server alone, from the kernel's
count of its processes.

- **mlflow models serve** is MLflow's own server with one worker.
- **bare** is an ASGI application on uvicorn, uvloop and httptools that reads JSON with orjson, calls the model and writes JSON:
  no signature, no errors, no log. Once with scikit-learn on a NumPy array, once with the compiled form that the gateway uses.
- **MLServer** answers the open inference protocol with its scikit-learn runtime, in its own process without workers. Its versions
  are those of `requirements/mlserver.txt`.
- **gateway** answers with MLflow's protocol, decides the arm of every unit, and logs every row as an event before it answers. A
  quarter of the units see a challenger; the units of these requests do not.

A virtual machine may give free memory back to its host. Where this one had to get every page of the log from there, the kernel's
part of a batch of 100 rows was 155 us instead of 45 us (2026-11-22, from /proc/PID/stat, not by this command): a trait of the
machine and not of the gateway. `memory` says what was done about it.
"""
_PARTS = """### What each part costs

The gateway with one part taken out by turns, in one process, because two processes of the same program differ by as much as a
part costs; and with the mirror on and off. CPU is that of the gateway's process; the challenger has its own, at a lower priority.
With a pause the load is light: each connection rests before it asks again, which is nearer to what a service sees.
"""
_SOAK = """## Soak

One gateway with a challenger exposed to a quarter of the units and the mirror on, under steady load, while a compaction turns its
log into Parquet every minute. Memory is resident memory. The trend leaves the first fifth out; its interval is 95 %, from
least squares with the residuals' own autocorrelation counted in (Newey and West, 1987).
"""

_WHY = """What the gateway costs beyond a bare server is mostly the event log: the line of a request, with the features of all its
rows, reaches the operating system before the answer leaves, so that no killed process takes an answered request with it. A line
of 100 rows is 47 kB, about 100 MB a second under this load, and each row has a pseudonym that is a keyed hash. Where a model is
as cheap as these, that is a large part of a request; the goals on the log's share are not met for that. The parts below show it:
the same gateway without its log. [ADR 15](adr/0015-answers-of-a-turn-are-logged-together.md) says what was tried, and why the
work is not moved to where this figure would not see it."""


def made(command: str, **settings: float) -> dict[str, str]:
    """Return where, when and how something is measured."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": f"make bench ARGS={command}",
        "machine": machine(),
        "settings": ", ".join(f"{name} {value:g}" for name, value in settings.items()),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]
        ),
    }


def store(docs: Path, found: Serving | Soak | Rollbacks) -> None:
    """Put a measurement in the place of the last one of its kind, and write the page anew."""
    path = docs / "performance.json"
    known = msgspec.json.decode(path.read_bytes(), type=Measured) if path.exists() else Measured()
    if isinstance(found, Serving):
        known = replace(known, serving=found)
    elif isinstance(found, Soak):
        known = replace(known, soak=found)
    else:
        known = replace(known, rollback=found)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1) + b"\n")
    (docs / "performance.md").write_text(text(known))
    print(f"Written: {docs / 'performance.md'} and performance.json")


def text(known: Measured) -> str:
    """Return the page."""
    lines = [_HEAD]
    if known.serving is not None:
        lines += [_SERVING, *_facts(known.serving.made), *_goals(known.serving), *_servers(known.serving)]
        lines += [_PARTS, *_parts(known.serving.parts), "### Memory", "", *_memory(known.serving)]
    if known.soak is not None:
        lines += [_SOAK, *_facts(known.soak.made), *_soak(known.soak)]
    if known.rollback is not None:
        lines += [returns.HEAD, *_facts(known.rollback.made), *_rollbacks(known.rollback)]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _facts(made: dict[str, str]) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in made.items())
    yield ""


def _table(*header: str) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _goals(serving: Serving) -> Iterator[str]:
    found = goals(serving)
    judged = [goal.met for goal in found if goal.met is not None]
    yield from ("### Goals", "", f"{judged.count(True)} of {len(judged)} are met.", "")
    yield from _judged(found)
    yield from ("", _WHY, "")


def _judged(found: list[Goal]) -> Iterator[str]:
    yield from _table("what", "goal", "found", "")
    for goal in found:
        number = f"{_number(goal.found)} {goal.unit}"
        yield _line(goal.what, goal.asked, number, {True: "met", False: "**not met**", None: ""}[goal.met])


def _rollbacks(found: Rollbacks) -> Iterator[str]:
    yield from _judged(returns.goals(found))
    yield ""
    yield from _table(
        "seconds", "rollbacks", *(f"p{100 * share:g}" for share in returns.SHOWN[:-1]), "longest"
    )
    yield from (_line(*cells) for cells in returns.rows(found))


def _servers(serving: Serving) -> Iterator[str]:
    for (model, rows), group in groupby(serving.peers, key=lambda one: (one.model, one.rows)):
        yield from (
            f"### {TITLES[model].capitalize()}, {'single rows' if rows == 1 else f'batches of {rows}'}",
            "",
        )
        yield from _table(
            "connections", "server", "requests/s", "p50 ms", "p99 ms", "CPU us a request", "errors"
        )
        for one in group:
            yield _line(one.connections, one.server, *_figures(one))
        yield ""


def _parts(parts: list[Series]) -> Iterator[str]:
    yield from _table(
        "model",
        "rows",
        "connections",
        "pause ms",
        "gateway",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU us a request",
        "errors",
    )
    for one in parts:
        yield _line(
            TITLES[one.model], one.rows, one.connections, one.pause_ms or "", one.server, *_figures(one)
        )
    yield ""


def _figures(one: Series) -> list[str]:
    return [
        f"{one.typical('rate'):,.0f}",
        *(_number(one.typical(figure)) for figure in ("p50_ms", "p99_ms", "cpu_us")),
        str(sum(found.errors for found in one.rounds)),
    ]


def _memory(serving: Serving) -> Iterator[str]:
    yield from _table("server", "MB", "its challenger, MB")
    for label, found in serving.memory.items():
        yield _line(
            label, f"{found['server']:.0f}", f"{found['challenger']:.0f}" if found["challenger"] else ""
        )
    yield ""


def _soak(soak: Soak) -> Iterator[str]:
    a_day = soak.rows / soak.samples[-1].minute * 1440 / 1e6
    load = soak.load
    yield (
        f"{soak.rows:,} rows in {soak.samples[-1].minute:.1f} minutes, which is {a_day:.0f} million a day: p50 "
        f"{_number(load.p50_ms)} ms, p99 {_number(load.p99_ms)} ms, {_number(load.cpu_us)} us of CPU a request, "
        f"{load.errors} requests without an answer."
    )
    yield ""
    yield from _table("what", "at the end of the warm-up", "at the end", "trend", "over a day at this rate")
    for trend in trends(soak.samples):
        change = f"{trend.slope:+.3f} ({trend.low:+.3f} to {trend.high:+.3f}) {trend.unit} a minute"
        yield _line(
            trend.what,
            f"{trend.first:.0f} {trend.unit}",
            f"{trend.last:.0f} {trend.unit}",
            change,
            trend.in_words(),
        )
    yield ""
    yield from _table(*soak.counts)
    yield _line(*(f"{count:,.0f}" for count in soak.counts.values()))


def _number(value: float) -> str:
    """Return three digits of a number, more before the point if it has them."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
