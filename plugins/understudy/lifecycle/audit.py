"""The regular audit: what in the record, in the flag document and in the registry is not as it should be, and who overrode what.

Each finding names the page of the runbooks that says what to do. Nothing is changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import FlagDocumentError, UnderstudyError, Unreachable
from understudy.exposure import Exposure, read_flag
from understudy.lifecycle import drilled
from understudy.points import readiness, retention
from understudy.points.verify import verify
from understudy.registry import CHAMPION
from understudy.session import Session
from understudy.spec import Experiment, validate_folder
from understudy.store import exposures, heads, ledger, runs, unfinished
from understudy.store.runs import RunState

__all__ = ["ERROR", "INFO", "WARNING", "Finding", "audit"]

log = logging.getLogger(__name__)

ERROR, WARNING, INFO = "error", "warning", "info"

_RUNBOOKS = "docs/runbooks"
_DAY = 86400.0
_GRACE = 600.0
"""Seconds by which a stage may outlast its timeout: the look that ends it, a rollback, a restarted scheduler."""

_UNDER_WAY = 60.0
"""Seconds for which a rollback that was begun and waits for nothing counts as under way."""

_OVERRIDES = {
    "champion.adopted": "The registry's champion was changed past Understudy",
    "rollback.started": "A rollback to a version that somebody chose",
    "exposure.reset": "Exposure was reset when a backup was put back",
    "ledger.chained_anew": "The ledger was chained anew",
    "rollback.abandoned": "A rollback was given up",
}
_CHOSEN = "named by whoever"


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know.

    Attributes:
        severity: ``error``: somebody must act; ``warning``: before the next run; ``info``: for the record.
        kind: A short stable word.
        about: Model, run or file.
        sentence: What was found.
        runbook: Page that says what to do.
    """

    severity: str
    kind: str
    about: str
    sentence: str
    runbook: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return dict(self.__dict__)


def audit(doors: Session, days: float = 7.0) -> list[Finding]:
    """Look at everything; nothing that fails keeps the rest from being looked at.

    Args:
        doors: The installation.
        days: How far back overrides are listed.

    Returns:
        Findings, errors first. None means that all is well and nobody overrode anything.
    """
    now = doors.store.clock()
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("experiments", lambda: _specs(doors)),
        ("the ledger", lambda: _chain(doors)),
        ("the flag document", lambda: _flags(doors, now)),
        ("the registry", lambda: _champions(doors)),
        ("runs", lambda: _runs(doors, now)),
        ("rollbacks", lambda: _rollbacks(doors, now)),
        ("rollback points", lambda: _points(doors)),
        ("drills", lambda: _drills(doors, now)),
        ("overrides", lambda: _overrides(doors, now - days * _DAY)),
    ]
    found: list[Finding] = []
    for what, look in looks:
        try:
            found += look()
        except Unreachable as error:
            found.append(_finding(WARNING, "not_looked_at", what, error.message, "the-audit-found-something"))
        except UnderstudyError as error:
            found.append(_finding(ERROR, "not_looked_at", what, error.message, "the-audit-found-something"))
    for one in found:
        if one.severity == ERROR:
            log.error("Audit: %s: %s See %s.", one.about, one.sentence, one.runbook)
    order = (ERROR, WARNING, INFO)
    return sorted(found, key=lambda one: order.index(one.severity))


def _finding(severity: str, kind: str, about: str, sentence: str, page: str) -> Finding:
    return Finding(severity, kind, about, sentence, f"{_RUNBOOKS}/{page}.md")


def _specs(doors: Session) -> Iterator[Finding]:
    _, broken = validate_folder(doors.settings.experiments)
    for path, error in sorted(broken.items()):
        yield _finding(WARNING, "broken_spec", path.name, error.message, "the-audit-found-something")


def _chain(doors: Session) -> Iterator[Finding]:
    with doors.store.read() as connection:
        found = ledger.examine(connection, list(heads.kept_here(connection, doors.settings.ledger_head_path)))
    if found.broken is not None:
        yield _finding(
            ERROR, "broken_chain", f"entry {found.broken.seq}", found.broken.sentence, "the-ledger-is-broken"
        )


def _flags(doors: Session, now: float) -> Iterator[Finding]:
    """Find documents that say something else than the store, and leases that have run out under a run that is on."""
    with doors.store.read() as connection:
        known = exposures.every(connection)
    for exposure in known:
        # Once more where they differ: the document may have been written between the two looks.
        stale = _stale(doors, exposure.model) and _stale(doors, exposure.model)
        if stale:
            yield _finding(ERROR, "stale_flag", exposure.model, stale, "stale-flags")
        if exposure.exposed and not exposure.live(now):
            yield _finding(ERROR, "expired_lease", exposure.model, _lapsed(exposure, now), "stale-flags")


