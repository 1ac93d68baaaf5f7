"""Commands about the event log: what is stored, compaction, retention, and outcomes that come in files or tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from understudy.errors import BadParameter, OutcomesInvalid
from understudy.terminal import AsJson, err, errors, out, progress

if TYPE_CHECKING:
    from understudy.events.tables import Rows

__all__ = ["events_app", "outcomes_app"]

events_app = typer.Typer(
    no_args_is_help=True, help="The event log of a model: what is stored, and for how long."
)
outcomes_app = typer.Typer(no_args_is_help=True, help="What came of the events that were served.")

Model = Annotated[str, typer.Argument(help="Registered model name.")]


@events_app.command("show")
def events_show(model: Model, as_json: AsJson = False) -> None:
    """Show what is stored of a model's events: segments that are still lines, partitions, their age and size."""
    from understudy.lifecycle.event_log import stored_events
    from understudy.session import session

    with errors(as_json):
        found = stored_events(session(), model)
    if as_json:
        print(json.dumps(found))
        return
    days = found["retention_days"]
    torn = f"{found['torn_lines']:,} torn lines of killed processes, never acknowledged"
    kept = "kept for good" if days is None else f"removed after {days:g} days"
    table = Table(
        "events", "segments", "bytes", "partitions", "bytes", "rows", "from", "to",
        title=f"{model}: {found['compactions']} compactions, {kept}", caption=torn,
    )  # fmt: skip
    for kind, item in found["kinds"].items():
        counts = (
            item[name] for name in ("segments", "segment_bytes", "partitions", "partition_bytes", "events")
        )
        table.add_row(kind, *(f"{count:,}" for count in counts), _when(item["oldest"]), _when(item["newest"]))
    out.print(table)
    out.print(f"Partitions go to {found['partitions_go_to']}.", markup=False, soft_wrap=True)


@events_app.command("compact")
def events_compact(
    model: Model,
    quiet: Annotated[
        float | None, typer.Option(min=0, help="Seconds without a write after which a segment is taken; 600.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn segments that nobody writes any more into Parquet partitions by day and hour."""
    from understudy.lifecycle.event_log import compact_events
    from understudy.session import session

    with errors(as_json), progress(as_json) as report:
        found = compact_events(session(), model, quiet=quiet, report=report)
    if as_json:
        print(json.dumps(found))
        return
    out.print(
        f"{found['segments']:,} segments with {found['events']:,} events are {found['partitions']:,} partitions now "
        f"({found['bytes_before']:,} bytes before, {found['bytes_after']:,} after); {found['torn_lines']:,} torn lines were cut, "
        f"{found['busy']:,} segments are being written."
    )
    for name, why in found["left"].items():
        err.print(f"{name} stays as it is: {why}.", style="red", markup=False, soft_wrap=True)


@events_app.command("retain")
def events_retain(
    model: Model,
    days: Annotated[
        float | None, typer.Option(min=0, help="Age in days; UNDERSTUDY_RETENTION_DAYS unless given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove events that are older than some days, whole files at a time; none that a run counts which is on."""
    from understudy.lifecycle.event_log import retain_events
    from understudy.session import session

    with errors(as_json):
        found = retain_events(session(), model, days)
    if as_json:
        print(json.dumps(found))
        return
    out.print(
        f"{found['partitions']:,} partitions with {found['events']:,} events and {found['segments']:,} segments were removed, "
        f"{found['bytes']:,} bytes."
    )
    if found["kept_for_run"]:
        out.print(
            f"What was received since run {found['kept_for_run']} began stays until it ends.", markup=False
        )


@events_app.command("query")
def events_query(
    wanted: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|RUN", help="Whose events; an experiment means all its runs.")
    ],
    sql: Annotated[
        str | None, typer.Argument(help="A query in DuckDB's SQL; an overview where it is missing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the log of one experiment or run in SQL: requests, mirrors, outcomes, features, slices, runs, context."""
    from understudy.events.sql import OVERVIEW
    from understudy.lifecycle.event_log import query_events
    from understudy.session import session

    queries = OVERVIEW if sql is None else {"rows": sql}
    with errors(as_json):
        found = dict(zip(queries, query_events(session(), wanted, list(queries.values())), strict=True))
    if as_json:
        rows = {
            name: [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
            for name, answer in found.items()
        }
        print(json.dumps(rows, default=str))
        return
    for name, answer in found.items():
        table = Table(*answer.columns, title=None if sql else name, title_justify="left")
        for row in answer.rows:
            table.add_row(*("-" if value is None else escape(str(value)) for value in row))
        out.print(table)


@outcomes_app.command("import")
def outcomes_import(
    model: Model,
    source: Annotated[
        str,
        typer.Argument(
            help="Path or URL of a .parquet, .csv or .csv.gz file; with --table or --query the name of an environment "
            "variable with an SQLAlchemy URL, or of an Airflow connection."
        ),
    ],
    event_id: Annotated[str, typer.Option(help="Column that names the event.")] = "event_id",
    outcome: Annotated[
        str | None, typer.Option(help="Column of the label; `outcome` where there is one.")
    ] = None,
    occurred_at: Annotated[
        str, typer.Option(help="Column of the time: Unix seconds, or with a time zone.")
    ] = "occurred_at",
    value: Annotated[
        list[str] | None, typer.Option(help="A named number, as NAME or NAME=COLUMN; may be repeated.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="SQL table, with its schema before a dot.")] = None,
    query: Annotated[str | None, typer.Option(help="SQL query.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import outcomes from a file or an SQL table: all of it, or nothing when a row breaks a rule."""
    from understudy.events.imports import Columns
    from understudy.lifecycle.event_log import import_outcomes
    from understudy.session import session

    pairs = (text.partition("=") for text in value or ())
    columns = Columns(event_id, outcome, occurred_at, {name: column or name for name, _, column in pairs})
    with errors(as_json), progress(as_json) as report:
        try:
            with _opened(source, table, query, report) as rows:
                found = import_outcomes(session(), model, rows, columns)
        except OutcomesInvalid as error:
            _show_problems(error, as_json)
            raise
    if as_json:
        print(json.dumps({"model": model, "outcomes": found.outcomes, "repeated": found.repeated}))
    elif found.repeated:
        out.print(f"The very same {found.outcomes:,} outcomes were imported before; nothing was written.")
    else:
        out.print(f"{found.outcomes:,} outcomes imported.")


@contextmanager
def _opened(
    source: str, table: str | None, query: str | None, report: Callable[[float, str], None]
) -> Iterator[Rows]:
    from understudy.events.tables import opened_file, opened_query

    if table is not None and query is not None:
        raise BadParameter("Both --table and --query were given. Give one: a query may name the table.")
    if table is None and query is None:
        with opened_file(source, report) as rows:
            yield rows
        return
    if "://" in source:
        raise BadParameter(
            "With --table or --query the source must be a name, but it is an address, in which everybody who lists processes "
            "would see a password. Put the address into an environment variable or an Airflow connection, and name that."
        )
    from understudy.orchestration.connections import database_url

    with opened_query(database_url(source), table=table, query=query, report=report) as rows:
        yield rows


def _show_problems(error: OutcomesInvalid, as_json: bool) -> None:
    """Print the rows that break a rule; the error itself is reported like any other."""
    if not error.problems:
        return
    if as_json:
        print(json.dumps({"error": error.to_dict(), "problems": list(error.problems)}))
        raise typer.Exit(1)
    names: dict[str, Any] = dict.fromkeys(error.problems[0])
    table = Table(*names)
    for problem in error.problems:
        table.add_row(*(str(problem[name]) for name in names))
    err.print(table)


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
