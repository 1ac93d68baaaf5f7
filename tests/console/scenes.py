"""Puts a real store into the situations that the console has to show, with the functions that production uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests import declared
from understudy.points.manifest import PARTS, digest_of, seal
from understudy.spec import Stage, reach_of
from understudy.store import Store, exposures, ledger, readiness, records, runs
from understudy.store.readiness import Readiness
from understudy.verdicts import Outcome, Verdict

LADDER = [
    {"percent": percent, "soak": "2m", "timeout": "10m", "min_units": 200} for percent in (1, 5, 25, 50, 100)
]
_STEPS = {
    "preregister": "Version 2 is registered against champion 1: the spec is frozen and the way back is proven.",
    "check_data": "24 expectations on 31,204 rows hold.",
    "evaluate": "On 20,000 labelled rows the challenger's Brier score is better by 0.0121 (0.0098 to 0.0144).",
    "shadow": "5,000 replayed requests: both versions agree on 93.1 %, the mean score moved by 0.012, no errors.",
}


def adopt(store: Store, model: str, champion: str = "1") -> None:
    """Make a model known, without any run."""
    with store.write() as connection:
        exposures.adopt(connection, model, champion, actor="ana", at=store.clock())


def prepare(
    store: Store,
    model: str,
    *,
    actor: str = "ana",
    reason: str = "Weather features are in.",
    ladder: Sequence[Mapping[str, object]] = LADDER,
) -> runs.Run:
    """Start a run of version 2 whose checks all passed; nobody is exposed."""
    adopt(store, model)
    name = model.replace("-", "_")
    spec = declared.experiment(stages=list(ladder), lease="45s").frozen() | {"model": model, "name": name}
    with store.write() as connection:
        at = store.clock()
        run = runs.create(
            connection,
            key=f"experiment__{name}/manual__2026-01-05T03:00:00+00:00/{at}",
            spec=spec,
            spec_digest="d" * 64,
            version="2",
            champion="1",
            actor=actor,
            reason=reason,
            airflow={"dag_id": f"experiment__{name}", "run_id": "manual__2026-01-05T03:00:00+00:00"},
            at=at,
        )
        runs.set_mlflow_run(connection, run.run_id, "0f3c1b7e9d0a4c5e8b6f2a1d3c4e5f60")
        for step, sentence in _STEPS.items():
            records.record_verdict(connection, run.run_id, step, Verdict(Outcome.PASS, "ok", sentence), at=at)
    return run


def take_point(store: Store, run: runs.Run, *, ready: bool | None) -> None:
    """Take a prepared run's rollback point; None leaves it unproven."""
    manifest = seal({name: {"nothing": None} for name in PARTS})
    with store.write() as connection:
        at = store.clock()
        digest = digest_of(manifest)
        records.save_rollback_point(connection, run.run_id, run.model, "1", manifest, digest, at=at)
        if ready is not None:
            told = (
                "Version 1 answers the probe as it did."
                if ready
                else "snapshot, datasets a.parquet: recorded 1"
            )
            problems = () if ready else (told,)
            readiness.record(
                connection, Readiness(run.run_id, run.model, "1", ready, told, problems, 1.5, at)
            )


def expose(store: Store, run: runs.Run, stage: int, *, lease: float = 45) -> None:
    """Take a prepared run up to a stage, every stage before it passed, two looks at this one."""
    stages = [Stage.model_validate(stage) for stage in run.spec["stages"]]
    with store.write() as connection:
        at = store.clock()
        for number in range(1, stage + 1):
            percent, rings = reach_of(stages, number)
            exposures.raise_to(connection, run.run_id, number, percent, lease, rings=rings.items(), at=at)
            if number < stage:
                passed = Verdict(Outcome.PASS, "ok", f"No metric is harmed at {percent:g} % of units.")
                look(store, run, number, passed, "ADVANCE", connection=connection)
        waiting = (
            "brier is +0.0021 (-0.0040 to +0.0082): the data does not decide yet; 143 of 200 units are in."
        )
        for _ in range(2):
            verdict = Verdict(Outcome.INCONCLUSIVE, "undecided", waiting)
            look(store, run, stage, verdict, "HOLD", connection=connection)


def look(
    store: Store, run: runs.Run, stage: int, verdict: Verdict, decision: str, *, connection: runs.Connection
) -> None:
    """Record one look of the guard."""
    records.record_verdict(
        connection, run.run_id, f"stage_{stage}", verdict, at=store.clock(), stage=stage, decision=decision
    )


def roll_back(store: Store, run: runs.Run, stage: int, *, reason: str | None = None) -> None:
    """End an exposed run as a harmful one ends."""
    why = reason or "brier is worse by 0.031 (0.012 to 0.050) for origin EWR, more than the margin of 0.02."
    with store.write() as connection:
        at = store.clock()
        look(store, run, stage, Verdict(Outcome.FAIL, "harm", why), "ROLL_BACK", connection=connection)
        exposures.drop(connection, run.model, actor="understudy", reason=why, at=at)
        runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, at)
        ledger.append(
            connection, at=at, actor="understudy", action="rollback.started", model=run.model, run_id=run.run_id, reason=why
        )  # fmt: skip
        ending = f"Rolled back at stage {stage} to version 1: {why}"
        rolled_back = runs.RunState.ROLLED_BACK
        runs.end(connection, run, rolled_back, ending=ending, actor="understudy", at=at)
