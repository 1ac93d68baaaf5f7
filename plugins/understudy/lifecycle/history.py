"""Builds the champion's past for the rehearsal: from the event log, else from the holdout scored by the champion."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from understudy.errors import NoHistory
from understudy.lifecycle.recorded import (
    LEAST_EVENTS,
    Recorded,
    from_holdout,
    from_log,
    measured_metrics,
    query_of,
    ripe_after,
)
from understudy.registry import Registry
from understudy.rehearsal.history import History
from understudy.settings import Settings
from understudy.spec import Experiment

if TYPE_CHECKING:
    import pandas as pd

    from understudy.events.query import EvidenceQuery

__all__ = ["FRESH_FOR", "LEAST_UNITS", "history_of"]

log = logging.getLogger(__name__)

LEAST_UNITS = 50
"""So many units of every metric make a history enough, with `LEAST_EVENTS` counted events."""
FRESH_FOR = 86400.0
"""A history is used again for so many seconds; the past does not change much, and the rehearsal stays the same."""

_MOST_ENTRIES = 40_000

Floats = NDArray[np.float64]


def history_of(
    experiment: Experiment,
    settings: Settings,
    *,
    champion: str | None = None,
    registry: Registry | None = None,
    refresh: bool = False,
    holdout: Path | None = None,
) -> History:
    """Return the champion's past for a spec; kept under the state folder and used again for a day.

    Args:
        experiment: The spec.
        settings: The installation.
        champion: Version in production, if it is known: a history that was kept of another one is not used.
        registry: Where the champion is loaded from if the log knows too little; default: the installation's.
        refresh: Build it anew.
        holdout: The copy of the holdout that a run keeps; default: the file as it is now.

    Raises:
        NoHistory: Neither the event log, nor the holdout, nor a kept history tells enough.
    """
    path = settings.home / "rehearsals" / f"history-{experiment.model}-{_key(experiment, champion)}.npz"
    kept = _kept(path)
    if kept is not None and not refresh and time.time() - path.stat().st_mtime < FRESH_FOR:
        return kept
    try:
        built = _built(experiment, settings, registry, holdout)
    except NoHistory:
        if kept is None:
            raise
        log.warning("the history of %s cannot be built anew; the kept one is used", experiment.model)
        return kept
    _keep(path, built)
    return built


def _key(experiment: Experiment, champion: str | None) -> str:
    """Fingerprint of what a history depends on; ceilings, stages and margins are not part of it."""
    metrics = [
        metric.model_dump(mode="json", exclude={"margin", "role"}) for metric in measured_metrics(experiment)
    ]
    traffic, data = (part.model_dump(mode="json") for part in (experiment.traffic, experiment.data))
    content = [champion, metrics, traffic, data, experiment.stale_after]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _kept(path: Path) -> History | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return History.from_arrays(arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, history: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **history.arrays())  # type: ignore[arg-type]
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _built(
    experiment: Experiment, settings: Settings, registry: Registry | None, holdout: Path | None
) -> History:
    query = query_of(experiment)
    logged = from_log(experiment, settings, query)
    if logged is not None:
        found = _assembled(experiment, query, logged, {metric.name: logged.words for metric in query.metrics})
        if _lacking(found) is None:
            return found
    recorded, sources = from_holdout(experiment, settings, query, registry, logged, holdout)
    found = _assembled(experiment, query, recorded, sources)
    lacking = _lacking(found)
    if lacking is not None:
        raise NoHistory(
            f"Too little is known of {lacking} for {experiment.name} to be rehearsed: {LEAST_EVENTS} counted events of "
            f"{LEAST_UNITS} units are needed, in the event log or in {experiment.data.holdout}. Serve the champion for a "
            "while, or deliver a larger holdout."
        )
    return found


def _assembled(
    experiment: Experiment, query: EvidenceQuery, recorded: Recorded, sources: Mapping[str, str]
) -> History:
    frame, scale = _fewer_units(recorded.frame)
    units, unit = np.unique(frame["unit"].to_numpy(dtype=str), return_inverse=True)
    del units
    combination, cohorts, member = _cohorts(frame, query)
    numerators, denominators = _sums(frame, query)
    at = frame["at"].to_numpy(dtype=float)
    at = at - (at[0] if len(at) else 0.0)
    span = len(frame) * scale / recorded.rate
    if len(at) and at[-1] > 0:  # the same order and rhythm, at the rate of the traffic
        at = at * (span * (1 - 1 / (len(at) + 1)) / at[-1])
    return History(
        model=experiment.model,
        metrics=tuple(metric.name for metric in query.metrics),
        kinds=tuple(metric.kind for metric in query.metrics),
        delayed=tuple(not metric.served for metric in query.metrics),
        cohorts=cohorts,
        member=member,
        unit=unit.astype(np.int64),
        at=at,
        combination=combination,
        numerator=numerators,
        denominator=denominators,
        delay=_delays(frame, ripe_after(query) / recorded.speed),
        span=span,
        scale=scale,
        sources={"traffic": "event log"} | dict(sources),
    )


def _fewer_units(frame: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Keep whole units, chosen by a hash, until few enough entries are left."""
    from pandas.util import hash_array

    frame = frame.sort_values("at", kind="stable").reset_index(drop=True)
    if len(frame) <= _MOST_ENTRIES:
        return frame, 1.0
    place = hash_array(frame["unit"].to_numpy(dtype=object)) / 2.0**64
    fewer = frame[place <= np.quantile(place, _MOST_ENTRIES / len(frame))].reset_index(drop=True)
    return fewer, len(frame) / len(fewer)


