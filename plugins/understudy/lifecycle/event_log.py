"""What is done with a model's event log from outside: compact it, remove what is old, bring outcomes in, ask it.

Plain functions, for the command line and for the DAG ``event_log``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import EventsBusy, NoSuchExperiment, NoSuchRun, SettingMissing, UnderstudyError
from understudy.points.retention import sweep
from understudy.session import Session
from understudy.spec import load_all
from understudy.store import exposures, ledger, runs

if TYPE_CHECKING:
    from understudy.events.imports import Columns, Imported
    from understudy.events.sql import Answer
    from understudy.events.tables import Rows

__all__ = [
    "compact_events",
    "import_outcomes",
    "keep_events",
    "query_events",
    "retain_events",
    "stored_events",
]

Report = Callable[[float, str], None]


def compact_events(
    doors: Session, model: str, *, quiet: float | None = None, report: Report = lambda done, what: None
) -> dict[str, Any]:
    """Turn a model's quiet segments into Parquet partitions, without the columns that are declared private by now.

    Args:
        doors: The installation.
        model: Registered model name.
        quiet: Seconds since the last write; ten minutes unless said otherwise.
        report: Is told how far it is.

    Raises:
        NoSuchExperiment: No experiment is about the model, so nobody knows what is private.
        EventsBusy: Another process works on the model's events.
        EventsUnwritable: The disk is full, or the storage does not answer; nothing is lost.
    """
    from understudy.events.compaction import QUIET, compact

    done = compact(
        _folder(doors, model),
        now=doors.store.clock(),
        root=doors.settings.partitions_url(model),
        private=_hidden(doors, model),
        quiet=QUIET if quiet is None else quiet,
        report=report,
    )
    return {"model": model, **asdict(done)}


def retain_events(doors: Session, model: str, days: float | None = None) -> dict[str, Any]:
    """Remove a model's events that are older than some days, but none that a run counts which is on.

    Args:
        doors: The installation.
        model: Registered model name.
        days: The age; that of the setting ``UNDERSTUDY_RETENTION_DAYS`` unless given.

    Raises:
        SettingMissing: Neither says how old.
        EventsBusy: Another process works on the model's events.
        EventsUnwritable: The disk or the storage refuses.
    """
    from understudy.events.retention import retain

    days = doors.settings.retention_days(model) if days is None else days
    if days is None:
        raise SettingMissing(
            f"Nothing says how long events of {model} are kept, so all of them are. Give --days, or set "
            "UNDERSTUDY_RETENTION_DAYS."
        )
    with doors.store.read() as connection:
        run = runs.active(connection, model)
    done = retain(
        _folder(doors, model),
        days=days,
        now=doors.store.clock(),
        needed_from=_needed_from(run) if run else None,
    )
    return {"model": model, "days": days, "kept_for_run": run.run_id if run else None, **asdict(done)}


def keep_events(doors: Session, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Compact the events of every model and remove what is old, as the DAG ``event_log`` does.

    What fails for one model, or in one of the two, keeps nothing else from being done: on a full disk removal makes space.

    Args:
        doors: The installation.
        tell: Is told, in one sentence each, what was done, what was left and why, and what failed.

    Returns:
        What `compact_events` and `retain_events` returned.

    Raises:
        UnderstudyError: The first failure, once everything else has been done.
    """
    done: list[dict[str, Any]] = []
    failures: list[UnderstudyError] = []
    folders = sorted(path for path in doors.settings.events_dir.glob("*") if path.is_dir())
    if not folders:
        tell("No events have been logged yet.")
    for model in (folder.name for folder in folders):
        for work in (compact_events, _remove_old):
            try:
                if found := work(doors, model):
                    done.append(found)
                    tell(_sentence(found))
            except (EventsBusy, NoSuchExperiment) as error:
                tell(f"{model}: left as it is. {error.message}")
            except UnderstudyError as error:
                failures.append(error)
                tell(f"{model}: {error.message}")
    if freed := sweep(doors):
        tell(f"Snapshots that no rollback point needs any more are removed, {freed:,} bytes.")
    if failures:
        raise failures[0]
    return done


def _remove_old(doors: Session, model: str) -> dict[str, Any] | None:
    return None if doors.settings.retention_days(model) is None else retain_events(doors, model)


