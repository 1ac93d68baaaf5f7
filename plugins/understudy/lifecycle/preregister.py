"""The first step: everything is written down and proven before anybody could be exposed.

The spec is frozen and hashed, the model's lock is taken, the challenger is compared with the champion, and a rollback
point is taken and proven to load and to score.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy import expectations, gateways, telemetry
from understudy.errors import (
    BadParameter,
    NoSuchVersion,
    StaleGeneration,
    UnderstudyError,
    Unreachable,
    VersionIncompatible,
)
from understudy.lifecycle import drilled
from understudy.lifecycle.critical_path import read_cases
from understudy.lifecycle.rehearse import require_rehearsed
from understudy.points import features, readiness
from understudy.points.point import Point
from understudy.points.point import find as find_point
from understudy.points.take import PROBE_ROWS, save, take
from understudy.registry import CHALLENGER, CHAMPION, ModelFacts
from understudy.scoring import proven, read_dataset
from understudy.session import Passage, Session, session
from understudy.spec import Experiment, find
from understudy.store import exposures, ledger, records, runs, unfinished
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["begin"]


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
        if passage.run.state is not runs.RunState.PREPARING:
            return _begun(passage)
        try:
            return _register(passage) | {"version": passage.run.version}
        except Unreachable:
            raise
        except UnderstudyError as error:
            _refuse(doors.passage(passage.run.run_id), str(error))
            raise


def _begun(passage: Passage) -> dict[str, Any]:
    """Return how a run began that has come further since; what would refuse it now is for its guard to find."""
    doors, run, verdict = passage.session, passage.run, passage.previous("preregister")
    url = doors.tracking.url(run.mlflow_run_id) if run.mlflow_run_id else ""
    told = {"run_id": run.run_id, "trace_id": run.trace_id, "step": "preregister", "mlflow_url": url}
    return (verdict.to_dict() if verdict else {}) | told | {"version": run.version}


def _refuse(passage: Passage, why: str) -> None:
    """End a run that may not begin, so that its model is free again and the reason is on record."""
    doors, run = passage.session, passage.run
    with doors.store.write() as connection:
        now = doors.store.clock()
        if runs.get(connection, run.run_id).state is not runs.RunState.PREPARING:
            return  # told twice, and the other one came further
        runs.end(connection, run, runs.RunState.FAILED, ending=why, actor="understudy", at=now)
        served = exposures.find(connection, run.model)
        if served and served.run_id == run.run_id:  # its mirror
            exposures.drop(connection, run.model, actor="understudy", reason=why, at=now)
    exposures.publish_flags(doors.store, doors.settings)
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
    with doors.store.read() as connection:
        unfinished.refuse(connection, experiment.model)
        drilled.require(connection, experiment, doors.store.clock())
        seen = ledger.entries(connection, model=experiment.model, newest=1, actions=("champion.restored",))
    champion = doors.registry.alias(experiment.model, CHAMPION)
    if champion is None:
        raise NoSuchVersion(
            f"No version of {experiment.model} has the alias {CHAMPION!r}, so there is nothing to fall back to. Set it on "
            "the version in production."
        )
    challenger = _resolve_challenger(doors, experiment, version, champion)
    exposures.take_over_orders(doors.store, doors.settings)
    with doors.store.write() as connection:
        now = doors.store.clock()
        twin = runs.by_key(connection, key)
        if twin:  # the same start, told twice at the same moment
            return doors.passage(twin.run_id)
        if seen != ledger.entries(
            connection, model=experiment.model, newest=1, actions=("champion.restored",)
        ):
            raise StaleGeneration(
                f"A rollback of {experiment.model} replaced champion {champion} while this run began. Start it again."
            )
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
    exposures.publish_flags(doors.store, doors.settings)
    gateways.serving(doors.settings.gateway_urls, run.model)
    holdout = read_dataset(doors.settings.data / experiment.data.holdout, experiment.data.holdout)
    # The label stands in the holdout only: a model that needs it could never answer a request.
    champion, challenger = _admit(passage, set(holdout.columns) - {experiment.data.label})
    with doors.store.read() as connection:
        chosen = features.of_version(connection, doors.registry, run.model, run.version, challenger)
    named = f"Version {run.version} of {run.model}"
    proven(doors.registry.load(run.model, run.version), holdout.head(PROBE_ROWS), named, "the holdout")
    point = _prove_way_back(
        passage, take(doors, run, experiment, champion, holdout), chosen.name if chosen else None
    )
    rehearsed = require_rehearsed(passage)
    if doors.registry.alias(run.model, CHALLENGER) != run.version:
        doors.registry.set_alias(run.model, CHALLENGER, run.version)
    passage = _open_mlflow_run(passage)
    verdict = Verdict(
        Outcome.PASS,
        "registered",
        f"Version {run.version} of {run.model} is registered against champion {run.champion}: the spec is frozen, "
        f"the versions are compatible and the way back is proven. {rehearsed['sentence']}",
        evidence={
            "spec_digest": run.spec_digest,
            "rollback_point": point.digest,
            "challenger_digest": challenger.digest,
            "cohorts": _cohorts(experiment, holdout),
            "rehearsal": rehearsed,
        },
    )
    record = StepRecord(
        params={
            "spec_digest": run.spec_digest,
            "rollback_point": point.digest,
            "challenger_digest": challenger.digest,
        },
        artifacts={
            "spec.json": json.dumps(run.spec, indent=2, sort_keys=True),
            "rollback_point.json": json.dumps(dict(point.manifest), indent=2, sort_keys=True),
        },
    )
    return passage.conclude("preregister", verdict, record)


def _prove_way_back(passage: Passage, point: Point, challenger_set: str | None) -> Point:
    """Keep the rollback point, make the champion's feature set the active one, and prove the way back from what is kept.

    Gateways serve each version under the feature set that is written down here, and under no other.
    """
    doors, run = passage.session, passage.run
    with doors.store.write() as connection:
        save(connection, point)
        kept = find_point(connection, run.run_id)
        features.activate(
            connection,
            run.model,
            kept.parts["feature_set"]["name"],
            actor="understudy",
            reason=f"Champion {run.champion} names it.",
            run_id=run.run_id,
            at=doors.store.clock(),
            challenger=challenger_set,
        )
    exposures.publish_flags(doors.store, doors.settings)
    readiness.require(doors, run.run_id)
    return kept


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
