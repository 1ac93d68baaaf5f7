"""Puts the online result beside the offline forecast and applies the ship rule."""

from __future__ import annotations

import math
from typing import Any

from understudy import policy
from understudy.lifecycle.expose import gather
from understudy.lifecycle.session import Passage, session
from understudy.stats.cells import ALL
from understudy.stats.evidence import Evidence
from understudy.store import records
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["ONLINE_RESULT", "compare"]

ONLINE_RESULT = "online_result"
"""Name under which the ship rule's verdict is kept with the whole evidence."""


def compare(run_id: str) -> dict[str, Any]:
    """Decide by the ship rule whether the run may be promoted, and score the offline forecast.

    Raises:
        StepNotPassed: The primary has not won online, or a guardrail is not proven tolerable.
    """
    passage = session().passage(run_id)
    now = passage.session.store.clock()
    evidence = gather(passage, now)
    last = passage.previous(f"stage_{len(passage.experiment.stages)}")
    ladder = _ladder(last)
    shipped = policy.compare_online(passage.experiment, evidence)
    forecast = _forecast(passage, evidence)
    folded = worst_of([ladder, shipped], shipped.sentence)
    verdict = Verdict(
        folded.outcome,
        folded.reason,
        f"{folded.sentence} {_held(forecast)}".strip(),
        {"forecast": forecast, "evidence_digest": evidence.digest},
        folded.metric,
        folded.cohort,
        (ladder, *shipped.parts),
    )
    with passage.session.store.write() as connection:
        records.record_verdict(
            connection, run_id, ONLINE_RESULT, shipped, evidence=evidence.to_dict(), at=now
        )
    primary = forecast.get(ALL, {})
    metrics = {
        f"{side}.{ALL}": -primary[side] for side in ("offline", "online") if primary.get(side) is not None
    }
    return passage.conclude(
        "compare", verdict, StepRecord(metrics=metrics, artifacts={"offline_online.csv": _table(forecast)})
    )


def _ladder(last: Verdict | None) -> Verdict:
    if last is None or not last.passed:
        return Verdict(
            Outcome.ERROR,
            "ladder_not_climbed",
            "The last stage has not passed, so there is nothing to compare.",
        )
    return Verdict(Outcome.PASS, "ladder_climbed", "Every stage has passed.")


def _forecast(passage: Passage, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return offline and online harm of the primary side by side, for everyone and by cohort."""
    offline = passage.previous("evaluate")
    expected = offline.evidence.get("forecast", {}) if offline else {}
    found = {}
    for cell in evidence.cells:
        if cell.metric != passage.experiment.primary.name or cell.cohort not in expected:
            continue
        online = policy.online_interval(passage.experiment, cell)
        forecast = expected[cell.cohort]
        found[cell.cohort] = {
            "offline": forecast["estimate"],
            "offline_lower": forecast["lower"],
            "offline_upper": forecast["upper"],
            "online": online.estimate,
            "online_lower": online.lower,
            "online_upper": online.upper,
            "held": _compatible(forecast, online.estimate, online.se),
        }
    return found


def _compatible(forecast: dict[str, Any], online: float | None, online_se: float | None) -> bool | None:
    """Tell whether offline and online differ by no more than their noise explains (two standard errors)."""
    if forecast["estimate"] is None or forecast["se"] is None or online is None or online_se is None:
        return None
    return bool(abs(forecast["estimate"] - online) <= 2 * math.hypot(forecast["se"], online_se))


def _held(forecast: dict[str, dict[str, Any]]) -> str:
    overall = forecast.get(ALL)
    if not overall or overall["held"] is None:
        return "The offline forecast cannot be compared."
    word = "held" if overall["held"] else "did not hold"
    return f"The offline forecast {word}: {-overall['offline']:.4g} expected, {-overall['online']:.4g} found."


def _table(forecast: dict[str, dict[str, Any]]) -> str:
    names = ("offline", "offline_lower", "offline_upper", "online", "online_lower", "online_upper", "held")
    lines = [",".join(("cohort", *names))]
    for cohort, row in forecast.items():
        lines.append(",".join([cohort, *("" if row[name] is None else str(row[name]) for name in names)]))
    return "\n".join(lines) + "\n"
