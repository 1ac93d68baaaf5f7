"""Puts the online result beside the offline forecast and applies the ship rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy import policy
from understudy.lifecycle import forecast
from understudy.lifecycle.evidence import gather
from understudy.lifecycle.exposed import registered_cohorts
from understudy.lifecycle.provenance import core_digest
from understudy.session import session
from understudy.stats.cells import ALL
from understudy.store import exposures, records
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["ONLINE_RESULT", "compare"]

ONLINE_RESULT = "online_result"
"""Name under which the ship rule's verdict is kept, with what it was made from."""


def compare(run_id: str) -> dict[str, Any]:
    """Decide by the ship rule whether the run may be promoted, and score the offline forecast.

    Raises:
        StepNotPassed: The primary has not won online, a guardrail is not proven tolerable, or a cohort was contained.
    """
    passage = session().passage(run_id)
    doors = passage.session
    now = doors.store.clock()
    with doors.store.read() as connection:
        exposed = exposures.find(connection, passage.run.model)
    contained = exposed.contained if exposed and exposed.run_id == run_id else ()
    cohorts = tuple(dict.fromkeys((*registered_cohorts(passage), *contained)))
    evidence = gather(passage, now, contained)
    ladder = _ladder(passage.previous(f"stage_{len(passage.experiment.stages)}"))
    shipped = policy.compare_online(passage.experiment, evidence, cohorts=cohorts, contained=contained)
    cells = forecast.by_cohort(passage, evidence)
    found = forecast.explained(passage, evidence, cells)
    folded = worst_of([ladder, shipped], shipped.sentence)
    verdict = Verdict(
        folded.outcome,
        folded.reason,
        f"{folded.sentence} {forecast.sentence_of(cells, found)}".strip(),
        {"forecast": cells, "explained": found, "evidence_digest": evidence.digest},
        folded.metric,
        folded.cohort,
        (ladder, *shipped.parts),
        change=shipped.change,
    )
    kept = {
        "seq": evidence.seq,
        "quality": evidence.quality.to_dict(),
        "digest": evidence.digest,
        "cohorts": list(cohorts),
        "contained": list(contained),
        "core": core_digest(),
    }
    with doors.store.write() as connection:
        records.record_verdict(connection, run_id, ONLINE_RESULT, shipped, evidence=kept, at=now)
    primary = cells.get(ALL, {})
    metrics = {
        f"{side}.{ALL}": -primary[side] for side in ("offline", "online") if primary.get(side) is not None
    }
    return passage.conclude(
        "compare", verdict, StepRecord(metrics=metrics, artifacts={"offline_online.csv": _table(cells)})
    )


def _ladder(last: Verdict | None) -> Verdict:
    if last is None or not last.passed:
        return Verdict(
            Outcome.ERROR,
            "ladder_not_climbed",
            "The last stage has not passed, so there is nothing to compare.",
        )
    return Verdict(Outcome.PASS, "ladder_climbed", "Every stage has passed.")


def _table(cells: Mapping[str, Mapping[str, Any]]) -> str:
    names = ("offline", "offline_lower", "offline_upper", "online", "online_lower", "online_upper", "held")
    lines = [",".join(("cohort", *names))]
    for cohort, row in cells.items():
        lines.append(",".join([cohort, *("" if row[name] is None else str(row[name]) for name in names)]))
    return "\n".join(lines) + "\n"
