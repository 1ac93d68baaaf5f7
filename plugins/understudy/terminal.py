"""What every command does the same way: report errors, show progress, print JSON where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from understudy.errors import UnderstudyError

__all__ = ["AsJson", "err", "errors", "out", "progress"]

# Without markup: what people and servers wrote may hold square brackets, in tables too.
out = Console(markup=False)
err = Console(stderr=True, markup=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Turn an error that a user can act on into one message and exit code 1."""
    try:
        yield
    except UnderstudyError as error:
        if as_json:
            print(json.dumps({"error": error.to_dict()}))
        else:
            for line in str(error).splitlines():
                err.print(line, style="red", markup=False, soft_wrap=True)
            if error.runbook:
                err.print(f"See {error.runbook}.", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def progress(as_json: bool) -> Iterator[Callable[[float, str], None]]:
    """Show a bar for long work on a terminal; JSON stays clean."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=what)
