"""Compares the registry with the starts that were accepted before: what is left has still to be started.

MLflow sends no webhook for stage changes and forgets webhooks that it could not deliver, so the registry itself is read.
A start is known by its key ``model:version`` and is accepted once, whichever signal asked for it and however often.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from understudy.errors import NoSuchVersion
from understudy.registry import CHALLENGER, CHAMPION
from understudy.session import session
from understudy.spec import Experiment, validate_folder
from understudy.store import records

__all__ = ["accept_starts", "pending_starts"]


def pending_starts() -> list[dict[str, Any]]:
    """Return the starts that the registry asks for and that were not accepted yet.

    Returns:
        One dict a version: ``key`` (``model:version``), ``model``, ``version``, ``signal`` ("alias" or "stage") and the
        names of the ``experiments`` to start. A model that is not registered yet asks for nothing.

    Raises:
        Unreachable: MLflow does not answer.
    """
    doors = session()
    experiments, _ = validate_folder(doors.settings.experiments)
    by_model: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        by_model[experiment.model].append(experiment)
    with doors.store.read() as connection:
        accepted = records.accepted_starts(connection)
    pending = []
    for model, declared in sorted(by_model.items()):
        for version, signal in _signals(model).items():
            names = [experiment.name for experiment in declared if signal in experiment.registry.start_on]
            key = f"{model}:{version}"
            if names and key not in accepted:
                pending.append(
                    {"key": key, "model": model, "version": version, "signal": signal, "experiments": names}
                )
    return pending


def accept_starts(keys: Mapping[str, str]) -> None:
    """Mark starts as dealt with, each with the signal that asked for it; safe to repeat."""
    doors = session()
    with doors.store.write() as connection:
        records.accept_starts(connection, keys, at=doors.store.clock())


def _signals(model: str) -> dict[str, str]:
    """Return the versions that ask to be tried, with the signal; the champion never does."""
    registry = session().registry
    try:
        versions = registry.versions(model)
    except NoSuchVersion:
        return {}
    champion = registry.alias(model, CHAMPION)
    signals = {version.version: "stage" for version in versions if version.staging}
    challenger = registry.alias(model, CHALLENGER)
    if challenger is not None:
        signals[challenger] = "alias"
    signals.pop(champion or "", None)
    return signals
