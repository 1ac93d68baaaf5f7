"""Small worlds for the policy: arms with a known mean, looks with a known answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tests import declared
from understudy import policy
from understudy.policy import Decision, History, Kind, Look
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import Evidence, Quality, StageUnits
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split
from understudy.verdicts import Verdict

NOW = 1_700_000_000.0
EXPERIMENT = declared.experiment()
UNITS = 2000


def arm(
    mean: float, units: int = UNITS, spread: float = 0.2, seed: int = 1, events: float = 2.0
) -> ArmMoments:
    """Return the moments of units with some events each, whose loss has a mean and a spread."""
    noise = np.random.default_rng(seed).normal(0.0, 1.0, (units, 1))
    if units > 1:
        noise -= noise.mean()
    return ArmMoments.from_units(events * (mean + spread * noise), np.full((units, 1), events))


def cell(
    metric: str, control: ArmMoments, challenger: ArmMoments, cohort: str = "all", kind: str | None = None
) -> Cell:
    known = {"brier": "brier", "errors": "error_rate", "slow": "latency_over"}
    return Cell(metric, kind or known[metric], cohort, control, challenger)


def brier(harm: float, units: int = UNITS, cohort: str = "all", spread: float = 0.2) -> Cell:
    return cell("brier", arm(0.2, units, spread), arm(0.2 + harm, units, spread, seed=2), cohort)


NEVER = cell("errors", arm(0.0, spread=0.0), arm(0.0, spread=0.0, seed=2))


def errors(bad: int, units: int = UNITS, control_bad: int = 0, cohort: str = "all") -> Cell:
    """Return units with one event each, so many of them bad."""
    arms = []
    for count in (control_bad, bad):
        failed = np.zeros((units, 1))
        failed[:count] = 1.0
        arms.append(ArmMoments.from_units(failed, np.ones((units, 1))))
    return cell("errors", arms[0], arms[1], cohort)


def quality(**changes: Any) -> Quality:
    sound = Quality(
        stages=(StageUnits(1, 1000, 1000, 0.1, 0.1, 0),),
        splits=(Split((1,), (1000, 1000), (0.1, 0.1)),),
        newest_received_at=NOW - 1,
        watermark=NOW - 1,
    )
    return replace(sound, **changes)


def evidence(*cells: Cell, **changes: Any) -> Evidence:
    return Evidence(
        "delay", "delay_test-v2-1", NOW, Cells.stack(cells or (brier(-0.05), NEVER)), quality(**changes)
    )


HARM = evidence(brier(0.1), NEVER)
UNDECIDED = evidence(brier(0.03), NEVER)
SILENT = evidence(newest_received_at=None)


def look(seen: Evidence, seconds: float = 60.0, stage: int = 1, **changes: Any) -> Look:
    return Look(seen, stage, seconds, NOW, **changes)


def judge(
    seen: Evidence,
    seconds: float = 60.0,
    stage: int = 1,
    cohorts: tuple[str, ...] = (),
    contained: tuple[str, ...] = (),
    history: History | None = None,
    **changes: Any,
) -> Decision:
    at = look(seen, seconds, stage, cohorts=cohorts, contained=contained, history=history or History())
    return policy.decide(declared.experiment(**changes), at)


def came_to(decision: Decision) -> tuple[Kind, str]:
    return decision.kind, decision.verdict.reason


def metrics(*more: dict[str, Any], brier_margin: float = 0.02) -> list[dict[str, Any]]:
    """Return the metrics of the declared experiment, with a margin for the primary and some more metrics."""
    listed = declared.content()["metrics"]
    listed[0]["margin"] = brier_margin
    return [*listed, *more]


def part(verdict: Verdict, metric: str, cohort: str = "all") -> Verdict:
    return next(found for found in verdict.parts if (found.metric, found.cohort) == (metric, cohort))


def every_verdict(verdict: Verdict) -> Iterable[Verdict]:
    """Yield a verdict and everything that it was made of."""
    yield verdict
    for inner in verdict.parts:
        yield from every_verdict(inner)


def upper_bound(seen: Evidence, metric: str = "brier", **changes: Any) -> float:
    """Return the bound that tolerances are judged by."""
    found = policy.tolerances(declared.experiment(**changes), (), seen.cells)
    row = [item.name for item in found.rows.metrics].index(metric)
    return float(found.table.upper[row])


def lower_bound(seen: Evidence, cohorts: tuple[str, ...] = (), cohort: str = "all", **changes: Any) -> float:
    """Return the bound that the primary's harm is judged by."""
    found = policy.states(declared.experiment(**changes), cohorts, seen.cells)
    keys = [(item.name, where) for item, where in zip(found.rows.metrics, found.rows.cohorts, strict=True)]
    return float(found.table.lower[keys.index(("brier", cohort))])
