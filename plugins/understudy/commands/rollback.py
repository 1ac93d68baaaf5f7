"""The command that takes a model back, shows how it would, or finishes what waits for a server."""

from __future__ import annotations

import getpass
import json
import os
import uuid
from typing import Annotated, Any

import typer

from understudy.terminal import AsJson, err, errors, out

__all__ = ["rollback"]


def rollback(
    model: Annotated[str | None, typer.Argument(help="Registered model name.")] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            help="What was seen; goes into the ledger. `latency_spike: …` names the kind of incident."
        ),
    ] = None,
    target_version: Annotated[
        str | None, typer.Option("--to", help="A version other than the previous one.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show the recipe, its steps and who uses the model.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish rollbacks that wait for a server.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a model back to its previous version, with or without Airflow."""
    if resume:
        if model or reason or target_version or plan:
            raise typer.BadParameter(
                "it takes everything from the record; give it alone.", param_hint="--resume"
            )
        _resume(as_json)
        return
    if model is None:
        raise typer.BadParameter("name the model to take back.", param_hint="MODEL")
    if reason is None and not plan:
        raise typer.BadParameter("say what was seen; it goes into the ledger.", param_hint="--reason")
    from understudy import telemetry
    from understudy.rollback import execute

    with errors(as_json), telemetry.within(os.environ.get("TRACEPARENT")):
        result = execute(
            model,
            "The plan is asked for." if reason is None else reason,
            actor=getpass.getuser(),
            key=f"cli/{uuid.uuid4()}",
            target_version=target_version,
            dry_run=plan,
        )
    if as_json:
        print(json.dumps(result))
    elif plan:
        _show_plan(result)
    else:
        _say(
            f"Version {result['target']} of {model} is champion (before: {result['current']}). {result['why']}"
        )
        for name, found in result["objectives"].items():
            met = "met" if found["met"] else "MISSED"
            _say(f"{name}: {found['measured']:g}, objective {found['objective']:g}, {met}")
        _say(f"Review, drafted from the record: understudy incident {model}")


def _show_plan(found: dict[str, Any]) -> None:
    recipe = found["recipe"]
    _say(
        f"Version {found['target']} of {found['model']} would be champion (now: {found['current']}). {found['why']}"
    )
    _say(f"Recipe {recipe['kind']}: {recipe['when']} {found['told_by']}")
    _say(f"Steps: {', '.join(recipe['steps'])}; about {recipe['seconds']:g} s.")
    _say(f"Users notice: {recipe['users_notice']}")
    for consumer in found["consumers"]:
        _say(
            f"Consumer: {consumer['name']}, {consumer['contact'] or 'no contact'} (found in {consumer['found']})"
        )
    _say(f"Runbook: {recipe['runbook']}")


def _resume(as_json: bool) -> None:
    from understudy.rollback import resume

    with errors(as_json):
        found = resume()
    if as_json:
        print(json.dumps({"rollbacks": found}))
    elif not found:
        _say("No rollback waits.")
    else:
        for item in found:
            place = out if item["state"] == "finished" else err
            place.print(f"{item['model']} {item['state']}: {item['told']}", markup=False, soft_wrap=True)
    if any(item["state"] != "finished" for item in found):
        raise typer.Exit(1)


def _say(words: str) -> None:
    out.print(words, markup=False, highlight=False, soft_wrap=True)
