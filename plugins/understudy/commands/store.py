"""Commands about the store itself: a backup while everything runs, and putting one back."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from understudy.commands.instants import shown
from understudy.terminal import AsJson, err, errors, out, progress

__all__ = ["store_app"]

store_app = typer.Typer(no_args_is_help=True, help="Backup and restore of Understudy's own store.")


@store_app.command("backup")
def store_backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; a file of that name is replaced.")],
    as_json: AsJson = False,
) -> None:
    """Write the store into one file, and what rollback points need beside it, while everything goes on; prove both."""
    from understudy.lifecycle.restoration import SNAPSHOTS, back_up
    from understudy.session import session

    with errors(as_json), progress(as_json) as report:
        found = back_up(session(), file, report)
    if as_json:
        print(json.dumps(found))
    else:
        out.print(
            f"{sum(found['rows'].values()):,} rows of {len(found['rows'])} tables are in {file}, up to entry "
            f"{found['head']['seq']} of the ledger; {found['snapshots']:,} snapshots are in {file.parent / SNAPSHOTS}.",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    _complain([] if as_json else found["snapshots_missing"])
    if found["snapshots_missing"]:
        raise typer.Exit(1)


@store_app.command("restore")
def store_restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    as_json: AsJson = False,
) -> None:
    """Put a backup into an empty store: all of it or nothing. Nobody is exposed afterwards, and runs that were on have ended."""
    from understudy.lifecycle.restoration import restore

    with errors(as_json):
        found = restore(file, getpass.getuser())
    if as_json:
        print(json.dumps(found))
        return
    backup = found["backup"]
    out.print(
        f"The store is what it was at {shown(backup['made_at'])}: {sum(backup['rows'].values()):,} rows, every table and the "
        f"ledger proven. The newest entry is {found['head']['seq']}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    for exposure in found["exposures"]:
        model = exposure["model"]
        told = (
            f"{model}: everybody is on version {exposure['champion']}, generation {exposure['generation']:,}."
        )
        if model in found["moved"]:
            told += f" The backup has another champion; {found['moved'][model]} knows this one."
        out.print(told, markup=False, highlight=False, soft_wrap=True)
    for run_id in found["ended"]:
        out.print(f"Run {run_id} was on and has ended.", markup=False, highlight=False, soft_wrap=True)
    _complain([*found["not_followed"], *found["snapshots_missing"]])


def _complain(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        err.print(sentence, style="red", markup=False, soft_wrap=True)
