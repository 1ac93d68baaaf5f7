"""Writes what runs of `make faults` found: a page for people, and the figures in it as data."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.performance.machine import machine
from tests.faults.stage import Found

__all__ = ["write_report"]

_Row = dict[str, Any]

_HEAD = """# Faults

Written by `make faults`, last on {date}: {machine}, Python {python}. Each row
has the load average of the machine over the last minute when its scenario ended; a scenario by itself makes less than 2 of
it. Where it is more, something else of weight ran, and the times of that row are not worth much. `make test` has the same
scenarios, a second or two each, and `docs/faults.json` has the figures of this page.

Every scenario runs under a steady load of single rows on keep-alive connections, against the real gateway process.

- **Lost** are requests that were not answered with 200; for a killed gateway, answered requests that are not in the log.
- **Wrong** are answers that are not byte for byte what the same version answers when there is no challenger, or that came
  from a version that had no business to answer; for the mirror's queue, rows that are not accounted for; for a killed
  gateway, torn lines that were not counted; for exposure taken back, times over 1 s. Both must be 0 for a scenario to hold.
- **Champion's times** are of the units that the champion answers anyway, without and with the fault in turns on the same
  gateway. Two runs without any fault differ as well, which the first row shows; and whoever asks sits on the same cores as
  the challenger, so that one that burns them makes the asking late too. The ratio is reported and decides nothing;
  [`make bench`](performance.md) has the champion's p99 with a mirror over many rounds.

{verdict}

"""

_COLUMNS = (
    "scenario",
    "verdict",
    "requests",
    "answered",
    "lost",
    "wrong",
    "champion's p50 without, with (ms)",
    "champion's p99 without, with (ms)",
    "p99 ratio",
    "breaker",
    "mirror rows dropped",
    "what else was seen",
    "when, load average",
)


def _row_of(found: Found) -> _Row:
    ended = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    # asdict takes a counter apart wrongly before Python 3.12.
    plain = asdict(found) | {"fallbacks": dict(found.fallbacks)}
    return plain | {"held": found.held, "ended": ended, "load": round(os.getloadavg()[0], 1)}


def write_report(folder: Path, name: str, found: Found) -> None:
    """Write a scenario that has just ended into ``faults.md`` and ``faults.json``.

    Args:
        folder: Where they lie; the rows of other scenarios stay as they are there.
        name: The scenario.
        found: What it found.
    """
    data = folder / "faults.json"
    rows: dict[str, _Row] = json.loads(data.read_text()) if data.exists() else {}
    rows[name] = _row_of(found)
    data.write_text(json.dumps(rows, indent=1) + "\n")
    broken = [name for name, row in rows.items() if not row["held"]]
    head = _HEAD.format(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        python=platform.python_version(),
        verdict=f"**Broken**: {', '.join(broken)}." if broken else f"All {len(rows)} scenarios hold.",
    )
    lines = [_line(_COLUMNS), "|" + "---|" * len(_COLUMNS) + "\n"]
    lines += [_line(_cells(name, row)) for name, row in rows.items()]
    (folder / "faults.md").write_text(head + "".join(lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cells(name: str, row: _Row) -> list[str]:
    times = ["", "", ""]
    if row["quiet"] and row["troubled"]:
        (p50, p99), (p50_with, p99_with) = row["quiet"], row["troubled"]
        times = [f"{p50:.2f}, {p50_with:.2f}", f"{p99:.2f}, {p99_with:.2f}", f"{p99_with / p99:.2f}"]
    counted = sorted(row["fallbacks"].items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counted)
    notes = "; ".join(
        part for part in (f"champion answered for: {reasons}" if reasons else "", row["notes"]) if part
    )
    return [
        name,
        "holds" if row["held"] else "**broken**",
        f"{row['requests']:,}",
        f"{row['requests'] - row['lost']:,}",
        str(row["lost"]),
        str(row["wrong"]),
        *times,
        row["breaker"],
        "" if row["dropped"] is None else f"{row['dropped']:,}",
        notes,
        f"{row['ended']}, {row['load']}",
    ]
