"""Counts that should follow the shares: units per arm, and rare events per arm."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtrc

from bench.calibration.jobs import Outcome
from bench.calibration.watch import Alarms
from understudy.stats.event_split import split_log_bayes_factor
from understudy.stats.srm import Split, sequential_srm

__all__ = ["rare_events", "unit_split"]


def unit_split(
    rng: np.random.Generator, runs: int, share: float, looks: int, per_look: int, alphas: tuple[float, ...]
) -> Outcome:
    """Look at the split of units all the time, where ``share`` of both arms' units go to the challenger.

    Planned is one half. The contrast is the chi-square test, repeated.
    """
    counts = rng.binomial(per_look, share, (runs, looks)).cumsum(axis=1)
    n = np.arange(1, looks + 1) * per_look
    alarms = Alarms(runs)
    smallest = np.zeros((runs, looks))
    for run in range(runs):
        for look in range(looks):
            challenger = int(counts[run, look])
            split = Split((1,), (int(n[look]) - challenger, challenger), (0.5, 0.5))
            smallest[run, look] = sequential_srm([split], alphas[0]).p
            if smallest[run, look] <= min(alphas):
                smallest[run, look:] = 0.0
                break
    chi = chdtrc(1, (counts - n / 2) ** 2 / (n / 4))
    for alpha in alphas:
        for kind, p in (("sequential", smallest), ("chi-square", chi)):
            rings = p <= alpha
            first = np.where(rings.any(axis=1), n[rings.argmax(axis=1)], math.inf)
            alarms.note(f"{kind}|{alpha:g}", np.isfinite(first), first)
    return Outcome(runs, alarms.counts(), alarms.stops())


def rare_events(
    rng: np.random.Generator,
    runs: int,
    rate: float,
    times: float,
    looks: int,
    per_look: int,
    share: float,
    alpha: float,
) -> Outcome:
    """Look at counted errors all the time.

    Args:
        rng: the generator.
        runs: simulated runs.
        rate: errors per request of the control.
        times: the challenger's rate in multiples of it; 1 is the null.
        looks: looks at each run.
        per_look: requests of both arms between looks.
        share: the challenger's part of them.
        alpha: error budget.
    """
    sizes = per_look * (1 - share), per_look * share
    shape = (runs, looks)
    control = rng.binomial(round(sizes[0]), rate, shape).cumsum(axis=1)
    challenger = rng.binomial(round(sizes[1]), rate * times, shape).cumsum(axis=1)
    n = np.arange(1, looks + 1) * per_look
    counts = np.stack([control, challenger], axis=-1)
    alarms = Alarms(runs)
    for sided in ("one", "two"):
        rings = split_log_bayes_factor(counts, sizes, sided) >= -math.log(alpha)
        first = np.where(rings.any(axis=1), n[rings.argmax(axis=1)], math.inf)
        alarms.note(sided, np.isfinite(first), first)
    return Outcome(runs, alarms.counts(), alarms.stops())
