"""Growing exposure while the world drifts: what pooling over stages does, and what the product's strata do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.calibration.distributions import DISTRIBUTIONS, Array
from bench.calibration.jobs import Outcome
from bench.calibration.means import ALPHA
from bench.calibration.traffic import BUCKETS, STRUCTURES, Crowd, Design
from bench.calibration.watch import Alarms, judged, t_test
from understudy.stats.cells import Cells
from understudy.stats.ratio import ArmMoments

__all__ = ["drifting_ramp"]


def drifting_ramp(
    rng: np.random.Generator,
    runs: int,
    distribution: str,
    structure: str,
    percents: Sequence[float],
    concurrent: bool,
    looks: int,
    crowd: float,
    drift: float,
) -> Outcome:
    """Count alarms while exposure climbs and everybody's values climb with it, in both arms alike.

    Args:
        rng: the generator.
        runs: simulated runs.
        distribution: name of the distribution.
        structure: name of the structure; units that are about at a change of stage are seen in both stages.
        percents: exposure of the challenger, stage after stage.
        concurrent: whether control is as large as the product makes it; otherwise everybody else is control.
        looks: looks in each stage.
        crowd: events of all units between looks.
        drift: rise of the latent from one stage to the next.
    """
    metric = next(option for option in DISTRIBUTIONS if option.name == distribution)
    build = Design.staged if concurrent else Design.against_the_rest
    designs = [build(percent) for percent in percents]
    shape = next(option for option in STRUCTURES if option.name == structure)
    traffic = Crowd(rng, runs, designs[0], shape, 1.0)
    n, d = np.zeros((2, 2, runs, BUCKETS, len(designs)))
    alarms = Alarms(runs)
    total = sum(looks * crowd * (design.control + design.challenger) for design in designs)
    for stage, design in enumerate(designs):
        traffic.design, traffic.per_look = design, crowd * min(design.control, design.challenger)
        for look in range(looks):
            for arm, events in enumerate(traffic.look()):
                at = events.replicate, events.bucket, stage
                np.add.at(n[arm], at, metric.value(rng, events.latent + drift * stage))
                np.add.at(d[arm], at, 1.0)
            now = stage * looks + look + 1
            table, rings = judged(
                _cells(metric.kind, n[..., : stage + 1], d[..., : stage + 1]), ALPHA, total / 10
            )
            for kind, ringing in rings.items():
                alarms.note(kind, ringing[:, 0], now)
            mixed = _cells(metric.kind, n.sum(axis=-1, keepdims=True), d.sum(axis=-1, keepdims=True))
            pooled, rings = judged(mixed, ALPHA, total / 10)
            alarms.note("pooled_two", rings["two"][:, 0], now)
    alarms.note("pooled_t_once", t_test(pooled, ALPHA)[:, 0], now)
    alarms.note("t_once", t_test(table, ALPHA)[:, 0], now)
    return Outcome(runs, alarms.counts())


def _cells(kind: str, n: Array, d: Array) -> Cells:
    arms = (ArmMoments.from_units(n[arm][:, None], d[arm][:, None], buckets=BUCKETS) for arm in (0, 1))
    return Cells(("metric",), (kind,), ("all",), *arms)
