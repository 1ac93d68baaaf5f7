"""Commands about feature sets: registering one, and showing those of a model."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from understudy.terminal import AsJson, errors, out

__all__ = ["features_app"]

features_app = typer.Typer(
    no_args_is_help=True, help="Which columns the versions of a model need, by name, and which are in force."
)
Model = Annotated[str, typer.Argument(help="Registered model name.")]


@features_app.command("register")
def features_register(
    model: Model,
    name: Annotated[str, typer.Argument(help="Name of the set, for the tag `understudy.feature_set`.")],
    version: Annotated[str, typer.Option(help="A version whose signature has the columns of the set.")],
    transformation: Annotated[Path, typer.Option(help="The file that makes the features.")],
    rows: Annotated[Path, typer.Option(help="Parquet file of rows that it made.")],
    as_json: AsJson = False,
) -> None:
    """Register the columns of a version, what makes them and rows of it; a registered set does not change."""
    from understudy.points.features import register
    from understudy.registry import FEATURE_SET_TAG
    from understudy.session import session

    with errors(as_json):
        found = register(session(), model, name, version, transformation, rows, getpass.getuser())
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    out.print(
        f"Feature set {name} of {model} has {len(found.columns)} columns. Give the versions that were trained on it the tag "
        f"{FEATURE_SET_TAG}={name}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


@features_app.command("list")
def features_list(model: Model, as_json: AsJson = False) -> None:
    """Show the feature sets of a model and which of them is in force."""
    from understudy.session import session
    from understudy.store import exposures, feature_sets

    with errors(as_json), session().store.read() as connection:
        known = feature_sets.every(connection, model)
        served = exposures.find(connection, model)
    active = served.feature_set if served else None
    if as_json:
        print(json.dumps([item.to_dict() | {"active": item.name == active} for item in known]))
        return
    if not known:
        out.print(f"No feature set of {model} is registered.", markup=False, highlight=False)
        return
    table = Table("feature set", "columns", "transformation", "rows", "in force")
    for item in known:
        names = ", ".join(name for name, _ in item.columns)
        shown = (item.name, names, item.transformation[:12], item.snapshot[:12])
        table.add_row(*shown, "yes" if item.name == active else "")
    out.print(table)
