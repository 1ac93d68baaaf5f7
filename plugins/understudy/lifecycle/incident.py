"""Drafts the review of an incident from the record: what happened, who noticed, who was affected, what is still open."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from understudy.errors import EventsUnreadable, NoSuchId
from understudy.events.lookups import exposed_units
from understudy.record.chain import Entry
from understudy.session import Session
from understudy.spec import Metric
from understudy.store import ledger, records, runs
from understudy.store.records import RecordedVerdict
from understudy.verdicts import Outcome

__all__ = ["Review", "draft", "review", "rollback_of", "write"]

_BEFORE = 3600.0
"""A rollback without a run: so many seconds of the record before it belong to the story."""

_OVER = ("rollback.finished", "rollback.abandoned")


@dataclass(frozen=True)
class Review:
    """What the record says of one rollback.

    Attributes:
        model: The model.
        rollback: Number of the ledger entry that began it.
        run_id: The run that it ended, if one was on.
        reason: Why it was asked for.
        actor: Who asked.
        began_at: When it was asked for, Unix seconds.
        result: What the rollback came to; empty while it is on.
        timeline: Time, who, what and why of everything that belongs to it, in order.
        detection: How it was found, in a sentence.
        found_after: Seconds from the first exposure of the run to the end of exposure; None where nobody was exposed.
        recovery: Seconds to each step, by its name.
        objectives: What was measured beside what was asked for.
        affected: Who got an answer of the version that was taken back, in a sentence.
        guarded: What spoke against the version.
        silent: What judged it and did not speak against it.
        questions: What the record leaves open.
    """

    model: str
    rollback: int
    run_id: str | None
    reason: str
    actor: str
    began_at: float
    result: Mapping[str, Any]
    timeline: Sequence[tuple[float, str, str, str]]
    detection: str
    found_after: float | None
    recovery: Mapping[str, float]
    objectives: Mapping[str, Mapping[str, Any]]
    affected: str
    guarded: Sequence[str] = field(default_factory=tuple)
    silent: Sequence[str] = field(default_factory=tuple)
    questions: Sequence[str] = field(default_factory=tuple)


def write(doors: Session, model: str, rollback: int | None = None) -> str:
    """Return the review of a rollback as Markdown.

    Args:
        doors: The store and the event log.
        model: The model.
        rollback: Number of the ledger entry that began it; None means the newest.

    Raises:
        NoSuchId: The ledger has no such rollback.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("understudy.lifecycle", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  the page is Markdown
    )
    environment.filters["clock"] = lambda at: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    return environment.get_template("incident.md").render(review=draft(doors, model, rollback))


def draft(doors: Session, model: str, rollback: int | None = None) -> Review:
    """Collect the record of a rollback and draft its review.

    Args:
        doors: The store and the event log.
        model: The model.
        rollback: Number of the ledger entry that began it; None means the newest.

    Raises:
        NoSuchId: The ledger has no such rollback.
    """
    with doors.store.read() as connection:
        begun = ledger.entries(connection, model=model, actions=("rollback.started",))
        chosen = [entry for entry in begun if rollback in (None, entry.seq)]
        if not chosen:
            known = ", ".join(str(entry.seq) for entry in begun) or "none"
            wanted = "rollback" if rollback is None else f"rollback {rollback}"
            raise NoSuchId(
                f"The ledger has no {wanted} of {model}. Entries that began one: {known}. "
                "`understudy ledger show` lists everything."
            )
        started = chosen[-1]
        entries = ledger.entries(connection, model=model)
        verdicts = records.verdicts_of(connection, started.run_id) if started.run_id else []
        spec = runs.get(connection, started.run_id).spec if started.run_id else {}
    metrics = [Metric.model_validate(item) for item in spec.get("metrics", ())]
    return review(started, entries, verdicts, metrics, _units(doors, started))


def rollback_of(doors: Session, run_id: str) -> int | None:
    """Return the number of the ledger entry that began the newest rollback of a run; None where there was none."""
    with doors.store.read() as connection:
        found = ledger.entries(connection, run_id=run_id, newest=1, actions=("rollback.started",))
    return found[0].seq if found else None


def _units(doors: Session, started: Entry) -> tuple[int, int] | None:
    if started.run_id is None:
        return None
    try:
        return exposed_units(doors.settings.events_dir, str(started.model), started.run_id)
    except EventsUnreadable:
        return None


def review(
    started: Entry,
    entries: Sequence[Entry],
    verdicts: Sequence[RecordedVerdict],
    metrics: Sequence[Metric],
    units: tuple[int, int] | None,
) -> Review:
    """Draft a review. Pure: the same record gives the same review.

    Args:
        started: The entry that began the rollback.
        entries: Every entry of the model, in order.
        verdicts: Every verdict of the run that it ended.
        metrics: What the run's spec measures.
        units: How many units were answered by the challenger, and how many were seen; None where nobody can tell.
    """
    story = _story(started, entries)
    ended = next((entry for entry in story if entry.action == "rollback.finished"), None)
    result: Mapping[str, Any] = dict(ended.body) if ended else {}
    looks = [item for item in verdicts if item.is_look]
    raised = next((entry.at for entry in story if entry.action == "exposure.raised"), None)
    dropped = next((entry.at for entry in story if entry.action == "exposure.dropped"), None)
    guarded, silent = _judgements(verdicts, metrics)
    return Review(
        model=str(started.model),
        rollback=started.seq,
        run_id=started.run_id,
        reason=started.reason,
        actor=started.actor,
        began_at=started.at,
        result=result,
        timeline=[(entry.at, entry.actor, entry.action, entry.reason) for entry in story],
        detection=_detection(started, looks),
        found_after=None if raised is None else (dropped or started.at) - raised,
        recovery=dict(result.get("seconds", {})),
        objectives=dict(result.get("objectives", {})),
        affected=_affected(result, units),
        guarded=guarded,
        silent=silent,
        questions=_questions(started, story, looks, result, guarded, units),
    )


