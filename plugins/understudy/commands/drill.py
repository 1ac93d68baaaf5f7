"""The command that practises the way back of a model."""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any

import typer
from rich.table import Table

from understudy.terminal import AsJson, errors, out, progress

__all__ = ["drill"]


def drill(
    model: Annotated[str, typer.Argument(help="Registered model name.")],
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Only this scenario; may be repeated. Default: those that the spec demands."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plant faults in a sandbox copy of a model and measure what catches them and how fast everything is back."""
    from understudy.drill.run import drill as run

    with errors(as_json), progress(as_json) as report:
        found = run(model, scenario or (), actor=getpass.getuser(), progress=report)
    if as_json:
        print(json.dumps(found))
    else:
        out.print(_table(found))
        for one in found["scenarios"]:
            if not one["passed"]:
                out.print(one["sentence"], style="red", markup=False, highlight=False, soft_wrap=True)
        out.print(f"{found['sentence']} {found['seconds']:.0f} s in all.", markup=False, highlight=False)
    if not found["passed"]:
        raise typer.Exit(1)


def _table(found: dict[str, Any]) -> Table:
    title = f"{found['model']}: twins of version {found['version']}, policy of {found['experiment']}"
    table = Table(
        "scenario", "", "caught by", "units", "after", "harmed", "zero after", "verified after", title=title
    )
    for one in found["scenarios"]:
        table.add_row(
            one["scenario"],
            "passed" if one["passed"] else "FAILED",
            one["caught_by"] or "-",
            f"{one['units']:,}",
            f"{one['detected_after']:.1f} s",
            f"{one['harmed']:,} ({one['share']:.0%})",
            _seconds(one["zero_after"], 2),
            _seconds(one["recovered_after"], 1),
        )
    return table


def _seconds(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} s"
