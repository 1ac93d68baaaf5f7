"""Plays one scenario in a sandbox: the real steps of a run, a planted fault, and the real way back, each timed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from understudy import gateways, lifecycle, rollback
from understudy.drill import findings
from understudy.drill.findings import Played
from understudy.drill.passage import ACTOR, FIRST_LOOK, Passage
from understudy.drill.sandbox import TWIN, Sandbox
from understudy.drill.traffic import Rows, Traffic, harmed, taken_back
from understudy.errors import StepNotPassed, StoreError, UnderstudyError, Unreachable
from understudy.exposure import CHALLENGER
from understudy.registry import FEATURE_SET_TAG
from understudy.spec import Scenario
from understudy.store import exposures, records, runs
from understudy.verdicts import Outcome, Verdict

__all__ = ["play"]

_LEFT_OUT = ("check_data", "evaluate", "shadow")
"""Steps that judge a version before anybody is exposed. The twin has to come past them, because it is the guard's turn."""

_LEFT_ALONE = 3000
"""Units that a healthy twin answers under guard."""


def play(sandbox: Sandbox, scenario: Scenario) -> Played:
    """Play one scenario and return what was measured.

    Raises:
        UnderstudyError: The sandbox itself does not work.
    """
    try:
        return _SCENES.get(scenario, _guarded)(sandbox, scenario)
    finally:
        sandbox.plant(None)
        _clear(sandbox)


def _clear(sandbox: Sandbox) -> None:
    """End a run that a broken scenario left behind, so that the next one may begin."""
    with sandbox.session.store.read() as connection:
        left = runs.active(connection, sandbox.model)
    if left is not None:
        with suppress(UnderstudyError):
            rollback.execute(sandbox.model, "Drill: the scenario broke off.", ACTOR, uuid.uuid4().hex)


def _begin(sandbox: Sandbox, scenario: Scenario) -> str:
    key = f"{scenario.value}/{uuid.uuid4().hex}"
    return str(
        lifecycle.begin(
            sandbox.experiment_of(scenario).name, TWIN, key, ACTOR, f"Drill: {scenario.value}.", {}
        )["run_id"]
    )


_LOADS: dict[Scenario, dict[str, Any]] = {
    Scenario.TRAFFIC_SPIKE: {"threads": 8, "rate": 16_000.0, "rows_each": 5},
    Scenario.LATENCY: {"threads": 48, "rate": 60.0, "rows_each": 1},
    # It goes on until the lease is over.
    Scenario.CONTROL_PLANE_DOWN: {"rate": 500.0},
}


def _started(sandbox: Sandbox, scenario: Scenario) -> str:
    """Start a run of the twin and let the gateway load it; nobody is exposed yet."""
    run_id = _begin(sandbox, scenario)
    store = sandbox.session.store
    with store.write() as connection:
        for step in _LEFT_OUT:
            verdict = Verdict(Outcome.PASS, "left_out", "Left out: the drill is about what comes after it.")
            records.record_verdict(connection, run_id, step, verdict, at=store.clock())
        # Loaded first, as the mirror of a real run does: the lease must not lapse while the gateway loads the twin.
        mirrored = exposures.stand_by(connection, run_id, mirror=True, at=store.clock())
    settings = sandbox.session.settings
    exposures.publish_flags(store, settings)
    gateways.wait_until_followed(settings.gateway_urls, mirrored)
    return run_id


def _traffic(sandbox: Sandbox, scenario: Scenario, run_id: str) -> Traffic:
    fault, _ = sandbox.fault_of(scenario)
    sandbox.plant(fault)
    lifecycle.raise_exposure(run_id, 1)
    load = _LOADS.get(scenario, {})
    if scenario is Scenario.SLOW and fault is not None:
        # A challenger answers one request at a time. Under more than half of what it can do, requests would wait for each other
        # until they are errors, and its arm would be short of units before anything is proven slow.
        load = {"rows_each": 10, "rate": 10 / fault.seconds}
    halved = scenario is Scenario.PARTIAL_DATA
    return Traffic(
        sandbox.gateway.url,
        sandbox.rows,
        sandbox.exposure(),
        run_id,
        **load,
        arrives=lambda arm, number: not (halved and arm == CHALLENGER and number % 2),
    )


def _guarded(sandbox: Sandbox, scenario: Scenario) -> Played:
    """The fault is planted, the guard looks, and the rollback follows."""
    run_id = _started(sandbox, scenario)
    with _traffic(sandbox, scenario, run_id) as traffic:
        passage = Passage(sandbox, scenario, run_id, traffic)
        decided = passage.look_until(lambda: False)
        passage.go_back(decided)
        return _costed(sandbox, passage.finish(decided))


def _costed(sandbox: Sandbox, played: Played) -> Played:
    fault, cost = sandbox.fault_of(played.scenario)
    return replace(played, cost=cost, severity=fault.severity if fault else 1.0)


def _healthy(sandbox: Sandbox, scenario: Scenario) -> Played:
    """Nothing is planted: the guard must leave it alone, and the rollback is asked for by hand."""
    run_id = _started(sandbox, scenario)
    with _traffic(sandbox, scenario, run_id) as traffic:
        passage = Passage(sandbox, scenario, run_id, traffic)
        decided = passage.look_until(lambda: harmed(traffic.answers, TWIN) > _LEFT_ALONE)
        passage.played = replace(passage.played, units=harmed(traffic.answers, TWIN))
        passage.go_back(decided)
        return passage.finish(decided)


