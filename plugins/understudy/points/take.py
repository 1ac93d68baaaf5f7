"""Takes a rollback point: copies what a known-good state consists of, proves that it scores, and seals the manifest."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

import understudy
from understudy.errors import DataMissing
from understudy.points import features
from understudy.points.doors import Doors, snapshots_of
from understudy.points.manifest import digest_of, seal
from understudy.points.point import TAKEN, Point
from understudy.record.chain import canonical
from understudy.registry import ModelFacts
from understudy.scoring import proven
from understudy.spec import Experiment
from understudy.store import ledger, records, runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PROBE_ROWS",
    "code_digest",
    "datasets_of",
    "model_part",
    "save",
    "signature_part",
    "spec_bytes",
    "take",
]

PROBE_ROWS = 200
"""Rows of the holdout that a point keeps with the champion's answers to them."""


def take(
    doors: Doors, run: runs.Run, experiment: Experiment, champion: ModelFacts, holdout: pd.DataFrame
) -> Point:
    """Copy and describe the state that a run starts from; nothing is written to the store.

    Args:
        doors: The installation.
        run: The run.
        experiment: Its frozen spec.
        champion: What is known of the champion's files.
        holdout: Labelled rows; the first of them become the probe.

    Raises:
        ArtifactUnloadable: The champion cannot be loaded or cannot score the probe.
        DataMissing: A dataset of the spec is not there.
        FeatureSetMismatch: The champion names a feature set that it does not fit.
        SnapshotBroken: Something cannot be kept.
    """
    kept = snapshots_of(doors)
    settings = doors.settings
    with doors.store.read() as connection:
        chosen = features.of_version(connection, doors.registry, run.model, run.champion, champion)
    parts = {
        "model": model_part(run.model, run.champion, champion),
        "signature": signature_part(champion),
        "feature_set": features.part(chosen),
        "snapshot": {"datasets": {name: _dataset(doors, name) for name in datasets_of(experiment)}},
        "flags": {"document": kept.keep_file(settings.flags_path)},
        "suites": {
            "files": {
                check.suite: kept.keep_file(settings.expectations / f"{check.suite}.json")
                for check in experiment.checks
            }
        },
        "spec": {"kept": kept.keep(spec_bytes(run.spec)), "frozen": run.spec_digest},
        "code": {"version": understudy.__version__, "files": code_digest()},
        "probe": _probe(doors, run, champion, holdout),
    }
    manifest = seal(parts)
    return Point(run.run_id, run.model, run.champion, manifest, digest_of(manifest), doors.store.clock())


def save(connection: Connection, point: Point) -> None:
    """Write a point to the store and its digest to the ledger; the first one of a run stays.

    Args:
        connection: A write transaction.
        point: The point.
    """
    if records.rollback_point(connection, point.run_id) is not None:
        return
    records.save_rollback_point(
        connection, point.run_id, point.model, point.version, point.manifest, point.digest, at=point.at
    )
    ledger.append(
        connection,
        at=point.at,
        actor="understudy",
        action=TAKEN,
        model=point.model,
        run_id=point.run_id,
        reason=f"Version {point.version} loads and scores, and everything it takes to go back to it is kept.",
        body={"version": point.version, "digest": point.digest},
    )


def datasets_of(experiment: Experiment) -> list[str]:
    """Return the paths of every dataset that a spec names, below the data folder."""
    trial, logged = experiment.trial.critical_path, experiment.evaluation.off_policy
    named = [experiment.data.reference, experiment.data.holdout]
    named += [trial.file] if trial and trial.file else []
    named += [logged.logged] if logged else []
    return sorted(set(named))


def model_part(model: str, version: str, facts: ModelFacts | None) -> dict[str, Any]:
    """Describe a version by its files."""
    return {"name": model, "version": version, "files": dict(facts.files) if facts else {}}


def signature_part(facts: ModelFacts | None) -> dict[str, Any]:
    """Describe what a version needs and answers."""
    if facts is None:
        return {"inputs": {}, "required": None, "outputs": None}
    return {"inputs": dict(facts.inputs), "required": list(facts.required), "outputs": list(facts.outputs)}


def spec_bytes(spec: Mapping[str, Any]) -> bytes:
    """Return a frozen spec as the text that its digest is of."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 over the path and content of every source file of this package."""
    package = Path(understudy.__file__).resolve().parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(
            f"{path.relative_to(package)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return found.hexdigest()


def _dataset(doors: Doors, name: str) -> str:
    path = doors.settings.data / name
    if not path.is_file():
        raise DataMissing(
            f"The dataset {name} of the spec is not in {doors.settings.data}. A run keeps what it decides on before it begins; "
            "write it, or correct UNDERSTUDY_DATA or the path."
        )
    return snapshots_of(doors).keep_file(path)


def _probe(doors: Doors, run: runs.Run, champion: ModelFacts, holdout: pd.DataFrame) -> dict[str, Any]:
    columns = [name for name in champion.inputs if name in holdout.columns]
    rows = holdout[columns].head(PROBE_ROWS).reset_index(drop=True)
    model = doors.registry.load(run.model, run.champion)
    answers = proven(model, rows, f"Version {run.champion} of {run.model}", "the holdout")
    kept = snapshots_of(doors)
    return {
        "rows": kept.keep(rows.to_parquet(None, index=False)),
        "answers": kept.keep(canonical(answers.tolist()).encode()),
        "count": len(rows),
    }