def _story(started: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Return what belongs to a rollback: all from the start of its run, or from an hour before it, until something new began.

    Without a run, nothing from before the end of an earlier rollback belongs to it.
    """
    later = [
        entry.seq
        for entry in entries
        if entry.seq > started.seq and entry.action in ("run.started", "rollback.started")
    ]
    before = [
        entry.seq
        for entry in entries
        if (entry.run_id == started.run_id if started.run_id else entry.at >= started.at - _BEFORE)
    ]
    over = [
        entry.seq + 1
        for entry in entries
        if entry.seq < started.seq and not started.run_id and entry.action in _OVER
    ]
    first, until = max(min([*before, started.seq]), *over, 0), min(later, default=None)
    return [entry for entry in entries if entry.seq >= first and (until is None or entry.seq < until)]


def _detection(started: Entry, looks: Sequence[RecordedVerdict]) -> str:
    last = looks[-1] if looks else None
    if last is None:
        return f"{started.actor} asked for it; no look at live evidence is on record."
    if last.decision == "ROLL_BACK":
        return f"The guard found it at look {len(looks)}, at stage {last.stage}: {last.verdict.sentence}"
    return (
        f"{started.actor} asked for it. The guard had not found it: the last of {len(looks)} looks said {last.decision}, "
        f"{last.verdict.sentence}"
    )


def _affected(result: Mapping[str, Any], units: tuple[int, int] | None) -> str:
    impact = result.get("objectives", {}).get("impact", {}).get("measured")
    changed = "" if impact is None else f" Answers of up to {impact:g} % of units changed with the rollback."
    if units is None:
        return f"The event log does not tell who was answered by the version that was taken back.{changed}"
    return f"{units[0]:,} of {units[1]:,} units that were seen got an answer of the version that was taken back.{changed}"


def _judgements(
    verdicts: Sequence[RecordedVerdict], metrics: Sequence[Metric]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what spoke against the version, and what did not: the last look's parts, and the steps before it."""
    looks = [item for item in verdicts if item.is_look]
    steps = {item.step: item for item in verdicts if not item.is_look and not item.step.startswith("stage_")}
    guarded = [f"{name}: {item.verdict.sentence}" for name, item in steps.items() if not item.verdict.passed]
    silent = [f"{name}: {item.verdict.sentence}" for name, item in steps.items() if item.verdict.passed]
    deciding = {metric.name for metric in metrics if metric.decides}
    last = looks[-1].verdict if looks else None
    for part in (last.parts or (last,)) if last else ():
        if part.cohort not in (None, "all") and part.outcome is not Outcome.FAIL:
            continue
        if part.outcome is Outcome.FAIL:
            guarded.append(part.sentence)
        elif part.metric in deciding:
            silent.append(part.sentence)
    return tuple(dict.fromkeys(guarded)), tuple(dict.fromkeys(silent))


def _questions(
    started: Entry,
    story: Sequence[Entry],
    looks: Sequence[RecordedVerdict],
    result: Mapping[str, Any],
    guarded: Sequence[str],
    units: tuple[int, int] | None,
) -> tuple[str, ...]:
    found = ["What was the cause, and which step before exposure could have found it?"]
    if not guarded:
        found.append("Nothing on record spoke against the version. Which metric would have?")
    elif looks and looks[-1].decision != "ROLL_BACK":
        found.append("A person was faster than the guard. Which metric or margin would have found it first?")
    if not result:
        found.append("The rollback has not ended. What does it wait for?")
    found += [
        f"The objective for {name} was missed: {one['measured']:g}, and {one['objective']:g} was asked for. Why?"
        for name, one in result.get("objectives", {}).items()
        if not one["met"]
    ]
    found += [
        f"It is not proven that everything is as before: {problem} Why?"
        for problem in result.get("problems", ())
    ]
    actions = {entry.action for entry in story}
    if "rollback.deferred" in actions:
        found.append("A server did not answer during the rollback. Would the objective hold without it?")
    if "rollback.stalled" in actions:
        found.append("A step took longer than its objective. What held it up?")
    consumers = result.get("found", {}).get("consumers", {}).get("consumers", ())
    silent = [item["name"] for item in consumers if not item["contact"]]
    if silent:
        found.append(f"Who tells {', '.join(silent)}? They have no contact in the spec.")
    if units is None and started.run_id:
        found.append("Who was affected? The event log does not tell.")
    return tuple(found)