def _sentence(done: Mapping[str, Any]) -> str:
    if "days" in done:
        kept = f"; what run {done['kept_for_run']} needs was kept" if done["kept_for_run"] else ""
        return (
            f"{done['model']}: {done['partitions']:,} partitions with {done['events']:,} events and {done['segments']:,} "
            f"segments were older than {done['days']:g} days and are removed, {done['bytes']:,} bytes{kept}."
        )
    odd = "".join(f" {name} stays as it is: {why}." for name, why in done["left"].items())
    return (
        f"{done['model']}: {done['segments']:,} segments with {done['events']:,} events are {done['partitions']:,} partitions "
        f"now ({done['bytes_before']:,} bytes before, {done['bytes_after']:,} after), {done['busy']:,} are being written, "
        f"{done['torn_lines']:,} torn lines were cut.{odd}"
    )


def query_events(doors: Session, wanted: str, queries: Sequence[str]) -> list[Answer]:
    """Answer SQL about the events of one run, or of all runs of one experiment.

    Args:
        doors: The installation.
        wanted: The run or the experiment.
        queries: In DuckDB's SQL, over `understudy.events.sql.TABLES`.

    Raises:
        NoSuchRun: Neither a run nor an experiment that has had one bears that name.
        BadParameter: A query is refused.
        EventsUnreadable: A part of the log is out of reach.
    """
    from understudy.events.sql import ask

    with doors.store.read() as connection:
        every = [
            run
            for exposure in exposures.every(connection)
            for run in runs.since(connection, exposure.model, 0.0)
        ]
        found = [run for run in every if wanted in (run.run_id, run.experiment)]
        if not found:
            known = ", ".join(sorted({run.experiment for run in every})) or "none"
            raise NoSuchRun(
                f"{wanted!r} is neither a run nor an experiment that has had one. Experiments with runs: {known}; "
                "`understudy status` names the newest run of each model."
            )
        entries = ledger.entries(connection, model=found[0].model)
    names = {run.run_id for run in found}
    spans = [(run.created_at, run.updated_at if run.state.terminal else float("inf")) for run in found]
    context = [
        {"seq": entry.seq, "happened_at": entry.at, "actor": entry.actor, "action": entry.action}
        | {"run": entry.run_id, "reason": entry.reason, "body": entry.body}
        for entry in entries
        if entry.run_id in names or any(start <= entry.at <= end for start, end in spans)
    ]
    return ask(_folder(doors, found[0].model), [_told(run) for run in found], context, queries)


def _told(run: runs.Run) -> dict[str, Any]:
    return run.facts() | {
        "changed_at": run.updated_at,
        "mlflow_run_id": run.mlflow_run_id,
        "spec": run.spec,
    }


def import_outcomes(doors: Session, model: str, source: Rows, columns: Columns) -> Imported:
    """Bring outcomes of a table into a model's event log, by the rules of ``POST /outcomes``.

    Raises:
        NoSuchExperiment: No experiment is about the model.
        OutcomesInvalid: With every row that breaks a rule; nothing was imported.
        EventsBusy: Another process works on the model's events.
        EventsUnwritable: The disk is full or read-only.
    """
    from understudy.events import imports

    _hidden(doors, model)
    return imports.import_outcomes(_folder(doors, model), source, columns, doors.store.clock())


def stored_events(doors: Session, model: str) -> dict[str, Any]:
    """Return what is stored of a model's events; see `understudy.events.retention.inventory`."""
    from understudy.events.retention import inventory

    settings = doors.settings
    place = settings.partitions_url(model) or str(_folder(doors, model))
    kept = {"partitions_go_to": place, "retention_days": settings.retention_days(model)}
    return {"model": model, **kept, **inventory(_folder(doors, model))}


def _needed_from(run: runs.Run) -> float:
    """Return the receipt of the first event that a run counts.

    Metrics with a covariate also read what the units did before it; a guard that starts again must find all of that.
    """
    metrics = run.spec.get("metrics", ())
    return float("-inf") if any(metric.get("covariate") for metric in metrics) else run.created_at


def _folder(doors: Session, model: str) -> Path:
    return doors.settings.events_dir / model


def _hidden(doors: Session, model: str) -> set[str]:
    """Return the columns of a model that no experiment of today lets into a log: private ones, and units."""
    experiments = load_all(doors.settings.experiments)
    own = [experiment for experiment in experiments if experiment.model == model]
    if not own:
        known = ", ".join(sorted({experiment.model for experiment in experiments})) or "none"
        raise NoSuchExperiment(
            f"No experiment is about model {model!r}, so nobody knows which of its columns are private; known models: {known}. "
            "Name one of those, or add an experiment file with `model` set to it."
        )
    return {name for experiment in own for name in (*experiment.traffic.private, experiment.traffic.unit)}
