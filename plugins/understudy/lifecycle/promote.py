"""Makes the challenger the champion: in the registry, for every gateway, in the ledger, in this order and fenced."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from understudy import gateways
from understudy.errors import FeatureSetMismatch, StaleGeneration, UnderstudyError
from understudy.lifecycle.certify import certify
from understudy.points import features
from understudy.record import signing
from understudy.registry import CHALLENGER
from understudy.session import Passage, session
from understudy.store import exposures, ledger, runs
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["promote"]


def promote(run_id: str) -> dict[str, Any]:
    """Promote a run whose comparison passed; safe to run again.

    Raises:
        StaleGeneration: A rollback overtook the run.
        UnderstudyError: The comparison did not pass, or the registry or a gateway could not be moved.
    """
    passage = session().passage(run_id)
    doors, run = passage.session, passage.run
    if run.state is not runs.RunState.PROMOTED:
        _refuse_without_pass(passage)
        signing.private_key(
            doors.settings.signing_key
        )  # one that cannot be used is told before anything moves
        # Gateways refuse changed files as well, but by then the registry would name a champion that nobody can load.
        chosen = _feature_set(passage)
        _claim(passage)
        doors.registry.make_champion(
            run.model, run.version, move_stage=passage.experiment.registry.move_stage
        )
        try:
            _seal(passage, chosen)
        except StaleGeneration:
            # A rollback finished between the claim and here, so the alias set above is wrong again. What it restored may
            # be another version than the one this run started from.
            with doors.store.read() as connection:
                served = exposures.find(connection, run.model)
            champion = served.champion if served else run.champion
            doors.registry.make_champion(
                run.model, champion, move_stage=passage.experiment.registry.move_stage
            )
            raise
    exposures.publish_flags(doors.store, doors.settings)
    with doors.store.read() as connection:
        served = exposures.find(connection, run.model)
    if served is not None:
        gateways.wait_until_followed(doors.settings.gateway_urls, served)
    doors.registry.delete_alias(run.model, CHALLENGER, only_if=run.version)
    verdict = Verdict(
        Outcome.PASS,
        "promoted",
        f"Version {run.version} of {run.model} is the champion: the registry says so and every gateway serves it. The "
        f"way back leads to version {run.champion}.",
        evidence={"champion": run.version, "before": run.champion},
    )
    certificate = certify(doors.passage(run_id))
    record = StepRecord(
        tags={"understudy.champion": run.version}, artifacts={"certificate.json": certificate}
    )
    return passage.conclude("promote", verdict, record)


def _refuse_without_pass(passage: Passage) -> None:
    compared = passage.previous("compare")
    if compared is None or not compared.passed:
        raise UnderstudyError(
            f"Run {passage.run.run_id} has no comparison that passed, so it is not promoted. Only PASS promotes; look at the "
            "verdicts of the run."
        )


def _claim(passage: Passage) -> None:
    """Take the right to promote; a run that is on its way back does not get it."""
    store, run = passage.session.store, passage.run
    exposures.take_over_orders(store, passage.session.settings)
    with store.write() as connection:
        current = runs.get(connection, run.run_id)
        if current.state not in (runs.RunState.EXPOSED, runs.RunState.PROMOTING):
            raise StaleGeneration(
                f"Run {run.run_id} is {current.state} and cannot be promoted. Start a new run."
            )
        runs.set_state(connection, run.run_id, runs.RunState.PROMOTING, store.clock())


def _feature_set(passage: Passage) -> str | None:
    """Return the feature set that the version names, once its files are proven and it is the one it was admitted with."""
    doors, run = passage.session, passage.run
    with tempfile.TemporaryDirectory() as folder:
        facts = doors.registry.facts(run.model, run.version, Path(folder))
    with doors.store.read() as connection:
        found = features.of_version(connection, doors.registry, run.model, run.version, facts)
        served = exposures.find(connection, run.model)
    name = found.name if found else None
    if served is not None and served.run_id == run.run_id and served.challenger_feature_set != name:
        raise FeatureSetMismatch(
            f"Version {run.version} of {run.model} names feature set {name!r} now and was admitted with "
            f"{served.challenger_feature_set!r}. Put the tag back, or start a new run."
        )
    return name


def _seal(passage: Passage, feature_set: str | None) -> None:
    """Write the promotion down, unless a rollback overtook it; then the rollback puts the registry right."""
    store, run = passage.session.store, passage.run
    with store.write() as connection:
        now = store.clock()
        before = exposures.find(connection, run.model)
        exposures.promote(connection, run.run_id, at=now)
        promoted = features.activate(
            connection,
            run.model,
            feature_set,
            actor=run.actor,
            reason=f"Version {run.version} names it.",
            run_id=run.run_id,
            at=now,
        )
        ledger.append(
            connection,
            at=now,
            actor=run.actor,
            action="champion.promoted",
            model=run.model,
            run_id=run.run_id,
            reason=f"Every stage passed and the comparison passed. {run.reason}".strip(),
            body={
                "champion": run.version,
                "before": run.champion,
                "generation": promoted.generation,
                "lease_before": before.lease_expires_at if before else None,
            },
        )
        ending = f"Version {run.version} was promoted over {run.champion}."
        runs.end(connection, run, runs.RunState.PROMOTED, ending=ending, actor=run.actor, at=now)
