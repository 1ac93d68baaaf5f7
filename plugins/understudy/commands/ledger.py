"""Commands about the ledger: showing it, verifying it, exporting it, and what it says of a moment."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from understudy.commands.instants import instant, shown
from understudy.errors import BadParameter, RecordUnreadable
from understudy.terminal import AsJson, err, errors, out

if TYPE_CHECKING:
    from understudy.record.as_of import Situation
    from understudy.record.chain import Anchor, Head

__all__ = ["ledger_app"]

ledger_app = typer.Typer(no_args_is_help=True, help="The append-only record of who did what, when and why.")

Against = Annotated[
    list[Path] | None,
    typer.Option(
        help="A certificate, backup or export whose newest entry must be in the chain; may be repeated."
    ),
]


@dataclass(frozen=True)
class _Found:
    """What a verification found, wherever the chain was."""

    entries: int
    head: Head
    broken: Any
    anchors: Sequence[Anchor]
    lost: Sequence[Anchor]
    asked: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "head": dict(self.head.__dict__),
            "first_broken": self.broken.seq if self.broken else None,
            "kind": self.broken.kind if self.broken else None,
            "sentence": self.broken.sentence if self.broken else None,
            "held_against": len(self.anchors),
            "lost_in_restores": [anchor.where for anchor in self.lost],
        } | ({"asked": self.asked} if self.asked else {})


@ledger_app.command("verify")
def ledger_verify(
    file: Annotated[Path | None, typer.Option(help="An exported ledger; nothing else is asked.")] = None,
    against: Against = None,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Hold it against MLflow's memory too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Walk the whole chain and name the first entry that was altered, removed, put in or cut off."""
    with errors(as_json):
        if file is not None and mlflow:
            raise BadParameter("A file is verified without asking MLflow. Leave --mlflow or --file away.")
        found = _verify_store(against or [], mlflow) if file is None else _verify_file(file, against or [])
    if as_json:
        print(json.dumps(found.to_dict()))
    elif found.broken is not None:
        err.print(f"{found.broken.sentence} ({found.broken.kind})", style="red", markup=False, soft_wrap=True)
    else:
        _tell_sound(found)
    if found.broken is not None:
        raise typer.Exit(1)


def _tell_sound(found: _Found) -> None:
    held = len(found.anchors) - len(found.lost)
    out.print(
        f"{found.entries} entries, chain unbroken. Held against {held} head{'' if held == 1 else 's'} kept elsewhere. "
        f"The newest is {found.head.to_text()}",
        markup=False, soft_wrap=True, highlight=False,
    )  # fmt: skip
    for anchor in found.lost:
        words = f"Entry {anchor.head.seq}, which {anchor.where} knows, was lost when the store was put back from a backup."
        err.print(words, style="red", markup=False, soft_wrap=True)


def _verify_store(against: Sequence[Path], mlflow: bool) -> _Found:
    from understudy.session import session
    from understudy.store import heads, ledger

    doors = session()
    anchors = [heads.of_file(path) for path in against]
    if mlflow:
        anchors += _in_mlflow()
    with doors.store.read() as connection:
        anchors += heads.kept_here(connection, doors.settings.ledger_head_path)
        found = ledger.examine(connection, anchors)
    return _Found(found.entries, found.head, found.broken, anchors, found.lost)


def _verify_file(path: Path, against: Sequence[Path]) -> _Found:
    from understudy.record.exported import verify_lines
    from understudy.store import heads

    anchors = [heads.of_file(other) for other in against]
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            top, walk, entries = verify_lines(lines, anchors)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"{path} cannot be read ({error}). Give an exported ledger.") from error
    return _Found(entries, walk.head, walk.broken, anchors, walk.lost, dict(top["asked"]))


def _in_mlflow() -> Iterator[Anchor]:
    """Yield the heads that MLflow remembers of the runs that the store knows; others may be of another installation."""
    from understudy.record.chain import Anchor, Head
    from understudy.session import session
    from understudy.store import runs

    doors = session()
    with doors.store.read() as connection:
        own = runs.in_mlflow(connection)
    for mlflow_run_id, text, at in doors.tracking.ledger_heads():
        if mlflow_run_id not in own:
            continue
        where = f"MLflow's run {mlflow_run_id}"
        try:
            yield Anchor(where, Head.from_text(text), at)
        except ValueError as error:
            raise RecordUnreadable(
                f"{where} remembers {text!r} as the newest entry of the ledger, which is none: its tag was altered."
            ) from error