def _cohorts(frame: pd.DataFrame, query: EvidenceQuery) -> tuple[NDArray[np.int64], tuple[str, ...], Floats]:
    """Return the combination of each event, the cohorts, and which combination belongs to which."""
    columns = [frame[f"c{index}"].astype(str).to_numpy() for index in range(len(query.cohorts))]
    if not columns:
        return np.zeros(len(frame), dtype=np.int64), (), np.zeros((1, 0))
    codes = [np.unique(column, return_inverse=True) for column in columns]
    names = [
        f"{name}={value}" for name, (values, _) in zip(query.cohorts, codes, strict=True) for value in values
    ]
    begins = np.cumsum([0, *(len(values) for values, _ in codes)])[:-1]
    each = np.stack([begin + code for begin, (_, code) in zip(begins, codes, strict=True)], axis=1)
    combinations, which = np.unique(each, axis=0, return_inverse=True)
    member = np.zeros((len(combinations), len(names)))
    for row, columns_of in enumerate(combinations):
        member[row, columns_of] = 1.0
    return np.asarray(which).reshape(-1).astype(np.int64), tuple(names), member


def _sums(frame: pd.DataFrame, query: EvidenceQuery) -> tuple[Floats, Floats]:
    """Return what every event adds to numerator and denominator of each metric.

    A sum per unit is dealt out over the unit's events. A ratio does not change when both sides are multiplied alike, so
    both are scaled until the denominators count events: they are the clock of a simulated run.
    """
    numerators, denominators = [], []
    for index, metric in enumerate(query.metrics):
        value = frame[f"y{index}"].to_numpy(dtype=float)
        weight = frame[f"z{index}"].to_numpy(dtype=float) if metric.kind == "ratio" else np.ones(len(frame))
        known = np.isfinite(value) & np.isfinite(weight)
        if metric.per_unit:
            unit = np.unique(frame["unit"].to_numpy(dtype=str), return_inverse=True)[1]
            weight = 1.0 / np.maximum(np.bincount(unit, known)[unit], 1.0)
        value, weight = np.where(known, value, 0.0), np.where(known, weight, 0.0)
        scale = known.sum() / weight.sum() if weight.sum() > 0 else 1.0
        numerators.append(value * scale)
        denominators.append(weight * scale)
    return np.array(numerators), np.array(denominators)


def _delays(frame: pd.DataFrame, ripe: float) -> Floats:
    """Return the seconds of wall clock until each event's outcome counts: once it is told, and never before it is ripe."""
    if "heard_at" not in frame:
        return np.full(len(frame), ripe)
    told = (frame["heard_at"] - frame["received_at"]).to_numpy(dtype=float)
    return np.asarray(np.where(np.isfinite(told), np.maximum(told, ripe), np.inf))


def _lacking(history: History) -> str | None:
    """Name a metric of which too little is known; None if all are fine."""
    for index, name in enumerate(history.metrics):
        counted = history.denominator[index] > 0
        if (
            counted.sum() * history.scale < LEAST_EVENTS
            or len(np.unique(history.unit[counted])) < LEAST_UNITS
        ):
            return name
    return None
