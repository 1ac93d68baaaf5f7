"""The first step: everything is written down and proven before anybody could be exposed.

The spec is frozen and hashed, the model's lock is taken, the challenger is compared with the champion, and a rollback
point is taken and proven to load and to score.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy import expectations, gateways, telemetry
from understudy.errors import (
    ArtifactUnloadable,
    BadParameter,
    NoSuchVersion,
    UnderstudyError,
    Unreachable,
    VersionIncompatible,
)
from understudy.lifecycle.critical_path import read_cases
from understudy.lifecycle.rehearse import require_rehearsed
from understudy.lifecycle.scoring import probabilities, read_dataset
from understudy.lifecycle.session import Passage, Session, session
from understudy.registry import CHALLENGER, CHAMPION, ModelFacts
from understudy.spec import Experiment, find
from understudy.store import exposures, records, runs
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["begin"]

_PROBE_ROWS = 200


def begin(
    experiment: str,
    version: str | None,
    key: str,
    actor: str,
    reason: str,
    airflow_run: Mapping[str, str],
    traceparent: str | None = None,
) -> dict[str, Any]:
    """Start a run, or return the one that was started with the same key.

    Args:
        experiment: Name of the experiment file.
        version: Challenger version; None takes the alias ``challenger``.
        key: Idempotency key of this start.
        actor: Who asked for it.
        reason: Why.
        airflow_run: ``dag_id``, ``run_id`` and ``url`` of the Airflow run.
        traceparent: W3C trace context of whoever asked; the run continues that trace, or begins one.

    Returns:
        The verdict of this step with ``run_id`` and ``version``.

    Raises:
        UnderstudyError: With the cause and the fix. Exposure stays at zero, and the reason is in the ledger.
    """
    doors = session()
    with doors.store.read() as connection:
        known = runs.by_key(connection, key)
    place = telemetry.parse(known.traceparent if known else traceparent)
    with telemetry.span("begin", parent=place, attributes={"understudy.experiment": experiment}, flush=True):
        passage = (
            doors.passage(known.run_id)
            if known
            else _take_lock(doors, experiment, version, key, actor, reason, airflow_run)
        )
        if passage.run.state.terminal:
            raise BadParameter(
                f"Run {passage.run.run_id} was started with this key and has ended ({passage.run.ending}). An ended run "
                "does not come back; trigger the DAG again."
            )
        try:
            return _register(passage) | {"version": passage.run.version}
        except Unreachable:
            raise
        except UnderstudyError as error:
            _refuse(doors.passage(passage.run.run_id), str(error))
            raise


def _refuse(passage: Passage, why: str) -> None:
    """End a run that may not begin, so that its model is free again and the reason is on record."""
    doors, run = passage.session, passage.run
    with doors.store.write() as connection:
        now = doors.store.clock()
        runs.end(connection, run, runs.RunState.FAILED, ending=why, actor="understudy", at=now)
    if run.mlflow_run_id:
        doors.tracking.finish(run.mlflow_run_id, "FAILED", {"understudy.ending": why})


def _take_lock(
    doors: Session,
    name: str,
    version: str | None,
    key: str,
    actor: str,
    reason: str,
    airflow_run: Mapping[str, str],
) -> Passage:
    experiment = find(doors.settings.experiments, name)
    for check in experiment.checks:
        expectations.load_suite(doors.settings.expectations, check.suite)
    if experiment.trial.critical_path and experiment.trial.critical_path.file:
        read_cases(doors.settings.data, experiment.trial.critical_path.file)
    champion = doors.registry.alias(experiment.model, CHAMPION)
    if champion is None:
        raise NoSuchVersion(
            f"No version of {experiment.model} has the alias {CHAMPION!r}, so there is nothing to fall back to. Set it on "
            "the version in production."
        )
    challenger = _resolve_challenger(doors, experiment, version, champion)
    with doors.store.write() as connection:
        now = doors.store.clock()
        twin = runs.by_key(connection, key)
        if twin:  # the same start, told twice at the same moment
            return doors.passage(twin.run_id)
        exposures.adopt(connection, experiment.model, champion, actor=actor, at=now)
        run = runs.create(
            connection,
            key=key,
            spec=experiment.frozen(),
            spec_digest=experiment.digest(),
            version=challenger,
            champion=champion,
            actor=actor,
            reason=reason,
            airflow=airflow_run,
            at=now,
        )
        # The alias set below would otherwise come back through the registry door as a second start.
        records.accept_starts(connection, {f"{experiment.model}:{challenger}": "run"}, at=now)
    exposures.publish_flags(doors.store, doors.settings)
    return doors.passage(run.run_id)


def _resolve_challenger(doors: Session, experiment: Experiment, version: str | None, champion: str) -> str:
    wanted = version or doors.registry.alias(experiment.model, CHALLENGER)
    if wanted is None:
        raise NoSuchVersion(
            f"No version was named and none of {experiment.model} has the alias {CHALLENGER!r}. Name a version, or set "
            "the alias on the one to try."
        )
    found = doors.registry.version(experiment.model, wanted)
    if found.version == champion:
        raise BadParameter(
            f"Version {wanted} of {experiment.model} is the champion itself. Name another version to try."
        )
    if found.status != "READY":
        raise VersionIncompatible(
            f"Version {wanted} of {experiment.model} has status {found.status} and must be READY. Wait for its upload, "
            "or register it again."
        )
    return found.version


def _register(passage: Passage) -> dict[str, Any]:
    doors, run, experiment = passage.session, passage.run, passage.experiment
    gateways.serving(doors.settings.gateway_urls, run.model)
    holdout = read_dataset(doors.settings.data, experiment.data.holdout)
    # The label stands in the holdout only: a model that needs it could never answer a request.
    champion, challenger = _admit(passage, set(holdout.columns) - {experiment.data.label})
    manifest = _prove_rollback_point(passage, champion, holdout)
    _prove_scores(passage, run.version, challenger, holdout)
    rehearsed = require_rehearsed(passage)
    if doors.registry.alias(run.model, CHALLENGER) != run.version:
        doors.registry.set_alias(run.model, CHALLENGER, run.version)
    passage = _open_mlflow_run(passage)
    digest = _digest(manifest)
    with doors.store.write() as connection:
        records.save_rollback_point(
            connection, run.run_id, run.model, run.champion, manifest, digest, at=doors.store.clock()
        )
    verdict = Verdict(
        Outcome.PASS,
        "registered",
        f"Version {run.version} of {run.model} is registered against champion {run.champion}: the spec is frozen, "
        f"the versions are compatible and the way back is proven. {rehearsed['sentence']}",
        evidence={
            "spec_digest": run.spec_digest,
            "rollback_point": digest,
            "challenger_digest": challenger.digest,
            "cohorts": _cohorts(experiment, holdout),
            "rehearsal": rehearsed,
        },
    )
    record = StepRecord(
        params={
            "spec_digest": run.spec_digest,
            "rollback_point": digest,
            "challenger_digest": challenger.digest,
        },
        artifacts={
            "spec.json": json.dumps(run.spec, indent=2, sort_keys=True),
            "rollback_point.json": json.dumps(manifest, indent=2, sort_keys=True),
        },
    )
    return passage.conclude("preregister", verdict, record)


def _admit(passage: Passage, available: set[str]) -> tuple[ModelFacts, ModelFacts]:
    """Describe champion and challenger and record their bytes; what is proven from here on is proven of these."""
    registry, run = passage.session.registry, passage.run
    with tempfile.TemporaryDirectory() as folder:
        champion = registry.facts(run.model, run.champion, Path(folder) / "champion")
        challenger = registry.facts(run.model, run.version, Path(folder) / "challenger")
    _refuse_incompatible(passage, champion, challenger, available)
    registry.record_digest(run.model, run.champion, champion.digest)
    registry.record_digest(run.model, run.version, challenger.digest)
    return champion, challenger


def _refuse_incompatible(
    passage: Passage, champion: ModelFacts, challenger: ModelFacts, available: set[str]
) -> None:
    run, traffic = passage.run, passage.experiment.traffic
    if challenger.outputs != champion.outputs:
        raise VersionIncompatible(
            f"Version {run.version} of {run.model} answers with {list(challenger.outputs)}, champion {run.champion} with "
            f"{list(champion.outputs)}. Consumers expect the same output; log the model with the champion's output."
        )
    hidden = {traffic.unit, *traffic.private}
    forbidden = sorted(set(challenger.required) & hidden)
    if forbidden:
        raise VersionIncompatible(
            f"Version {run.version} of {run.model} needs {', '.join(forbidden)}, which the spec declares as unit or "
            "private and which never reaches a model. Train it without."
        )
    missing = sorted(set(challenger.required) - available)
    if missing:
        raise VersionIncompatible(
            f"Version {run.version} of {run.model} needs {', '.join(missing)}, which neither requests nor the holdout "
            "carry. Deliver the features first, or train it without them."
        )


def _prove_rollback_point(passage: Passage, champion: ModelFacts, holdout: Any) -> dict[str, Any]:
    """Load the champion from the registry and score a probe batch with it: the way back must work before it is needed."""
    doors, run = passage.session, passage.run
    probe = holdout[sorted(set(champion.inputs) & set(holdout.columns))].head(_PROBE_ROWS)
    answers = _prove_scores(passage, run.champion, champion, holdout)
    document = doors.settings.flags_path
    return {
        "model": run.model,
        "version": run.champion,
        "files": dict(champion.files),
        "digest": champion.digest,
        "inputs": dict(champion.inputs),
        "outputs": list(champion.outputs),
        "spec_digest": run.spec_digest,
        "flags_digest": hashlib.sha256(document.read_bytes()).hexdigest() if document.exists() else "",
        "suites": {check.suite: _suite_digest(doors, check.suite) for check in passage.experiment.checks},
        "holdout_digest": _file_digest(doors.settings.data / passage.experiment.data.holdout),
        "probe_rows": len(probe),
        "probe_digest": hashlib.sha256(np.round(answers, 9).tobytes()).hexdigest(),
    }


def _prove_scores(passage: Passage, version: str, facts: ModelFacts, holdout: Any) -> Any:
    model = passage.session.registry.load(passage.run.model, version)
    columns = [name for name in facts.inputs if name in holdout.columns]
    try:
        answers = probabilities(model, holdout[columns].head(_PROBE_ROWS))
    except UnderstudyError:
        raise
    except Exception as error:
        raise ArtifactUnloadable(
            f"Version {version} of {passage.run.model} loads but cannot score the holdout ({type(error).__name__}: "
            f"{str(error)[:200].partition(chr(10))[0]}). Compare its signature with the columns of "
            f"{passage.experiment.data.holdout}."
        ) from error
    if not np.isfinite(answers).all():
        raise ArtifactUnloadable(
            f"Version {version} of {passage.run.model} answers with values that are not numbers. Handle missing values in "
            "the model."
        )
    return answers


def _open_mlflow_run(passage: Passage) -> Passage:
    doors, run = passage.session, passage.run
    if run.mlflow_run_id:
        return passage
    airflow = run.airflow
    mlflow_run_id = doors.tracking.start(
        passage.experiment.name,
        run.run_id,
        params={
            "model": run.model,
            "challenger": run.version,
            "champion": run.champion,
            "spec_digest": run.spec_digest,
            "stages": " → ".join(stage.shown for stage in passage.experiment.stages),
        },
        tags={
            "understudy.run": run.run_id,
            "understudy.trace_id": run.trace_id or "",
            "understudy.actor": run.actor,
            "understudy.reason": run.reason,
            "airflow.dag_id": str(airflow.get("dag_id", "")),
            "airflow.run_id": str(airflow.get("run_id", "")),
            "airflow.url": str(airflow.get("url", "")),
            "mlflow.note.content": passage.experiment.hypothesis,
        },
    )
    with doors.store.write() as connection:
        runs.set_mlflow_run(connection, run.run_id, mlflow_run_id)
    return doors.passage(run.run_id)


def _cohorts(experiment: Experiment, holdout: Any) -> list[str]:
    """Name the cohorts that will be judged; they are fixed here so that the error budget can be divided among them."""
    found = []
    for column in experiment.traffic.cohorts:
        if column in holdout.columns:
            found += [f"{column}={value}" for value in sorted(holdout[column].dropna().astype(str).unique())]
    return found


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _suite_digest(doors: Session, suite: str) -> str:
    return _file_digest(doors.settings.expectations / f"{suite}.json")
