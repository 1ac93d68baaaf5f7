"""The slow tail: the share of requests slower than a limit, and the 99th percentile itself, looked at again and again."""

from __future__ import annotations

import numpy as np

from bench.calibration.jobs import Outcome
from bench.calibration.means import ALPHA
from bench.calibration.tally import Tally
from bench.calibration.traffic import STRUCTURES, Design, Traffic
from bench.calibration.watch import Alarms, judged
from understudy.stats.cells import Cells
from understudy.stats.quantiles import quantile_difference, quantiles

__all__ = ["slow_tail"]

_Q = 0.99


def slow_tail(
    rng: np.random.Generator, runs: int, slowdown: float, looks: int, per_look: int, limit: float
) -> Outcome:
    """Count alarms of both ways to watch the 99th percentile, and of the plain interval looked at repeatedly.

    Args:
        rng: the generator.
        runs: simulated runs.
        slowdown: factor on the challenger's latencies; 1 is the null.
        looks: looks at each run.
        per_look: requests per arm between looks.
        limit: standard normal quantile of the control's latency that counts as slow.
    """
    sigma, n_star = 0.5, looks * per_look / 5
    traffic = Traffic(rng, runs, Design.staged(5), STRUCTURES[0], per_look)
    room = round(looks * per_look * 1.2) + 200
    values = np.full((2, runs, room), np.nan)
    filled = np.zeros((2, runs), dtype=np.int64)
    arms, alarms = (Tally(runs), Tally(runs)), Alarms(runs)
    for _ in range(looks):
        for arm, events in enumerate(traffic.look()):
            latency = np.exp(sigma * events.latent) * (slowdown if arm else 1.0)
            arms[arm].add(events.replicate, events.bucket, (latency > np.exp(sigma * limit)).astype(float))
            many = np.bincount(events.replicate, minlength=runs)
            place = (
                np.arange(latency.size)
                - np.repeat(many.cumsum() - many, many)
                + filled[arm][events.replicate]
            )
            values[arm, events.replicate, place] = latency
            filled[arm] += many
        table, rings = judged(
            Cells(("slow",), ("latency_over",), ("all",), *(arm.moments() for arm in arms)), ALPHA, n_star
        )
        now = table.clock[:, 0] / 2
        alarms.note("share_harm", rings["harm"][:, 0], now)
        alarms.note("share_two", rings["two"][:, 0], now)
        found = [quantiles(values[arm][:, : int(filled[arm].max())], _Q) for arm in (0, 1)]
        for name, tuned in (("plain", None), ("sequence", n_star)):
            gap = quantile_difference(found[0], found[1], ALPHA, "two", tuned)
            alarms.note(f"{name}_two", gap.determined & ((gap.lower > 0) | (gap.upper < 0)), now)
    for arm in arms:
        arm.check()
    return Outcome(runs, alarms.counts(), alarms.stops() if slowdown != 1 else {})
