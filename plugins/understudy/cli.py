"""The command line: everything that must work when no browser and no scheduler is at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from understudy.commands.audit import audit
from understudy.commands.certificate import certificate_app
from understudy.commands.drill import drill
from understudy.commands.features import features_app
from understudy.commands.history import history
from understudy.commands.incident import incident
from understudy.commands.instants import shown
from understudy.commands.ledger import ledger_app
from understudy.commands.rollback import rollback
from understudy.commands.rollback_point import rollback_point_app
from understudy.commands.store import store_app
from understudy.errors import UnderstudyError
from understudy.event_commands import events_app, outcomes_app
from understudy.terminal import AsJson, err, errors, out, progress

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Move machine-learning experiments safely into production.",
)
app.add_typer(certificate_app, name="certificate")
app.add_typer(features_app, name="features")
app.add_typer(ledger_app, name="ledger")
app.add_typer(rollback_point_app, name="rollback-point")
app.add_typer(store_app, name="store")
app.add_typer(events_app, name="events")
app.add_typer(outcomes_app, name="outcomes")
app.command()(audit)
app.command()(drill)
app.command()(history)
app.command()(incident)
app.command()(rollback)


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
            err.print(problem["message"], style="red", markup=False, soft_wrap=True)
    else:
        out.print(f"{len(chosen)} experiment file{'' if len(chosen) == 1 else 's'} valid.")
    if not chosen:
        err.print(
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
    from understudy.lifecycle.status import status as read_status
    from understudy.session import session

    with errors(as_json):
        found = read_status(session(), model)
        if model is not None and not found:
            known = ", ".join(item["model"] for item in read_status(session())) or "none"
            raise _NoSuchModel(f"The store does not know model {model!r}. Known models: {known}.")
    if as_json:
        print(json.dumps({"models": found}))
        return
    if not found:
        out.print("No model is known yet. Start a run: the first one adopts the model's champion.")
    for item in found:
        out.print(_status_table(item))


@app.command()
def plan(
    experiment: Annotated[str, typer.Argument(help="Experiment name, or the path of its file.")],
    as_json: AsJson = False,
) -> None:
    """Say how many events and how long each stage takes, from the champion's own past; nothing is simulated."""
    from understudy.lifecycle.plan import plan as run

    with errors(as_json):
        found = run(experiment)
    if as_json:
        print(json.dumps(found))
        return
    title = f"{found['experiment']} at {found['events_per_second']:,.3g} events a second"
    table = Table("stage", "share", "events", "takes", "time-out", "finds by then", title=title)
    for stage in found["stages"]:
        table.add_row(
            str(stage["stage"]),
            f"{stage['percent']:g} % of {', '.join(stage['ring']) or 'units'}",
            "-" if stage["events"] is None else f"{stage['events']:,}",
            "never" if stage["seconds"] is None else f"{stage['seconds']:,.0f} s",
            f"{stage['timeout']:,.0f} s{'' if stage['in_time'] else ' (too short)'}",
            "-" if stage["detectable"] is None else f"{stage['detectable']:.3g}",
        )
    out.print(table)
    sources = "; ".join(f"{name}: {source}" for name, source in found["history"].items())
    out.print(f"From {sources}.", markup=False)


