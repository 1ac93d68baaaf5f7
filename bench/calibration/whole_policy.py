"""A whole experiment at once: several metrics in many cohorts, one error budget, no effect anywhere."""

from __future__ import annotations

import numpy as np

from bench.calibration.distributions import DISTRIBUTIONS, Array
from bench.calibration.jobs import Outcome
from bench.calibration.tally import Tally
from bench.calibration.traffic import STRUCTURES, Design, Traffic
from bench.calibration.watch import Alarms
from understudy.policy.plan import harm_rows
from understudy.spec import Experiment
from understudy.stats.cells import ALL, Cells, interval_table
from understudy.stats.multiplicity import e_bh

__all__ = ["METRICS", "no_effect_anywhere"]

METRICS = {"errors": "bernoulli-0.1", "returns": "bernoulli-5", "cost": "lognormal-1.5", "score": "normal"}
"""Metrics of the simulated experiment and the distribution of each; a unit's values hang together across metrics."""

_SHARED = 0.5


def no_effect_anywhere(
    rng: np.random.Generator, runs: int, cohorts: int, looks: int, per_look: float, alpha: float
) -> Outcome:
    """Count runs in which any cell of a harmless challenger is found worse.

    Args:
        rng: the generator.
        runs: simulated runs.
        cohorts: registered cohorts; every unit belongs to one.
        looks: looks at each run.
        per_look: units per arm between looks, over all cohorts.
        alpha: error budget of the whole run.
    """
    names = tuple(f"group={number}" for number in range(cohorts))
    rows = harm_rows(_experiment(alpha), names)
    metrics = tuple(metric.name for metric in rows.metrics)
    row_of = {key: row for row, key in enumerate(zip(metrics, rows.cohorts, strict=True))}
    at = {name: np.array([row_of[name, cohort] for cohort in (*names, ALL)]) for name in METRICS}
    kinds = {d.name: d.kind for d in DISTRIBUTIONS}
    traffic = Traffic(rng, runs, Design.staged(5), STRUCTURES[0], per_look)
    arms = Tally(runs * len(rows)), Tally(runs * len(rows))
    inside, alarms = rows.by_cohort.ravel(), Alarms(runs)
    for look in range(1, looks + 1):
        for arm, events in zip(arms, traffic.look(), strict=True):
            group = rng.integers(0, cohorts, events.replicate.size)
            for name, values in _values(rng, events.latent).items():
                for row in (at[name][group], at[name][-1]):
                    arm.add(events.replicate * len(rows) + row, events.bucket, values)
        moments = [arm.moments(len(rows)) for arm in arms]
        cells = Cells(metrics, tuple(kinds[METRICS[name]] for name in metrics), rows.cohorts, *moments)
        n_star = looks * per_look / 5
        table = interval_table(cells, rows.alpha, n_star)
        rings = table.determined & (table.lower > 0)
        alarms.note("divided", rings.any(axis=1), look)
        alarms.note("everyone", rings[:, rows.overall].any(axis=1), look)
        alarms.note("cohorts", rings[:, inside].any(axis=1), look)
        whole = interval_table(cells, alpha, n_star)
        alarms.note("undivided", (whole.determined & (whole.lower > 0)).any(axis=1), look)
        found = e_bh(whole.log_e()[:, inside], alpha)
        alarms.note("e-BH", found.count > 0, look)
    for arm in arms:
        arm.check(len(rows))
    return Outcome(runs, alarms.counts())


def _values(rng: np.random.Generator, latent: Array) -> dict[str, Array]:
    by_name = {d.name: d for d in DISTRIBUTIONS}
    own = {name: rng.standard_normal(latent.size) for name in METRICS}
    return {
        name: by_name[of].value(rng, np.sqrt(_SHARED) * latent + np.sqrt(1 - _SHARED) * own[name])
        for name, of in METRICS.items()
    }


def _experiment(alpha: float) -> Experiment:
    kinds = {"errors": {"kind": "error_rate"}, "returns": {"kind": "error_rate"}}
    value = {"kind": "mean", "value": "amount", "better": "lower"}
    metrics = [
        {
            "name": name,
            "margin": 0.1,
            "role": "primary" if name == "score" else "guardrail",
            **kinds.get(name, value),
        }
        for name in METRICS
    ]
    return Experiment.model_validate(
        {
            "name": "calibration", "model": "any", "owner": "bench", "description": "An experiment without an effect.",
            "hypothesis": "Nothing differs.",
            "traffic": {"unit": "unit", "event_id": "id", "event_time": "at", "cohorts": ["group"], "maturity": "1s"},
            "data": {"reference": "a.parquet", "holdout": "b.parquet", "label": "y"},
            "checks": [{"suite": "rows", "dataset": "reference"}, {"suite": "rows", "dataset": "requests"}],
            "metrics": metrics,
            "stages": [{"percent": 5, "soak": "30s", "timeout": "300s", "min_units": 50}],
            "planned_events": 10_000, "alpha": alpha, "look_every": "5s", "lease": "30s", "stale_after": "20s",
        }
    )  # fmt: skip
