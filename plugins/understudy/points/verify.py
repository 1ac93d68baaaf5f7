"""Holds a rollback point against what is kept of it, and against the world as it is now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import understudy
from understudy.errors import ArtifactUnloadable, NoSuchVersion, UnderstudyError
from understudy.points import features
from understudy.points.doors import Doors, snapshots_of
from understudy.points.manifest import Difference, compare, digest_of, resealed
from understudy.points.point import Point, find, recorded_digests
from understudy.points.snapshots import Snapshots
from understudy.points.take import code_digest, model_part, signature_part, spec_bytes
from understudy.registry import CHAMPION, ModelFacts
from understudy.spec import find as find_experiment
from understudy.store import exposures, feature_sets, runs

__all__ = ["altered_copies", "changed", "verify"]


def verify(doors: Doors, run_id: str) -> list[Difference]:
    """Collect everything again that a run's rollback point needs, and name what is not as it was recorded.

    What lives on elsewhere, such as the suites in their folder or the flag document, may change after the point was taken:
    the copies count, which a rollback puts back. `changed` tells of the others.

    Args:
        doors: The installation.
        run_id: The run.

    Returns:
        One difference for each file, column or digest; none means that the point leads back.

    Raises:
        NoSuchRun: The store knows no such run.
        NoWayBack: It has no rollback point.
        Unreachable: MLflow does not answer, so nobody knows.
    """
    with doors.store.read() as connection:
        point = find(connection, run_id)
        run = runs.get(connection, run_id)
        remembered = recorded_digests(connection, run_id)
    now = digest_of(dict(point.manifest))
    altered = [
        Difference("manifest", where, digest, now)
        for where, digest in {"digest in the store": point.digest, **remembered}.items()
        if digest != now
    ]
    if not remembered:
        altered.append(Difference("manifest", "entry of the ledger", point.digest, "nothing"))
    altered += resealed(point.manifest)
    # Of a manifest that was altered nobody can say what would have to be found.
    return altered or compare(point.parts, _kept(doors, point, run))


def changed(doors: Doors, point: Point) -> list[Difference]:
    """Return what is different now from what it was when a point was taken.

    Args:
        doors: The installation.
        point: The point.

    Raises:
        Unreachable: MLflow does not answer.
    """
    recorded, settings = point.parts, doors.settings
    champion = doors.registry.alias(point.model, CHAMPION)
    facts = _facts(doors, point.model, champion) if champion else None
    with doors.store.read() as connection:
        served = exposures.find(connection, point.model)
        active = served.feature_set if served else None
        chosen = feature_sets.find(connection, point.model, active) if active else None
    now = {
        "model": model_part(point.model, champion or "", facts),
        "signature": signature_part(facts),
        "feature_set": features.part(chosen),
        "snapshot": {
            "datasets": {name: _digest(settings.data / name) for name in recorded["snapshot"]["datasets"]}
        },
        "flags": {"document": _digest(settings.flags_path)},
        "suites": {
            "files": {
                name: _digest(settings.expectations / f"{name}.json") for name in recorded["suites"]["files"]
            }
        },
        "spec": {"kept": recorded["spec"]["kept"], "frozen": _declared(doors, point.run_id)},
        "code": {"version": understudy.__version__, "files": code_digest()},
    }
    return compare(recorded, now)


def altered_copies(doors: Doors, point: Point) -> list[Difference]:
    """Name the copies that a point keeps and that are not what was kept. MLflow is not asked."""
    return compare(point.parts, _copies(doors, point))


def _kept(doors: Doors, point: Point, run: runs.Run) -> dict[str, Any]:
    """Return what is there of a point, in the shape of its manifest."""
    facts, copies = _facts(doors, point.model, point.version), _copies(doors, point)
    return {
        **copies,
        "model": model_part(point.model, point.version, facts),
        "signature": signature_part(facts),
        "spec": copies["spec"] | {"frozen": hashlib.sha256(spec_bytes(run.spec)).hexdigest()},
    }


def _copies(doors: Doors, point: Point) -> dict[str, Any]:
    """Return what the copies of a point hash to, in the shape of its manifest."""
    recorded, kept = point.parts, snapshots_of(doors)
    with doors.store.read() as connection:
        name = recorded["feature_set"]["name"]
        chosen = feature_sets.find(connection, point.model, name) if name else None
    return {
        "feature_set": _feature_set(recorded["feature_set"], features.part(chosen), kept),
        "snapshot": {
            "datasets": {
                name: kept.found(digest) for name, digest in recorded["snapshot"]["datasets"].items()
            }
        },
        "flags": {"document": kept.found(recorded["flags"]["document"])},
        "suites": {
            "files": {name: kept.found(digest) for name, digest in recorded["suites"]["files"].items()}
        },
        "spec": {"kept": kept.found(recorded["spec"]["kept"]), "frozen": recorded["spec"]["frozen"]},
        "probe": {name: kept.found(recorded["probe"][name]) for name in ("rows", "answers")}
        | {"count": recorded["probe"]["count"]},
    }


def _feature_set(recorded: Mapping[str, Any], found: dict[str, Any], kept: Snapshots) -> dict[str, Any]:
    """Return a feature set as the store has it, and of what is kept of it what that hashes to."""
    same = [
        name for name in ("transformation", "snapshot") if recorded[name] and found[name] == recorded[name]
    ]
    return found | {name: kept.found(recorded[name]) for name in same}


def _facts(doors: Doors, model: str, version: str) -> ModelFacts | None:
    """Describe a version as it lies in the registry; nothing where it is gone or cannot be read."""
    try:
        return doors.registry.as_found(model, version)
    except (NoSuchVersion, ArtifactUnloadable):
        return None


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _declared(doors: Doors, run_id: str) -> str | None:
    """Return the digest of the experiment as its file has it now."""
    with doors.store.read() as connection:
        name = runs.get(connection, run_id).experiment
    try:
        return find_experiment(doors.settings.experiments, name).digest()
    except UnderstudyError:
        return None
