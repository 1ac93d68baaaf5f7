"""What is known about a model at the moment somebody wants to go back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.exposure import Exposure
from understudy.registry import CHAMPION
from understudy.session import Session
from understudy.spec import Experiment, validate_folder
from understudy.spec.metrics import MetricKind
from understudy.store import exposures, records, runs
from understudy.verdicts import Verdict

__all__ = ["INCIDENTS", "Facts", "experiment_of", "gather"]

INCIDENTS = (
    "model_regression",
    "data_drift",
    "missing_features",
    "latency_spike",
    "tag_mismatch",
    "training_out_of_sync",
    "partial_data",
)
"""Kinds of incident. A reason that begins with one and a colon names it: ``latency_spike: p99 at 3 s``."""

_NAMED = re.compile(rf"\s*({'|'.join(INCIDENTS)})\s*:")
_UNSOUND = frozenset(
    (
        "no_events",
        "stale_events",
        "too_much_left_out",
        "repeated_events",
        "multi_exposure",
        "sample_ratio_mismatch",
    )
)
"""Reasons of verdicts that say the evidence itself is not sound."""


@dataclass(frozen=True)
class Facts:
    """What is known about a model now.

    Attributes:
        model: The model.
        champion: What the registry names champion.
        served: Its exposure in the store, if the store knows the model.
        run: The run that is on.
        incident: Kind of incident, one of `INCIDENTS`.
        told_by: How that is known, in words.
    """

    model: str
    champion: str | None
    served: Exposure | None
    run: runs.Run | None
    incident: str
    told_by: str


def gather(connection: Connection, doors: Session, model: str, reason: str) -> Facts:
    """Collect what is known.

    Args:
        connection: Any transaction on the store.
        doors: For the registry.
        model: The model.
        reason: Why a rollback is wanted.

    Raises:
        NoSuchVersion: The registry does not know the model.
        Unreachable: The registry does not answer.
    """
    run = runs.active(connection, model)
    incident, told_by = _incident(connection, run, reason)
    champion = doors.registry.alias(model, CHAMPION)
    return Facts(model, champion, exposures.find(connection, model), run, incident, told_by)


def _incident(connection: Connection, run: runs.Run | None, reason: str) -> tuple[str, str]:
    found = _NAMED.match(reason)
    if found:
        return found[1], "The reason names it."
    look = records.newest_look(connection, run.run_id) if run else None
    if run is None or look is None or look.verdict.passed:
        return "model_regression", "Neither the reason nor a look at a run names another kind."
    return _kind_of(look.verdict, run.spec), f"The last look at run {run.run_id} says {look.verdict.reason}."


def _kind_of(verdict: Verdict, spec: Mapping[str, Any]) -> str:
    if verdict.reason in _UNSOUND:
        return "partial_data"
    kinds = {str(metric.get("name")): metric.get("kind") for metric in spec.get("metrics", ())}
    if verdict.metric and kinds.get(verdict.metric) == MetricKind.LATENCY_OVER.value:
        return "latency_spike"
    return "model_regression"


def experiment_of(connection: Connection, doors: Session, model: str) -> Experiment | None:
    """Return what is declared about a model: by its newest run, else by an experiment file that is valid."""
    for run in runs.latest(connection, model, limit=1):
        with suppress(
            ValueError
        ):  # a spec of long ago may break a rule of today, which must not stop a rollback
            return Experiment.model_validate(run.spec)
    declared, _ = validate_folder(doors.settings.experiments)
    return next((experiment for experiment in declared if experiment.model == model), None)
