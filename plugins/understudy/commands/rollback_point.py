"""Commands about rollback points: what one consists of, whether it leads back, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from understudy.commands.instants import shown
from understudy.terminal import AsJson, err, errors, out

if TYPE_CHECKING:
    from understudy.points.manifest import Difference

__all__ = ["rollback_point_app"]

rollback_point_app = typer.Typer(
    no_args_is_help=True, help="The known-good state that a run can be taken back to."
)
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run that took the point.")]


@rollback_point_app.command("show")
def rollback_point_show(run_id: Run, as_json: AsJson = False) -> None:
    """Show what a run's rollback point consists of, and what the last look at it found."""
    from understudy.points.point import find
    from understudy.session import session
    from understudy.store import readiness

    with errors(as_json), session().store.read() as connection:
        point = find(connection, run_id)
        looked = readiness.newest(connection, run_id)
    if as_json:
        print(json.dumps(point.to_dict() | {"readiness": looked.to_dict() if looked else None}))
        return
    _say(f"Version {point.version} of {point.model}, taken by run {run_id} at {shown(point.at)}.")
    _say(f"digest: {point.digest}")
    table = Table("part", "digest", "what it holds")
    for name, part in point.parts.items():
        table.add_row(name, str(part["digest"])[:12], _summary(part))
    out.print(table)
    if looked is None:
        _say("Nobody has proven yet that it leads back.")
    else:
        state = "It leads back" if looked.ready else "It does not lead back"
        _say(f"{state}, proven at {shown(looked.at)} in {looked.seconds:.1f} s. {looked.sentence}")


@rollback_point_app.command("verify")
def rollback_point_verify(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="The run that took the point; without one, the newest of every model."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Collect every part again, score the recorded probe, and name whatever is not as it was recorded."""
    from understudy.points import readiness
    from understudy.session import session

    with errors(as_json):
        doors = session()
        found = [readiness.check(doors, run_id)] if run_id else readiness.check_all(doors)
    if as_json:
        told = [item.to_dict() for item in found]
        print(json.dumps(told[0] if run_id else told))
    for item in [] if as_json else found:
        for problem in item.problems:
            err.print(f"{item.run_id}: {problem}", style="red", markup=False, soft_wrap=True)
        if item.ready:
            _say(f"{item.sentence} Every part is as it was recorded ({item.seconds:.1f} s).")
    if not (found or as_json):
        _say("No run has taken a rollback point yet.")
    if not all(item.ready for item in found):
        raise typer.Exit(1)


@rollback_point_app.command("diff")
def rollback_point_diff(
    run_id: Run,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another run, to compare the points of both.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is different now from what a rollback point holds, or how two points differ."""
    from understudy.points.manifest import compare
    from understudy.points.point import find
    from understudy.points.verify import changed
    from understudy.session import session

    with errors(as_json):
        doors = session()
        with doors.store.read() as connection:
            point = find(connection, run_id)
            second = find(connection, other) if other else None
        found = compare(point.parts, second.parts) if second else changed(doors, point)
    if as_json:
        print(json.dumps([dict(item.__dict__) for item in found]))
        return
    _differences(found, f"run {other}" if other else "now")


def _differences(found: Sequence[Difference], second: str) -> None:
    if not found:
        _say("Nothing differs.")
        return
    table = Table("part", "item", "in the point", second)
    for item in found:
        table.add_row(item.part, item.item, item.recorded[:40], item.found[:40])
    out.print(table)


def _summary(part: Mapping[str, Any]) -> str:
    """Tell what a part holds in a few words: its plain facts, and how much of the others."""
    told = []
    for name, value in part.items():
        if name == "digest" or value is None:
            continue
        if isinstance(value, Mapping | list):
            told.append(f"{len(value)} {name}")
        else:
            told.append(f"{name} {str(value)[:12]}")
    return ", ".join(told) or "nothing"


def _say(sentence: str) -> None:
    out.print(sentence, markup=False, highlight=False, soft_wrap=True)
