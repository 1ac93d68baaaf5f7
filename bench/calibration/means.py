"""One metric, two arms, looked at all the time: false alarms without an effect, and how soon an effect is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.calibration.distributions import DISTRIBUTIONS, Distribution
from bench.calibration.jobs import Outcome
from bench.calibration.tally import Tally
from bench.calibration.traffic import STRUCTURES, Design, Traffic
from bench.calibration.watch import Alarms, judged, t_test, welch_error
from understudy.stats.cells import Cells
from understudy.stats.sequences import multiplier

__all__ = ["ALPHA", "DETECTABLE", "detection", "false_alarms", "formula", "ratio_false_alarms"]

ALPHA = 0.05
DETECTABLE = 2.801585
"""Effect in standard errors that one final two-sided t test at 5 % finds with 80 %: z(0.975) + z(0.8)."""


def false_alarms(
    rng: np.random.Generator,
    runs: int,
    distribution: str,
    design: tuple[str, float],
    structure: str,
    looks: int,
    per_look: float,
    spread: float = 1.0,
) -> Outcome:
    """Count alarms in runs where both arms have the same mean.

    For rates "quiet" counts runs in which the bound on a rate that has been zero so far excluded the true rate.

    Args:
        rng: the generator.
        runs: simulated runs.
        distribution: name of the distribution.
        design: "staged" or "against_the_rest", and the percentage.
        structure: name of the structure.
        looks: looks at each run.
        per_look: events of the smaller arm between looks.
        spread: factor on the challenger's values; anything but 1 only for a distribution with mean zero.
    """
    metric = _named(DISTRIBUTIONS, distribution)
    split = _design(*design)
    traffic = Traffic(rng, runs, split, _named(STRUCTURES, structure), per_look)
    arms = Tally(runs), Tally(runs)
    alarms = Alarms(runs)
    total = (
        looks * per_look * (1 + max(split.challenger, split.control) / min(split.challenger, split.control))
    )
    fourteen = {round(looks * k / 14) for k in range(1, 15)}
    for look in range(1, looks + 1):
        cells = _look(traffic, arms, metric, rng, spread=spread)
        table, rings = judged(cells, ALPHA, total / 10)
        for kind, ringing in rings.items():
            alarms.note(kind, ringing[:, 0], look)
        if metric.kind == "error_rate":
            bounds = np.minimum(table.upper, -table.lower)[:, 0]
            alarms.note("quiet", table.never_happened[:, 0] & (bounds < metric.mean), look)
        wrong = t_test(table, ALPHA)[:, 0]
        alarms.note("t_every", wrong, look)
        alarms.note("t_14", wrong & (look in fourteen), look)
        alarms.note("t_once", wrong & (look == looks), look)
        if split.challenger != split.control:
            with np.errstate(invalid="ignore"):
                narrow = welch_error(cells) * multiplier(table.clock, ALPHA, total / 10, "one", table.df)
                alarms.note("welch_harm", (table.estimate > narrow)[:, 0], look)
                alarms.note("welch_gain", (-table.estimate > narrow)[:, 0], look)
    _check(arms)
    return Outcome(runs, alarms.counts())


def detection(
    rng: np.random.Generator,
    runs: int,
    times: float,
    looks: int,
    per_look: float,
    planned: int,
    n_stars: Sequence[float],
    alphas: Sequence[float] = (ALPHA,),
) -> Outcome:
    """Measure after how many units per arm harm is found; normal data, equal arms.

    Args:
        rng: the generator.
        runs: simulated runs.
        times: size of the harm, in multiples of what one final t test finds with 80 %.
        looks: looks at each run.
        per_look: units per arm between looks.
        planned: units per arm at the planned end.
        n_stars: tunings of the sequence, in events of both arms.
        alphas: error budgets.
    """
    effect = times * DETECTABLE * np.sqrt(2 / planned)
    traffic = Traffic(rng, runs, Design.staged(1), STRUCTURES[0], per_look)
    arms = Tally(runs), Tally(runs)
    alarms = Alarms(runs)
    for _ in range(looks):
        cells = _look(traffic, arms, DISTRIBUTIONS[0], rng, effect=effect)
        for n_star in n_stars:
            for alpha in alphas:
                table, rings = judged(cells, alpha, n_star)
                now = table.clock[:, 0] / 2
                alarms.note(f"one|{n_star:g}|{alpha:g}", rings["harm"][:, 0], now)
                alarms.note(f"two|{n_star:g}|{alpha:g}", rings["two"][:, 0], now)
    _check(arms)
    return Outcome(runs, alarms.counts(), alarms.stops())


def formula(
    rng: np.random.Generator, runs: int, times: float, looks: int, per_look: int, planned: int, n_star: float
) -> Outcome:
    """Measure the same for the bare formula: known variance, exact arm sizes. No implementation can do better by luck."""
    effect = times * DETECTABLE * np.sqrt(2 / planned)
    n = np.arange(1, looks + 1) * per_look
    steps = rng.standard_normal((runs, looks)) * np.sqrt(2 * per_look) + effect * per_look
    z = steps.cumsum(axis=1) / np.sqrt(2 * n)
    stops = {}
    for sided, size in (("one", z), ("two", np.abs(z))):
        rings = size > multiplier(2 * n, ALPHA, n_star, sided)
        stops[sided] = tuple(np.where(rings.any(axis=1), n[rings.argmax(axis=1)], np.inf).tolist())
    return Outcome(runs, {k: int(np.isfinite(v).sum()) for k, v in stops.items()}, stops)


def ratio_false_alarms(
    rng: np.random.Generator, runs: int, looks: int, per_look: float, per_unit: bool = False
) -> Outcome:
    """Count alarms on spend per session, where busy units also spend more per session; ``per_unit`` on spend per unit."""
    traffic = Traffic(rng, runs, Design.staged(5), STRUCTURES[0], per_look)
    arms = Tally(runs), Tally(runs)
    alarms = Alarms(runs)
    for look in range(1, looks + 1):
        for arm, events in zip(arms, traffic.look(), strict=True):
            sessions = 1.0 + rng.poisson(np.exp(0.8 * events.latent))
            spend = sessions * np.exp(0.5 * events.latent + 0.8 * rng.standard_normal(sessions.size))
            arm.add(events.replicate, events.bucket, spend, None if per_unit else sessions)
        cells = Cells(("spend",), ("mean",), ("all",), *(arm.moments() for arm in arms))
        table, rings = judged(cells, ALPHA, looks * per_look / 5)
        for kind, ringing in rings.items():
            alarms.note(kind, ringing[:, 0], look)
        alarms.note("t_every", t_test(table, ALPHA)[:, 0], look)
    _check(arms)
    return Outcome(runs, alarms.counts())


def _look(
    traffic: Traffic,
    arms: tuple[Tally, Tally],
    metric: Distribution,
    rng: np.random.Generator,
    effect: float = 0.0,
    spread: float = 1.0,
) -> Cells:
    for tally, events, shift, factor in zip(arms, traffic.look(), (0.0, effect), (1.0, spread), strict=True):
        tally.add(events.replicate, events.bucket, factor * metric.value(rng, events.latent) + shift)
    return Cells(("metric",), (metric.kind,), ("all",), *(tally.moments() for tally in arms))


def _check(arms: tuple[Tally, Tally]) -> None:
    for arm in arms:
        arm.check()


def _design(kind: str, percent: float) -> Design:
    return Design.staged(percent) if kind == "staged" else Design.against_the_rest(percent)


def _named(options: Sequence[Any], name: str) -> Any:
    return next(option for option in options if option.name == name)
