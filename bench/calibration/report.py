"""Write what calibration found as a page for people, and as counts for whoever wants to check it."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.calibration.jobs import code_digest
from bench.calibration.runner import Result
from bench.calibration.tables import SECTIONS, detected, promised, verdict

__all__ = ["failures", "made", "read", "text", "write"]

_HEAD = """# Calibration

<!-- Written by `make calibrate`; do not edit. -->

How often the product is wrong in simulated worlds where the truth is known, and how soon it finds harm that is there. The
judging is done by the product's own code (`stats/`, and the policy's division of alpha) and nothing else, on moments by
bucket of units as the event log keeps them. `tests/stats/test_calibration_report.py` runs the hardest of these worlds again,
smaller, with every change.

False alarms are runs with at least one alarm at any look, at alpha 0.05 unless said otherwise. "Harm" and "gain" are the two
one-sided bounds, "two-sided" is the interval. In brackets stands the exact 95 % interval (Clopper, Pearson). The rule, for
the worst of a row:

- **holds**: the whole interval lies at or below alpha;
- **open**: the measured rate does and the interval does not: more runs are needed to tell;
- **FAILS**: the measured rate lies above alpha.

Columns with a t test, Welch alone, pooled stages or an undivided alpha are contrasts: what the usual methods do there.
"""


def made(day: dt.date) -> dict[str, str]:
    """Return where, when and of what the counts are."""
    return {
        "date": day.isoformat(),
        "command": "make calibrate",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "code": code_digest(),
    }


def failures(found: Sequence[Result]) -> list[str]:
    """Return a sentence for each promise that was not kept."""
    alarms = [
        f"{r.section}, {r.name}: {kind} {100 * rate.point:.2f} % ({rate.count} of {rate.runs}), promised {100 * alpha:g} %"
        for r in found
        for kind, alpha in promised(r).items()
        for rate in (r.rate(kind),)
        if rate.verdict(alpha) == "FAILS"
    ]
    slow = [
        f"detection, {times:g}x, {form}-sided: slower than the target and than the formula"
        for (times, form), word in detected(found).items()
        if word == "SLOWER"
    ]
    return alarms + slow


def text(facts: Mapping[str, str], found: Sequence[Result]) -> str:
    """Return the page."""
    judged = [verdict(r) for r in found if verdict(r)]
    said = {word: judged.count(word) for word in ("holds", "open", "FAILS")}
    runs, minutes = sum(r.runs for r in found), sum(r.seconds for r in found) / 60
    total = (
        f"Of {len(judged)} worlds without an effect {said['holds']} hold, {said['open']} are open and {said['FAILS']} fail. "
        f"{runs:,} simulated runs, {minutes:.0f} minutes of processor time."
    )
    lines = [
        _HEAD,
        total,
        "",
        "| " + " | ".join(facts) + " |",
        "|" + "---|" * len(facts),
        "| " + " | ".join(facts.values()) + " |",
        "",
    ]
    if failed := failures(found):
        lines += ["## Broken promises", "", *(f"- {line}" for line in failed), ""]
    for section, (title, table) in SECTIONS.items():
        part = [r for r in found if r.section == section or (section, r.section) == ("detection", "formula")]
        lines += [f"## {title}", "", *table(part), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def write(folder: Path, facts: Mapping[str, str], found: Sequence[Result]) -> None:
    """Write calibration.md and calibration.json."""
    rows = ",\n  ".join(json.dumps(vars(result)) for result in found)
    (folder / "calibration.json").write_text(
        f'{{"made": {json.dumps(dict(facts))},\n "results": [\n  {rows}\n]}}\n'
    )
    (folder / "calibration.md").write_text(text(facts, found))


def read(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Return the facts and the results of a calibration.json."""
    data = json.loads(path.read_text())
    return data["made"], [Result(**row) for row in data["results"]]
