"""Writes ``docs/reference/`` from the code: ``make docs`` (``--check`` only compares)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from understudy import errors, spec
from understudy.spec.schema import json_schema

FOLDER = Path(__file__).parent / "reference"


def experiment_page() -> str:
    """Return every field of an experiment file with type, default and purpose."""
    lines = [
        "# Experiment files",
        "",
        "One YAML file in `experiments/`, named like the experiment. Unknown fields are refused. Durations are a number and a",
        "unit: `30s`, `5m`, `2h`, `7d`. The same as JSON Schema: [experiment.schema.json](experiment.schema.json).",
    ]
    titles = {
        spec.Experiment: "The experiment",
        spec.Traffic: "`traffic`",
        spec.Headers: "`traffic.headers`",
        spec.Data: "`data`",
        spec.Check: "`checks`, a list",
        spec.Metric: "`metrics`, a list",
        spec.Evaluation: "`evaluation`",
        spec.OffPolicy: "`evaluation.off_policy`",
        spec.Shadow: "`shadow`",
        spec.Trial: "`trial`",
        spec.CriticalPath: "`trial.critical_path`",
        spec.Spike: "`trial.spike`",
        spec.Stage: "`stages`, a list",
        spec.Breaker: "`breaker`",
        spec.Limits: "`limits`",
        spec.Budget: "`budgets`, a list",
        spec.Risk: "`risk`",
        spec.Registry: "`registry`",
        spec.Consumer: "`consumers`, a list",
        spec.Restoration: "`rollback`",
        spec.Drill: "`drill`",
    }
    for model, title in titles.items():
        lines += [
            "",
            f"## {title}",
            "",
            str(model.__doc__).strip(),
            "",
            "| field | default | purpose |",
            "|---|---|---|",
        ]
        lines += [_row(name, model) for name in model.model_fields]
    return "\n".join(lines) + "\n"


def _row(name: str, model: type[BaseModel]) -> str:
    field = model.model_fields[name]
    default = "required" if field.is_required() else f"`{_shown(field.default)}`"
    return f"| `{name}` | {default} | {field.description} |"


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return "none" if value is None else str(value)


def errors_page() -> str:
    """Return every error code with its meaning."""
    lines = [
        "# Errors",
        "",
        "Every message says what happened, the value, the rule and the fix.",
        "",
        "| code | meaning | what to do |",
        "|---|---|---|",
    ]
    classes = [getattr(errors, name) for name in errors.__all__]
    lines += [
        f"| `{item.code}` | {str(item.__doc__).strip().splitlines()[0]} | {_runbook(item.runbook)} |"
        for item in classes
        if item is not errors.UnderstudyError
    ]
    return "\n".join(lines) + "\n"


def _runbook(path: str) -> str:
    """Return a link from the reference to a page of the runbooks; empty where there is none."""
    name = path.removeprefix("docs/runbooks/").removesuffix(".md")
    return f"[{name}](../runbooks/{name}.md)" if name else ""


def cli_page() -> str:
    """Return the help of every command."""
    import click
    import typer.main

    from understudy.cli import app

    lines = ["# Command line", "", "Every command that shows something takes `--json`."]
    root = typer.main.get_command(app)
    for path, command in _commands((), root):
        with click.Context(command, info_name=" ".join(("understudy", *path)), terminal_width=100) as context:
            usage = command.get_usage(context).removeprefix("Usage: ")
        lines += [
            "",
            f"## `{' '.join(('understudy', *path))}`",
            "",
            str(command.help).strip(),
            "",
            "```text",
            usage,
            "```",
            "",
        ]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            shown = ", ".join(f"`{option}`" for option in parameter.opts)
            lines.append(f"- {shown}: {getattr(parameter, 'help', None) or ''}".rstrip(": "))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _commands(path: tuple[str, ...], command: Any) -> list[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [(path, command)]
    return [found for name, child in sorted(children.items()) for found in _commands((*path, name), child)]


def metrics_page() -> str:
    """Return every metric of a gateway with its labels and meaning."""
    from understudy.gateway.metrics import BUCKETS, METRICS

    bounds = ", ".join(f"{bound * 1000:g}" for bound in BUCKETS)
    lines = [
        "# Metrics of a gateway",
        "",
        "`GET /metrics` of every gateway, in Prometheus' text format. `arm` is `challenger`, `control` or `unexposed`; `version`",
        "is the registered version that answered. How to alert on them: [follow one request](../how-to/follow-one-request.md).",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
            for one in METRICS
        ),
        "",
        f"Upper bounds of the buckets of `understudy_request_seconds`, in milliseconds: {bounds}.",
        "",
        "`process_*` are CPU time, memory and open files of the gateway itself, `understudy_challenger_process_*` those of the",
        "challenger's process while there is one.",
    ]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return every generated file."""
    return {
        "experiment.schema.json": json_schema(),
        "experiment.md": experiment_page(),
        "errors.md": errors_page(),
        "cli.md": cli_page(),
        "metrics.md": metrics_page(),
    }


def main() -> int:
    """Write the pages, or name those that are out of date."""
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                FOLDER.mkdir(exist_ok=True)
                path.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"Out of date: {', '.join(stale)}. Run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    sys.exit(main())
