"""The command line: everything that must work when no browser and no scheduler is at hand."""

from __future__ import annotations

import getpass
import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from understudy.errors import UnderstudyError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Move machine-learning experiments safely into production.",
)
ledger_app = typer.Typer(no_args_is_help=True, help="The append-only record of who did what, when and why.")
app.add_typer(ledger_app, name="ledger")

_out = Console()
_err = Console(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    """Turn an error that a user can act on into one message and exit code 1."""
    try:
        yield
    except UnderstudyError as error:
        if as_json:
            print(json.dumps({"error": error.to_dict()}))
        else:
            for line in str(error).splitlines():
                _err.print(line, style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def validate(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Experiment files; default: all of them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check experiment files and the suites they name; says file, line, field, rule and fix."""
    from understudy.expectations import load_suite
    from understudy.settings import Settings
    from understudy.spec import load

    settings = Settings.from_env()
    chosen = paths or sorted(path for path in settings.experiments.glob("*.y*ml"))
    problems: list[dict[str, str]] = []
    for path in chosen:
        try:
            for check in load(path).checks:
                load_suite(settings.expectations, check.suite)
        except UnderstudyError as error:
            problems += [
                {"file": path.name, "code": error.code, "message": line}
                for line in error.message.splitlines()
            ]
    if as_json:
        print(
            json.dumps(
                {
                    "valid": bool(chosen) and not problems,
                    "files": [str(path) for path in chosen],
                    "problems": problems,
                }
            )
        )
    elif problems:
        for problem in problems:
            _err.print(problem["message"], style="red", markup=False, soft_wrap=True)
    else:
        _out.print(f"{len(chosen)} experiment file{'' if len(chosen) == 1 else 's'} valid.")
    if not chosen:
        _err.print(
            f"No experiment files in {settings.experiments}. Add one, or set UNDERSTUDY_EXPERIMENTS.",
            style="red",
        )
    if problems or not chosen:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    from understudy.spec.schema import json_schema

    sys.stdout.write(json_schema())


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what every model serves, the run that is on, its lease and its last verdicts."""
    from understudy.lifecycle.session import session
    from understudy.lifecycle.status import status as read_status

    with _errors(as_json):
        found = read_status(session(), model)
        if model is not None and not found:
            known = ", ".join(item["model"] for item in read_status(session())) or "none"
            raise _NoSuchModel(f"The store does not know model {model!r}. Known models: {known}.")
    if as_json:
        print(json.dumps({"models": found}))
        return
    if not found:
        _out.print("No model is known yet. Start a run: the first one adopts the model's champion.")
    for item in found:
        _out.print(_status_table(item))


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Registered model name.")],
    reason: Annotated[str, typer.Option(help="What was seen; goes into the ledger.")],
    target_version: Annotated[
        str | None, typer.Option("--to", help="A version other than the previous one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a model back to its previous version, with or without Airflow."""
    from understudy.rollback import execute

    with _errors(as_json):
        result = execute(
            model,
            reason,
            actor=getpass.getuser(),
            key=f"cli/{uuid.uuid4()}",
            target_version=target_version,
            dry_run=dry_run,
        )
    if as_json:
        print(json.dumps(result))
        return
    verb = "would be" if dry_run else "is"
    _out.print(
        f"Version {result['target']} of {model} {verb} champion (before: {result['current']}). {result['why']}"
    )


@ledger_app.command("verify")
def ledger_verify(as_json: AsJson = False) -> None:
    """Walk the whole chain and name the first entry that was altered, removed or put in."""
    from understudy.lifecycle.session import session
    from understudy.store import ledger

    with _errors(as_json), session().store.read() as connection:
        broken = ledger.verify(connection)
        count = len(ledger.entries(connection))
    if as_json:
        print(json.dumps({"entries": count, "first_broken": broken}))
    elif broken is None:
        _out.print(f"{count} entries, chain unbroken.")
    else:
        _err.print(
            f"Entry {broken} of {count} does not fit the chain: it or the one before it was altered.",
            style="red",
        )
    if broken is not None:
        raise typer.Exit(1)


@ledger_app.command("show")
def ledger_show(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None, as_json: AsJson = False
) -> None:
    """Print the entries in order."""
    from understudy.lifecycle.session import session
    from understudy.store import ledger

    with _errors(as_json), session().store.read() as connection:
        entries = ledger.entries(connection, model=model)
    if as_json:
        print(json.dumps([entry.__dict__ for entry in entries]))
        return
    table = Table("seq", "actor", "action", "model", "run", "reason")
    for entry in entries:
        table.add_row(
            str(entry.seq), entry.actor, entry.action, entry.model or "", entry.run_id or "", entry.reason
        )
    _out.print(table)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check settings, store, MLflow, gateways and specs, and publish the flag document again from the store."""
    from understudy.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        for finding in findings:
            style = "green" if finding.healthy else "red"
            _out.print(
                f"{'ok ' if finding.healthy else 'BAD'} {finding.what}: {finding.detail}",
                style=style,
                markup=False,
            )
    if not all(finding.healthy for finding in findings):
        raise typer.Exit(1)


class _NoSuchModel(UnderstudyError):
    code = "NO_SUCH_MODEL"


def _status_table(item: dict[str, Any]) -> Table:
    title = f"{item['model']}: champion {item['champion']}"
    table = Table(title=title, show_header=False, title_justify="left", min_width=80)
    lease = f"{item['lease_seconds_left']:g} s left" if item["percent"] else "none"
    table.add_row(
        "exposure",
        f"{item['percent']:g} % on version {item['challenger']}, lease {lease}" if item["percent"] else "0 %",
    )
    table.add_row(
        "run", f"{item['run'] or 'none'} ({item['state']}, stage {item['stage']} of {len(item['stages'])})"
    )
    if item["ending"]:
        table.add_row("ending", item["ending"])
    for verdict in item["verdicts"]:
        table.add_row(verdict["step"], f"{verdict['outcome']}: {verdict['sentence']}")
    return table


if __name__ == "__main__":
    app()