def _stale(doors: Session, model: str) -> str:
    """Return how the flag document differs from the store; empty where it does not."""
    with doors.store.read() as connection:
        kept = exposures.find(connection, model)
    generation = kept.generation if kept else None
    try:
        published = read_flag(doors.settings.flags_path, model)
    except (FlagDocumentError, OSError) as error:
        return f"The flag document cannot be read: {error}"
    if published is not None and published.generation == generation:
        return ""
    says = "nothing" if published is None else f"generation {published.generation}"
    return f"The flag document has {says}, and the store has generation {generation}."


def _lapsed(exposure: Exposure, now: float) -> str:
    ago = _since(now - (exposure.lease_expires_at or now))
    return (
        f"The lease of run {exposure.run_id} ran out {ago} ago, so everybody is served by champion {exposure.champion}; nobody "
        "has ended the run."
    )


def _champions(doors: Session) -> Iterator[Finding]:
    with doors.store.read() as connection:
        known = exposures.every(connection)
    for exposure in known:
        named = doors.registry.alias(exposure.model, CHAMPION)
        if named != exposure.champion:
            sentence = (
                f"The registry names {named or 'nobody'} champion, and version {exposure.champion} is served."
            )
            yield _finding(ERROR, "champion_differs", exposure.model, sentence, "the-audit-found-something")


def _runs(doors: Session, now: float) -> Iterator[Finding]:
    with doors.store.read() as connection:
        on = [run for model in _models(connection) if (run := runs.active(connection, model))]
    for run in on:
        if run.state is RunState.EXPOSED and run.stage:
            timeout = float(run.spec["stages"][run.stage - 1]["timeout"])
            over = now - (run.stage_entered_at or now) - timeout
            if over > _GRACE:
                sentence = f"Stage {run.stage} should have ended {_since(over)} ago, and the run is still on."
                yield _finding(ERROR, "past_its_end", run.run_id, sentence, "a-stage-does-not-move")
        elif now - run.updated_at > _DAY:
            sentence = f"The run has been {run.state.value} for {_since(now - run.updated_at)} and holds its model's lock."
            yield _finding(WARNING, "past_its_end", run.run_id, sentence, "a-stage-does-not-move")


def _rollbacks(doors: Session, now: float) -> Iterator[Finding]:
    with doors.store.read() as connection:
        for model in _models(connection):
            on = unfinished.asked(connection, model)
            if on is None or (not on.waits and now - on.at < _UNDER_WAY):
                continue
            told = f"Its rollback has not ended ({on.reason}). Finish it with `understudy rollback --resume`."
            yield _finding(ERROR, "unfinished_rollback", model, told, "roll-back-now")


def _points(doors: Session) -> Iterator[Finding]:
    """Look at every point; the version is loaded and asked for those that somebody would go back to now."""
    proven = {found.run_id: found.problems for found in readiness.check_all(doors)}
    with doors.store.read() as connection:
        live = retention.live(doors, connection)
    for point in live:
        problems = proven.get(point.run_id)
        if problems is None:
            problems = [str(difference) for difference in verify(doors, point.run_id)]
        if problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            sentence = f"The rollback point to version {point.version} of {point.model}: {problems[0]}{more}."
            yield _finding(ERROR, "unproven_point", point.run_id, sentence, "no-way-back")


def _drills(doors: Session, now: float) -> Iterator[Finding]:
    declared, _ = validate_folder(doors.settings.experiments)
    with doors.store.read() as connection:
        for experiment in declared:
            found = drilled.readiness(connection, experiment.model, experiment.drill, now)
            if not found["ready"] and _climbs_above(experiment):
                severity = ERROR if found["failed"] else WARNING
                yield _finding(severity, "not_drilled", experiment.name, found["sentence"], "not-drilled")


def _climbs_above(experiment: Experiment) -> bool:
    return max(stage.percent for stage in experiment.stages) > experiment.drill.above


def _overrides(doors: Session, since: float) -> Iterator[Finding]:
    with doors.store.read() as connection:
        entries = ledger.entries(connection, actions=tuple(_OVERRIDES))
    for entry in entries:
        if entry.at < since or not _overrode(entry.action, entry.body):
            continue
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(entry.at))
        sentence = f"{_OVERRIDES[entry.action]}: {entry.actor}, {when}, entry {entry.seq}: {entry.reason}"
        yield _finding(INFO, "override", entry.model or "the store", sentence, "the-audit-found-something")


def _overrode(action: str, body: Any) -> bool:
    """Tell whether an entry is one of the usual kind: the first adoption of a champion, a rollback to the one before."""
    if action == "champion.adopted":
        return bool(body.get("before"))
    if action == "rollback.started":
        return _CHOSEN in str(body["plan"].get("why", ""))
    return True


def _models(connection: Connection) -> list[str]:
    return [exposure.model for exposure in exposures.every(connection)]


def _since(seconds: float) -> str:
    for unit, length in (("days", _DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
