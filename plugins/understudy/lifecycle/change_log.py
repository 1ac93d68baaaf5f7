"""The change log of a model: which version came and went, on which data, with which numbers, and who decided."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from understudy.errors import NoSuchVersion
from understudy.record.chain import Entry
from understudy.session import Session
from understudy.store import exposures, ledger, records, runs
from understudy.store.records import RecordedVerdict
from understudy.store.runs import Run

__all__ = ["Change", "change_log", "change_of_run", "write"]

_ALONE = (
    "champion.adopted",
    "champion.restored",
    "champion.promoted",
    "feature_set.activated",
    "exposure.reset",
)
"""Entries that change what is served without belonging to a run, or that only the ledger tells of."""

_RUNS = 200


@dataclass(frozen=True)
class Change:
    """One change, or one try.

    Attributes:
        at: When it began, Unix seconds.
        title: What it was, in a few words.
        version: The version that it was about.
        before: The champion when it began.
        run_id: The run, if it was one.
        who: Who asked.
        why: The reason that was given.
        outcome: How it ended, in a sentence.
        data: Digest of each dataset that was decided on, by its path.
        metrics: Sentence of each judgement of the last look, and of the evaluation.
        decisions: Who decided what, in order.
        mlflow_run: The MLflow run that has the report.
    """

    at: float
    title: str
    version: str
    before: str
    run_id: str | None
    who: str
    why: str
    outcome: str
    data: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[str] = field(default_factory=tuple)
    decisions: Sequence[str] = field(default_factory=tuple)
    mlflow_run: str = ""


def write(doors: Session, model: str) -> str:
    """Return the change log of a model as Markdown.

    Raises:
        NoSuchVersion: The store does not know the model.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("understudy.lifecycle", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  the page is Markdown
    )
    environment.filters["clock"] = lambda at: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    environment.filters["line"] = lambda text: " ".join(str(text).split())
    return environment.get_template("change_log.md").render(model=model, changes=change_log(doors, model))


def change_log(doors: Session, model: str) -> list[Change]:
    """Return every change of a model, newest first.

    Raises:
        NoSuchVersion: The store does not know the model.
    """
    found = []
    with doors.store.read() as connection:
        if exposures.find(connection, model) is None:
            known = ", ".join(exposure.model for exposure in exposures.every(connection)) or "none"
            raise NoSuchVersion(
                f"The store does not know {model}, so nothing has changed that it knows of. Known models: {known}."
            )
        entries = ledger.entries(connection, model=model)
        for run in runs.latest(connection, model, limit=_RUNS):
            point = records.rollback_point(connection, run.run_id)
            data = point["manifest"]["parts"]["snapshot"]["datasets"] if point else {}
            verdicts = records.newest_of_each_step(connection, run.run_id)
            look = records.newest_look(connection, run.run_id)
            own = [entry for entry in entries if entry.run_id == run.run_id]
            found.append(change_of_run(run, verdicts, look, own, data))
    found += [_alone(entry) for entry in entries if entry.run_id is None and entry.action in _ALONE]
    return sorted(found, key=lambda change: -change.at)


def change_of_run(
    run: Run,
    verdicts: Sequence[RecordedVerdict],
    look: RecordedVerdict | None,
    entries: Sequence[Entry],
    data: Mapping[str, str],
) -> Change:
    """Return what a run changed, or tried to. Pure.

    Args:
        run: The run.
        verdicts: The newest verdict of each step.
        look: The last look of its guard.
        entries: Its entries of the ledger, in order.
        data: Digest of each dataset that was decided on.
    """
    evaluated = [item.verdict.sentence for item in verdicts if item.step in ("evaluate", "compare")]
    parts = look.verdict.parts if look else ()
    judged = [part.sentence for part in parts if part.metric and part.cohort in (None, "all")]
    told = [
        f"{entry.action} by {entry.actor}: {entry.reason}" for entry in entries if entry.action in _DECISIONS
    ]
    return Change(
        at=run.created_at,
        title=f"{_TITLES.get(run.state, 'Version under way')}: version {run.version}",
        version=run.version,
        before=run.champion,
        run_id=run.run_id,
        who=run.actor,
        why=run.reason,
        outcome=run.ending or f"The run is {run.state.value}.",
        data=dict(data),
        metrics=tuple(dict.fromkeys([*evaluated, *judged])),
        decisions=tuple(told),
        mlflow_run=run.mlflow_run_id or "",
    )


_TITLES = {
    runs.RunState.PROMOTED: "Promoted",
    runs.RunState.ROLLED_BACK: "Rolled back",
    runs.RunState.FAILED: "Refused",
}
_DECISIONS = (
    "exposure.raised",
    "exposure.dropped",
    "cohort.contained",
    "champion.promoted",
    "champion.restored",
    "rollback.finished",
    "feature_set.activated",
)


def _alone(entry: Entry) -> Change:
    body: Mapping[str, Any] = entry.body
    version = str(body.get("champion") or "")
    return Change(
        at=entry.at,
        title=f"{entry.action}: {f'version {version}' if version else entry.model}",
        version=version,
        before=str(body.get("before") or ""),
        run_id=None,
        who=entry.actor,
        why=entry.reason,
        outcome=f"Entry {entry.seq} of the ledger.",
    )