def _registry_down(sandbox: Sandbox, scenario: Scenario) -> Played:
    """MLflow is stopped while units are exposed: exposure ends all the same, and the rest follows when it is back."""
    run_id = _started(sandbox, scenario)
    with _traffic(sandbox, scenario, run_id) as traffic:
        passage = Passage(sandbox, scenario, run_id, traffic)
        sandbox.mlflow.process.stop(2.0)
        problems: list[str] = []
        try:
            decided = passage.look_until(lambda: False)
            try:
                passage.go_back(decided)
                problems.append("the rollback says that it is finished while MLflow is down")
            except Unreachable:
                pass
            played = passage.finish(decided)
        finally:
            sandbox.mlflow.process.start()
            sandbox.mlflow.wait_ready()
        back = time.monotonic()
        found = rollback.resume()
        problems += [f"{item['state']}: {item['told']}" for item in found if item["state"] != "finished"]
        if not found:
            problems.append("nothing waited to be finished")
        return _costed(
            sandbox, replace(played, recovered_after=time.monotonic() - back, problems=tuple(problems))
        )


def _database_down(sandbox: Sandbox, scenario: Scenario) -> Played:
    """The store is gone at the moment of the rollback: the flag document alone ends exposure."""
    run_id = _started(sandbox, scenario)
    with _traffic(sandbox, scenario, run_id) as traffic:
        passage = Passage(sandbox, scenario, run_id, traffic)
        traffic.wait_for_units(FIRST_LOOK, 30.0)
        units = harmed(traffic.answers, TWIN)
        sandbox.break_store()
        decided = time.monotonic()
        try:
            told = _refusal_of_the_store(passage, decided)
            passage.played = replace(
                passage.played, caught_by="STORE" if told else "", told=told, units=units,
                detected_after=decided - traffic.began,
            )  # fmt: skip
            played = passage.finish(decided)
        finally:
            sandbox.mend_store()
        back = time.monotonic()
        passage.played = played
        passage.go_back(back)
        return _costed(sandbox, passage.played)


def _refusal_of_the_store(passage: Passage, decided: float) -> str:
    try:
        passage.go_back(decided)
    except StoreError as error:
        return error.message
    return ""


def _control_plane_down(sandbox: Sandbox, scenario: Scenario) -> Played:
    """Nobody looks: the lease lapses by itself. The control plane comes back afterwards and takes the run back."""
    run_id = _started(sandbox, scenario)
    with _traffic(sandbox, scenario, run_id) as traffic:
        passage = Passage(sandbox, scenario, run_id, traffic)
        lapsed = traffic.wait_for(taken_back, 2 * sandbox.experiment.lease + 10.0)
        units = harmed(traffic.answers, TWIN)
        since = time.monotonic()
        found = lifecycle.look(run_id, 1)
        passage.caught(found["verdict"], since, units)
        passage.played = replace(
            passage.played, allowed=sandbox.experiment.lease, caught_by="the lease" if lapsed else ""
        )
        passage.go_back(since)
        return _costed(sandbox, passage.finish(traffic.began))


def _drift(sandbox: Sandbox, scenario: Scenario) -> Played:
    """Requests have drifted before the run begins: its suites must stop it."""
    _served_once(sandbox, sandbox.drifted(), scenario)
    return _refused(sandbox, scenario, lambda: lifecycle.check_data(_begin(sandbox, scenario)))


def _missing_features(sandbox: Sandbox, scenario: Scenario) -> Played:
    sandbox.without_a_feature()
    try:
        return _refused(sandbox, scenario, lambda: _begin(sandbox, scenario))
    finally:
        sandbox.with_every_feature()


def _tag_mismatch(sandbox: Sandbox, scenario: Scenario) -> Played:
    client = sandbox.session.registry.client
    client.set_model_version_tag(sandbox.model, TWIN, FEATURE_SET_TAG, "never-registered")
    try:
        return _refused(sandbox, scenario, lambda: _begin(sandbox, scenario))
    finally:
        client.delete_model_version_tag(sandbox.model, TWIN, FEATURE_SET_TAG)


def _refused(sandbox: Sandbox, scenario: Scenario, step: Callable[[], object]) -> Played:
    """Note who refuses a run before anybody is exposed."""
    wanted = findings.REFUSED_BY[scenario]
    began = time.monotonic()
    by, told = "", "the run was let through"
    try:
        step()
    except StepNotPassed as error:
        by, told = error.step, error.verdict["sentence"]
    except UnderstudyError as error:
        by, told = error.code, error.message
    took = time.monotonic() - began
    _end(sandbox)
    problems = () if sandbox.exposure().challenger is None else ("somebody is exposed",)
    if by not in wanted:
        told = f"{by or 'nobody'} stopped it, and not {' or '.join(sorted(wanted))}: {told}"
        by = ""
    return Played(scenario, by, told, detected_after=took, problems=problems)


def _end(sandbox: Sandbox) -> None:
    """End the run that a refusal left, as the DAG does."""
    with sandbox.session.store.read() as connection:
        left = runs.active(connection, sandbox.model)
    if left is not None:
        lifecycle.abort(left.run_id, "Drill: the run was refused.")


def _served_once(sandbox: Sandbox, rows: Rows, scenario: Scenario) -> None:
    """Ask about some thousand rows, so that the log is about them."""
    wanted = sandbox.experiment.shadow.requests
    with Traffic(sandbox.gateway.url, rows, None, f"{scenario.value}-{uuid.uuid4().hex[:6]}") as traffic:
        traffic.wait_for_units(wanted, 30.0)


_SCENES: dict[Scenario, Callable[[Sandbox, Scenario], Played]] = {
    Scenario.HEALTHY: _healthy,
    Scenario.DRIFT: _drift,
    Scenario.MISSING_FEATURES: _missing_features,
    Scenario.TAG_MISMATCH: _tag_mismatch,
    Scenario.REGISTRY_DOWN: _registry_down,
    Scenario.DATABASE_DOWN: _database_down,
    Scenario.CONTROL_PLANE_DOWN: _control_plane_down,
}