@app.command()
def rehearse(
    experiment: Annotated[str, typer.Argument(help="Experiment name, or the path of its file.")],
    replicates: Annotated[int | None, typer.Option(min=50, help="Simulated runs per world.")] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read the champion's past anew and simulate again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the experiment's own policy in simulated worlds: how often it errs, how long it takes, whom it harms."""
    from understudy.lifecycle.rehearse import refusal
    from understudy.lifecycle.rehearse import rehearse as run

    with errors(as_json), progress(as_json) as report:
        found = run(experiment, replicates, report, refresh=refresh)
    why = refusal(found)
    if as_json:
        print(json.dumps(found))
    else:
        out.print(_rehearsal_table(found))
        for ceiling in found["ceilings"]:
            mark, style = ("met   ", "green") if ceiling["met"] else ("MISSED", "red")
            out.print(f"{mark} {ceiling['sentence']}", style=style, markup=False)
        if not found["ceilings"]:
            out.print("The spec declares no ceilings under `risk`, so nothing is refused.")
        if why and found.get("fix"):
            err.print(found["fix"]["sentence"], style="red", markup=False, soft_wrap=True)
    if why:
        raise typer.Exit(1)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="The run, as `understudy status` names it.")],
    as_json: AsJson = False,
) -> None:
    """Make every verdict of a run again from the stored moments, and name those that come out differently."""
    from understudy.lifecycle.reproduce import reproduce as run

    with errors(as_json), progress(as_json) as report:
        found = run(run_id, lambda done, of: report(done / of, f"{done} of {of} verdicts"))
    different = [item for item in found["verdicts"] if item["differences"]]
    if as_json:
        print(json.dumps(found))
    else:
        for item in different:
            shown = "; ".join(
                f"{part['path']}: recorded {part['recorded']}, now {part['again']}"
                for part in item["differences"][:5]
            )
            err.print(f"{item['step']} (verdict {item['number']}): {shown}", style="red", markup=False)
        for difference in found["altered_copies"]:
            err.print(f"A copy that the run keeps was altered: {difference}", style="red", markup=False)
        if not found["spec_unchanged"]:
            err.print("The stored spec is not the one that was frozen: its digest differs.", style="red")
        if not found["same_code"]:
            out.print("Note: other code decided then than is installed now.")
        moments, copies = (
            sum(item["how"] == how for item in found["verdicts"]) for how in ("moments", "copies")
        )
        out.print(
            f"{len(found['verdicts']) - len(different)} of {len(found['verdicts'])} verdicts come out the same. {moments} were "
            f"decided again from stored moments, {copies} on copies of their data."
        )
    if not found["reproduced"]:
        raise typer.Exit(1)


@app.command()
def trace(
    wanted: Annotated[str, typer.Argument(metavar="ID", help="Of a request, an event, a trace or a run.")],
    as_json: AsJson = False,
) -> None:
    """Follow one id: the request, its events, the run, its ledger entries, and where Airflow and MLflow show it."""
    from understudy.lifecycle.trail import follow, sentences
    from understudy.session import session

    with errors(as_json):
        found = follow(session(), wanted)
    if as_json:
        print(json.dumps(found))
        return
    for sentence in sentences(found):
        out.print(sentence, markup=False, highlight=False, soft_wrap=True)


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
            out.print(
                f"{'ok ' if finding.healthy else 'BAD'} {finding.what}: {finding.detail}",
                style=style,
                markup=False,
            )
    if not all(finding.healthy for finding in findings):
        raise typer.Exit(1)


def _rehearsal_table(found: dict[str, Any]) -> Table:
    title = f"{found['experiment']}: {found['replicates']} runs per world, {found['seconds']:.0f} s"
    table = Table(
        "world", "promoted", "rolled back", "undecided", "found after", "units exposed", title=title
    )
    for item in found["worlds"]:
        shares = (f"{item[name]['value']:.1%}" for name in ("promoted", "rolled_back", "undecided"))
        median = item["detection_seconds"]["median"]
        table.add_row(
            item["world"]["name"],
            *shares,
            "-" if median is None else f"{median:.0f} s",
            f"{item['exposed_units']:,.0f}",
        )
    return table


class _NoSuchModel(UnderstudyError):
    code = "NO_SUCH_MODEL"


def _status_table(item: dict[str, Any]) -> Table:
    from understudy.exposure import reach

    title = f"{item['model']}: champion {item['champion']}"
    table = Table(title=title, show_header=False, title_justify="left", min_width=80)
    exposed = "nobody"
    if item["percent"] or item["rings"]:
        whom = reach(item["percent"], item["rings"].items())
        exposed = f"{whom} on version {item['challenger']}, lease {item['lease_seconds_left']:g} s left"
    table.add_row("exposure", exposed)
    if item["contained"]:
        table.add_row("sent back alone", ", ".join(item["contained"]))
    table.add_row(
        "run", f"{item['run'] or 'none'} ({item['state']}, stage {item['stage']} of {len(item['stages'])})"
    )
    if item["ending"]:
        table.add_row("ending", item["ending"])
    if item["rollback"] is not None:
        table.add_row(
            "rollback", f"not ended: {item['rollback']}. `understudy rollback --resume`", style="red"
        )
    back = item["way_back"]
    leads = f"to version {back['version']}: " if back["version"] else ""
    when = f" Looked at {shown(back['at'])}." if back["at"] else ""
    table.add_row(
        "way back", f"{'' if back['ready'] is not False else 'BROKEN '}{leads}{back['sentence']}{when}"
    )
    last = item["drill"]["last"]
    table.add_row("drills", item["drill"]["sentence"] + (f" Last at {shown(last)}." if last else ""))
    for verdict in item["verdicts"]:
        change = f" → {verdict['change']}" if verdict["change"] else ""
        table.add_row(verdict["step"], f"{verdict['outcome']}: {verdict['sentence']}{change}")
    return table


if __name__ == "__main__":
    app()
