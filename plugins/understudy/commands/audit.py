"""The command that looks for what nobody has noticed."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from understudy.terminal import AsJson, errors, out

__all__ = ["audit"]

_STYLES = {"error": "red", "warning": "yellow", "info": ""}


def audit(
    days: Annotated[float, typer.Option(min=0, help="How many days back overrides are listed.")] = 7.0,
    as_json: AsJson = False,
) -> None:
    """Look for stale flags, lapsed leases, a broken ledger, points that do not verify, runs past their end, overrides, drills."""
    from understudy.lifecycle.audit import ERROR
    from understudy.lifecycle.audit import audit as run
    from understudy.session import session

    with errors(as_json):
        found = run(session(), days)
    if as_json:
        print(json.dumps({"findings": [one.to_dict() for one in found]}))
    elif not found:
        out.print("Nothing was found.")
    else:
        table = Table("severity", "what", "about", "found", "runbook")
        for one in found:
            table.add_row(
                one.severity, one.kind, one.about, one.sentence, one.runbook, style=_STYLES[one.severity]
            )
        out.print(table)
    if any(one.severity == ERROR for one in found):
        raise typer.Exit(1)
