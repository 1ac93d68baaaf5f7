"""A metric with its history taken away (CUPED): false alarms, and how much sooner harm is found."""

from __future__ import annotations

import numpy as np

from bench.calibration.distributions import Array
from bench.calibration.jobs import Outcome
from bench.calibration.means import ALPHA, DETECTABLE
from bench.calibration.traffic import BUCKETS, STRUCTURES, Design, Events, Traffic
from bench.calibration.watch import Alarms, judged
from understudy.stats.cells import Cells
from understudy.stats.cuped import Sums, adjust
from understudy.stats.ratio import ArmMoments

__all__ = ["with_history"]


class _Arm:
    """Bucket sums of value, count, history and its count."""

    def __init__(self, runs: int) -> None:
        self.sums = np.zeros((4, runs, BUCKETS))

    def add(self, events: Events, value: Array, history: Array, known: Array) -> None:
        for column, what in enumerate((value, np.ones_like(value), history * known, known)):
            np.add.at(self.sums[column], (events.replicate, events.bucket), what)


def with_history(
    rng: np.random.Generator,
    runs: int,
    correlation: float,
    known: float,
    looks: int,
    per_look: float,
    times: float = 0.0,
) -> Outcome:
    """Count alarms with and without the adjustment.

    Args:
        rng: the generator.
        runs: simulated runs.
        correlation: of a unit's value with its history.
        known: share of units that have a history at all.
        looks: looks at each run.
        per_look: units per arm between looks.
        times: harm in multiples of what one final t test without history finds with 80 %; 0 is the null.
    """
    effect = times * DETECTABLE * np.sqrt(2 / (looks * per_look))
    traffic = Traffic(rng, runs, Design.staged(5), STRUCTURES[0], per_look)
    arms, alarms = (_Arm(runs), _Arm(runs)), Alarms(runs)
    n_star = looks * per_look / 5
    for _ in range(looks):
        for index, (arm, events) in enumerate(zip(arms, traffic.look(), strict=True)):
            history = events.latent
            fresh = rng.standard_normal(history.size)
            value = correlation * history + np.sqrt(1 - correlation**2) * fresh + effect * index
            arm.add(events, value, 5.0 + history, (rng.random(history.size) < known).astype(float))
        found = adjust(*(Sums.without_stages(*arm.sums) for arm in arms))
        counts = [arm.sums[1][:, None, :, None] for arm in arms]
        for name, tops in (
            ("adjusted", (found.control[:, None], found.challenger[:, None])),
            ("plain", [arm.sums[0][:, None, :, None] for arm in arms]),
        ):
            moments = (
                ArmMoments.from_units(top, count, buckets=BUCKETS)
                for top, count in zip(tops, counts, strict=True)
            )
            table, rings = judged(Cells(("metric",), ("mean",), ("all",), *moments), ALPHA, n_star)
            for kind, ringing in rings.items():
                alarms.note(f"{name}_{kind}", ringing[:, 0], table.clock[:, 0] / 2)
    averages = {"variance_reduction": float(found.variance_reduction.mean())}
    return Outcome(runs, alarms.counts(), alarms.stops() if times else {}, averages)
