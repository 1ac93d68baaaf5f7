"""The command that drafts the review of a rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.errors import BadParameter
from understudy.terminal import AsJson, errors, out

__all__ = ["incident"]


def incident(
    model: Annotated[str, typer.Argument(help="Registered model name.")],
    rollback: Annotated[
        int | None,
        typer.Option(help="Number of the ledger entry that began it; default: the newest rollback."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Write the page here instead of showing it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draft the review of a rollback from the record: timeline, detection, recovery, who was affected, what is open."""
    from understudy.lifecycle.incident import draft, write
    from understudy.session import session

    with errors(as_json):
        if as_json:
            print(json.dumps(dict(draft(session(), model, rollback).__dict__)))
            return
        page = write(session(), model, rollback)
    if file is None:
        print(page, end="")
        return
    with errors(as_json):
        _keep(page, file)
    out.print(f"Written to {file}.", markup=False, highlight=False, soft_wrap=True)


def _keep(page: str, file: Path) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadParameter(
            f"The review cannot be written to {file} ({error.strerror}). Name a file in a folder that is there and writable."
        ) from error