@ledger_app.command("show")
def ledger_show(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None, as_json: AsJson = False
) -> None:
    """Print the entries in order."""
    from understudy.session import session
    from understudy.store import ledger

    with errors(as_json), session().store.read() as connection:
        entries = ledger.entries(connection, model=model)
    if as_json:
        print(json.dumps([entry.__dict__ for entry in entries]))
        return
    table = Table("seq", "at", "actor", "action", "model", "run", "reason")
    for entry in entries:
        table.add_row(
            str(entry.seq), shown(entry.at), entry.actor, entry.action, entry.model or "", entry.run_id or "", entry.reason
        )  # fmt: skip
    out.print(table)


@ledger_app.command("export")
def ledger_export(
    model: Annotated[str | None, typer.Option(help="Only this model's entries.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run's entries.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from this time on: Unix seconds, or ISO 8601 with a time zone.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only up to this time.")] = None,
) -> None:
    """Print the ledger, or a part of it, as lines of JSON that `ledger verify --file` checks without the store."""
    from understudy.session import session
    from understudy.store import history

    with errors(False):
        doors = session()
        begin, end = (None if text is None else instant(text) for text in (since, until))
        with doors.store.read() as connection:
            lines = history.export(
                connection, doors.store.clock(), model=model, run_id=run, since=begin, until=end
            )
            for line in lines:
                sys.stdout.buffer.write(line.encode("utf-8", "surrogatepass") + b"\n")
        sys.stdout.buffer.flush()


@ledger_app.command("as-of")
def ledger_as_of(
    model: Annotated[str, typer.Argument(help="Registered model name.")],
    time: Annotated[str, typer.Argument(help="Unix seconds, or ISO 8601 with a time zone.")],
    unit: Annotated[str | None, typer.Option(help="Which version served this unit.")] = None,
    cohort: Annotated[
        list[str] | None, typer.Option(help="A cohort of the unit, as column=value; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which version served whom at a time, and which entries put that in force."""
    from understudy.session import session
    from understudy.store import history

    with errors(as_json):
        at, cohorts = instant(time), _cohorts(cohort or [])
        with session().store.read() as connection:
            found = history.as_of(connection, model, at)
    if as_json:
        asked = {} if unit is None else {"unit": unit, "version": found.version_for(unit, cohorts)}
        print(json.dumps(found.to_dict() | {"model": model} | asked))
        return
    out.print(f"{model} at {shown(at)}: {found.sentence()}", markup=False, highlight=False, soft_wrap=True)
    if unit is not None:
        version = found.version_for(unit, cohorts)
        served = f"was served version {version}" if version else "cannot be told from the record"
        out.print(f"Unit {unit} {served}.", markup=False, highlight=False, soft_wrap=True)
    _tell_why(found)


def _tell_why(found: Situation) -> None:
    exposure = found.in_force
    if exposure is not None and exposure.exposed:
        told = f"run {exposure.run_id}, stage {exposure.stage}, generation {exposure.generation}"
        out.print(told, markup=False, highlight=False)
    for entry in found.why:
        words = f"entry {entry.seq}  {shown(entry.at)}  {entry.actor}  {entry.action}: {entry.reason}"
        out.print(words, markup=False, highlight=False, soft_wrap=True)
    if found.doubt:
        numbers = ", ".join(map(str, found.doubt))
        words = f"Entries {numbers} were written before and have later times: somebody's clock ran backwards."
        err.print(words, style="red", markup=False, soft_wrap=True)


def _cohorts(given: Sequence[str]) -> dict[str, str]:
    from understudy.exposure import column_and_value

    try:
        return dict(column_and_value(cohort) for cohort in given)
    except ValueError as error:
        raise BadParameter(f"{error}. Give each cohort of the unit as --cohort column=value.") from error
