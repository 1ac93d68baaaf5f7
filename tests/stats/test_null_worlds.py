"""The promise itself: in worlds without harm, a run that is looked at all the time is rarely stopped.

Units repeat (random effects, ever more events per unit), exposure climbs 1, 5, 25, 50 %, and every step is a look. The
number of false alarms is held against an exact binomial bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from understudy.stats.ratio import ArmMoments, difference_arrays
from understudy.stats.sequences import multiplier

Array = NDArray[np.float64]
LADDER = (0.02, 0.1, 0.5, 1.0)  # of the units that each arm has at 50 %
ALPHA = 0.05


@dataclass(frozen=True)
class World:
    """Draws a unit's tendency, and sums of the metric over some events of units with that tendency."""

    tendency: Callable[[np.random.Generator, tuple[int, ...]], Array]
    sums: Callable[[np.random.Generator, Array, Array], Array]


def _lognormal_sums(rng: np.random.Generator, tendency: Array, events: Array) -> Array:
    total = np.zeros(events.shape)
    for k in range(int(events.max(initial=0))):
        total += np.where(events > k, np.exp(tendency + 1.2 * rng.standard_normal(events.shape)), 0.0)
    return total


BERNOULLI = World(
    lambda rng, shape: rng.beta(1.0, 19.0, shape),
    lambda rng, t, k: rng.binomial(k.astype(int), np.clip(t, 0, 1)),
)
INDEPENDENT = World(
    lambda rng, shape: np.full(shape, 0.05), lambda rng, t, k: rng.binomial(k.astype(int), np.clip(t, 0, 1))
)
LOGNORMAL = World(lambda rng, shape: rng.normal(0, 0.7, shape), _lognormal_sums)
NORMAL = World(
    lambda rng, shape: rng.normal(0, 0.5, shape),
    lambda rng, t, k: k * t + np.sqrt(k) * rng.standard_normal(k.shape),
)


def alarms(
    world: World,
    sizes: tuple[int, int],
    harm: float = 0.0,
    ladder: tuple[float, ...] = LADDER,
    looks: tuple[int, ...] = (12, 12, 12, 12),
    n_star: float = 2000,
    runs: int = 600,
) -> NDArray[np.bool_]:
    """Return per simulated run whether any look found a deterioration (control size, challenger size at the top)."""
    rng = np.random.default_rng(20)
    tendency = [world.tendency(rng, (runs, size)) for size in sizes]
    n, d = ([np.zeros((runs, size, len(ladder))) for size in sizes] for _ in range(2))
    found = np.zeros(runs, dtype=bool)
    for stage, share in enumerate(ladder):
        for _ in range(looks[stage]):
            for arm, size in enumerate(sizes):
                seen = max(1, round(size * share))
                events = rng.poisson(1.0, (runs, seen)).astype(float)
                d[arm][:, :seen, stage] += events
                n[arm][:, :seen, stage] += world.sums(rng, tendency[arm][:, :seen] + harm * arm, events)
            found |= _alarm(
                [ArmMoments.from_units(n[a][..., : stage + 1], d[a][..., : stage + 1]) for a in range(2)],
                n_star,
            )
    return found


def _alarm(arms: list[ArmMoments], n_star: float) -> NDArray[np.bool_]:
    estimate, se, df, clock, _, _ = difference_arrays(*arms)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(estimate / se > multiplier(clock, ALPHA, n_star, "one", df))


def assert_at_most_alpha(found: NDArray[np.bool_]) -> None:
    """With a true rate of alpha, more alarms than this happen once in ten thousand test runs."""
    assert found.sum() <= binom.ppf(1 - 1e-4, found.size, ALPHA)


@pytest.mark.parametrize(
    "world", [BERNOULLI, INDEPENDENT, LOGNORMAL, NORMAL], ids=["bernoulli", "flat", "lognormal", "normal"]
)
def test_a_harmless_challenger_is_rarely_stopped(world: World) -> None:
    found = alarms(world, (200, 200))
    assert_at_most_alpha(found)


@pytest.mark.parametrize("sizes", [(400, 20), (20, 400)], ids=["small challenger", "small control"])
@pytest.mark.parametrize("world", [BERNOULLI, LOGNORMAL], ids=["bernoulli", "lognormal"])
def test_unequal_arms_do_not_raise_false_alarms(world: World, sizes: tuple[int, int]) -> None:
    assert_at_most_alpha(alarms(world, sizes, ladder=(0.5, 1.0), looks=(15, 15)))


def test_a_fixed_population_that_keeps_returning_does_not_raise_false_alarms() -> None:
    assert_at_most_alpha(
        alarms(INDEPENDENT, (60, 60), ladder=(0.1, 0.3, 0.6, 1.0), looks=(50, 15, 15, 15), n_star=100)
    )


def test_the_simulated_worlds_do_fool_an_ordinary_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.stats.test_null_worlds.multiplier", lambda *_: 1.645)
    assert alarms(NORMAL, (200, 200), runs=200).mean() > 0.2


def test_planted_harm_is_found() -> None:
    assert alarms(BERNOULLI, (200, 200), harm=0.1, runs=100).mean() > 0.95
    assert alarms(NORMAL, (200, 200), harm=0.5, runs=100).mean() > 0.95


def test_an_improvement_is_not_taken_for_harm() -> None:
    assert not alarms(NORMAL, (200, 200), harm=-0.3, runs=100).any()
