"""Proves that a rollback point leads back: every part is there, and the version answers the recorded probe as it did."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
from sqlalchemy.engine import Connection

from understudy.errors import NoWayBack, UnderstudyError, Unreachable
from understudy.points.doors import Doors, snapshots_of
from understudy.points.manifest import Difference
from understudy.points.point import Point, find
from understudy.points.verify import verify
from understudy.scoring import proven
from understudy.store import exposures, readiness, records, runs
from understudy.store.readiness import Readiness

__all__ = ["FRESH_SECONDS", "TOLERANCE", "check", "check_all", "probe", "require", "require_fresh", "told"]

FRESH_SECONDS = 900.0
"""A proof is worth something for so long, from its beginning: who looked longer, or longer ago, does not know."""

_TOLD = ("version", "ready", "sentence", "problems", "seconds", "at")

TOLERANCE = 1e-6
"""Answers to the probe may differ by so much, which other hardware makes of single precision."""


def check(doors: Doors, run_id: str) -> Readiness:
    """Prove a run's rollback point again, and record what was found with the time.

    Args:
        doors: The installation.
        run_id: The run.

    Returns:
        What was found. A point that does not lead back is a finding, not an error.

    Raises:
        NoSuchRun: The store knows no such run.
        NoWayBack: It has no rollback point.
        Unreachable: MLflow does not answer, so nobody knows; nothing is recorded.
    """
    began, at = time.monotonic(), doors.store.clock()
    with doors.store.read() as connection:
        point = find(connection, run_id)
    problems = [str(item) for item in verify(doors, run_id)] or probe(doors, point)
    told = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    good = f"Version {point.version} of {point.model} loads, and answers the probe as it did when the point was taken."
    found = Readiness(
        run_id,
        point.model,
        point.version,
        ready=not problems,
        sentence=told or good,
        problems=tuple(problems),
        seconds=round(time.monotonic() - began, 3),
        at=at,
    )
    with doors.store.write() as connection:
        readiness.record(connection, found)
    return found


def check_all(doors: Doors) -> list[Readiness]:
    """Prove the rollback points that somebody would go back to now: that of each run that is on, else each model's newest.

    Args:
        doors: The installation.

    Returns:
        What was found, by model; a model without any point has none.

    Raises:
        Unreachable: MLflow does not answer, so nobody knows; what was found before stays recorded.
    """
    with doors.store.read() as connection:
        models = [exposure.model for exposure in exposures.every(connection)]
        points = [point for model in models if (point := _current(connection, model)) is not None]
    return [check(doors, point.run_id) for point in points]


def told(connection: Connection, model: str) -> dict[str, Any]:
    """Return where the way back of a model leads and what the last look at it found.

    Returns:
        JSON-safe: ``run``, ``version``, ``ready`` (None before the first look), ``sentence``, ``problems``, ``seconds``, and
        ``at``, when the look began.
    """
    point = _current(connection, model)
    found = readiness.newest(connection, point.run_id) if point else None
    if found is not None:
        return {"run": found.run_id, **{name: found.to_dict()[name] for name in _TOLD}}
    sentence = (
        "Nobody has proven yet that it leads back." if point else "No run has taken a rollback point yet."
    )
    known = {"run": point.run_id, "version": point.version} if point else {"run": None, "version": None}
    return dict.fromkeys(_TOLD) | known | {"sentence": sentence, "problems": []}


def require(doors: Doors, run_id: str) -> Readiness:
    """Prove a run's rollback point again, and refuse to go on where it does not lead back.

    Raises:
        NoSuchRun: The store knows no such run.
        NoWayBack: It has no rollback point, or it does not lead back any more.
        Unreachable: MLflow does not answer, so nobody knows.
    """
    found = check(doors, run_id)
    if not found.ready:
        raise NoWayBack(
            f"The rollback point of run {run_id} does not lead back to version {found.version} of {found.model}: "
            f"{found.sentence}. Nobody is exposed without a proven way back; `understudy rollback-point verify {run_id}` "
            "names everything. Put it back as it was, or start a new run."
        )
    return found


def require_fresh(connection: Connection, run_id: str, now: float) -> None:
    """Refuse to go on where the last look at a run's rollback point is too old, or found that it does not lead back.

    Somebody else may have looked since `require` did. In the transaction that raises exposure this is the last word.

    Args:
        connection: The transaction.
        run_id: The run.
        now: Unix seconds.

    Raises:
        NoWayBack: So it is.
    """
    found = readiness.newest(connection, run_id)
    if found is not None and found.ready and abs(now - found.at) <= FRESH_SECONDS:
        return
    why = "nobody has looked at it" if found is None else found.sentence
    if found is not None and found.ready:
        why = (
            f"that it does was found {abs(now - found.at):,.0f} s ago, and that holds for {FRESH_SECONDS:g} s"
        )
    raise NoWayBack(
        f"The rollback point of run {run_id} is not proven to lead back: {why}. Nobody is exposed without a proven way back; "
        "run the step again."
    )


def probe(doors: Doors, point: Point) -> list[str]:
    """Load the version that a point leads to, score the recorded probe, and say where the answers differ.

    Args:
        doors: The installation.
        point: A point whose parts are as they were recorded.

    Returns:
        What is wrong; nothing means that the version answers as it did.

    Raises:
        Unreachable: MLflow does not answer.
    """
    import pandas as pd

    told, kept = point.parts["probe"], snapshots_of(doors)
    try:
        rows = pd.read_parquet(io.BytesIO(kept.read(told["rows"])))
        expected = np.asarray(json.loads(kept.read(told["answers"])), dtype=np.float64)
        model = doors.registry.load(point.model, point.version)
        found = proven(model, rows, f"Version {point.version} of {point.model}", "the recorded probe")
    except Unreachable:
        raise
    except UnderstudyError as error:
        return [error.message]
    odd = np.abs(found - expected) > TOLERANCE
    if not odd.any():
        return []
    row = int(np.argmax(odd))
    first = Difference("probe", f"answer to row {row}", f"{expected[row]:.9g}", f"{found[row]:.9g}")
    return [f"{first} ({int(odd.sum())} of {len(odd)} answers differ)"]


def _current(connection: Connection, model: str) -> Point | None:
    """Return the point of the run that is on, else the newest of the model."""
    run = runs.active(connection, model)
    own = records.rollback_point(connection, run.run_id) if run else None
    row = own or records.newest_rollback_point(connection, model)
    return Point(**row) if row else None
