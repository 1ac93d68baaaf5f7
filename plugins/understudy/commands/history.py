"""The command that shows what changed on a model."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from understudy.terminal import AsJson, errors

__all__ = ["history"]


def history(
    model: Annotated[str, typer.Argument(help="Registered model name.")],
    as_json: AsJson = False,
) -> None:
    """Show the change log of a model: versions, the data and numbers they were judged by, and who decided."""
    from understudy.lifecycle.change_log import change_log, write
    from understudy.session import session

    with errors(as_json):
        if as_json:
            print(json.dumps([dict(change.__dict__) for change in change_log(session(), model)]))
        else:
            print(write(session(), model), end="")
