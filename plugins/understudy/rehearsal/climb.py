"""One batch of simulated runs of one world, from the first look to the last ending."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy import policy
from understudy.rehearsal.history import Floats, Ints
from understudy.rehearsal.ladder import Ending, Endings, Ladder, ending_of
from understudy.rehearsal.split import split_is_sound
from understudy.rehearsal.tally import Counted, Tally
from understudy.rehearsal.traffic import Picked, Traffic
from understudy.rehearsal.worlds import Shape, World
from understudy.stats.cells import Cells

__all__ = ["climb"]

Mask = NDArray[np.bool_]
CONTROL, CHALLENGER = 0, 1


def climb(ladder: Ladder, traffic: Traffic, world: World, rng: np.random.Generator) -> Endings:
    """Let every run of a batch climb until it has ended.

    Args:
        ladder: The spec.
        traffic: The batch's traffic, drawn from the history in the shape of the world.
        world: What the challenger is.
        rng: Source of chance of the world's own: where harm strikes, when traffic stops.
    """
    return _Climb(ladder, traffic, world, rng).run()


@dataclass(frozen=True, eq=False)
class _Outage:
    """When the traffic of each run stops, and when it brings no numbers; seconds, (run,)."""

    stops: Floats
    returns: Floats
    garbled: Floats
    healed: Floats


class _Climb:
    def __init__(self, ladder: Ladder, traffic: Traffic, world: World, rng: np.random.Generator) -> None:
        self.ladder, self.traffic, self.world, self.rng = ladder, traffic, world, rng
        self.history = traffic.history
        runs, stages = traffic.runs, len(ladder.looks)
        contains = ladder.experiment.cohort_harm == "contain"
        self.outage = self._outages() if world.shape is Shape.OUTAGES else None
        self.tally = Tally(self.history, runs, stages, self._silent(), contains)
        self.stage = np.zeros(runs, dtype=np.int64)
        self.step = np.zeros(runs, dtype=np.int64)
        self.entered = np.full((runs, stages), np.inf)
        self.entered[:, 0] = 0.0
        self.clock = np.zeros(runs)
        self._known = self._in_an_arm(
            np.arange(runs)
        )  # units that have been in an arm by the stage of their run
        self.contained = np.zeros((runs, len(self.history.cohorts)), dtype=bool)
        self.counters = np.zeros((3, runs), dtype=np.int64)
        self.seen = np.full(
            (2, *traffic.position.shape), -1, dtype=np.int8
        )  # last stage, served and labelled
        self._mark = np.zeros(traffic.position.shape, dtype=np.int64)
        self.exposed = np.zeros(traffic.position.shape, dtype=bool)
        self.units = np.zeros((runs, stages, 2))
        self.distinct = np.zeros((runs, stages, 2))
        self.events = np.zeros(runs)
        self.ending = np.full(runs, -1, dtype=np.int64)

    def run(self) -> Endings:
        while (active := np.flatnonzero(self.ending < 0)).size:
            now = self._moment(active)
            self._take_in(active, self.clock[active], now)
            lapsed = self._lapsed(active, self.clock[active], now)
            self.clock[active] = now
            self.ending[active[lapsed]] = Ending.LAPSED
            left = active[~lapsed]
            for stage in np.unique(self.stage[left]):
                self._look(left[self.stage[left] == stage], int(stage))
        return Endings(
            self.ending,
            self.stage + 1,
            self.clock,
            self.events,
            self.exposed.sum(axis=1) * self.traffic.weight,
            self.contained.sum(axis=1),
        )

    def _moment(self, runs: Ints) -> Floats:
        """Return the time of the next look of each run."""
        every = self.ladder.experiment.look_every
        looks = [
            self.ladder.looks[stage][step]
            for stage, step in zip(self.stage[runs], self.step[runs], strict=True)
        ]
        return self.entered[runs, self.stage[runs]] + np.array(looks) * every

    # --- events in

    def _in_an_arm(self, runs: Ints) -> Mask:
        stage, position = self.stage[runs, None], self.traffic.position[runs]
        widest = np.maximum.accumulate(self.ladder.arms.max(axis=2), axis=1)
        left, right = widest[0][stage], 1 - widest[1][stage]
        return np.asarray((position < left) | (position >= right))

    def _take_in(self, runs: Ints, after: Floats, until: Floats) -> None:
        for labelled in (False, True) if any(self.history.delayed) else (False,):
            placed = self._placed(runs, self.traffic.pick(runs, after, until, self._known, labelled))
            if not labelled:
                self._count_units(placed)
            self._add(placed, labelled=labelled)

    def _placed(self, runs: Ints, picked: Picked) -> tuple[Picked, Counted]:
        """Keep the events of both arms, with the arm and stage in which each was served."""
        if self.outage is not None:
            run = runs[picked.run]
            lost = (picked.at > self.outage.stops[run]) & (picked.at <= self.outage.returns[run])
            picked = picked.where(~lost)
        run = runs[picked.run]
        stage, combination = self._stage_at(run, picked.at), self.history.combination[picked.entry]
        left, right = self.ladder.arms[:, stage, combination]
        challenger = picked.position < left
        control = ~challenger & (picked.position >= 1 - right)
        if self.contained[runs].any():
            blocked = self.contained @ self.history.member.T.astype(bool)
            challenger &= ~blocked[run, combination]
        keep = np.flatnonzero(challenger | control)
        run = run[keep]
        kept = Picked(run, picked.entry[keep], picked.unit[keep], picked.at[keep], picked.position[keep])
        arm = np.where(challenger[keep], CHALLENGER, CONTROL)
        bucket = self.traffic.bucket[run, kept.unit].astype(np.int64)
        return kept, Counted(run, arm, stage[keep], bucket, combination[keep])

    def _stage_at(self, run: Ints, at: Floats) -> Ints:
        """Return the stage in which each request was served; nearly always the one that its run is at."""
        stage = self.stage[run]
        before = np.flatnonzero(at <= self.entered[run, stage])
        if before.size:
            begun = (self.entered[run[before]] < at[before, None]).sum(axis=1)
            stage[before] = np.maximum(begun - 1, 0)
        return stage

    def _count_units(self, placed: tuple[Picked, Counted]) -> None:
        picked, counted = placed
        first = self._first_of_unit(0, picked, counted)
        at = (counted.run[first], counted.stage[first], counted.arm[first])
        np.add.at(self.units, at, 1.0)
        treated = counted.arm == CHALLENGER
        self.exposed[picked.run[treated], picked.unit[treated]] = True
        np.add.at(self.events, picked.run, self.traffic.weight)

    def _first_of_unit(self, stream: int, picked: Picked, counted: Counted) -> Ints:
        """Return the events that are the first of their unit in their stage, and remember them."""
        seen = self.seen[stream]
        fresh = np.flatnonzero(seen[picked.run, picked.unit] < counted.stage)
        # Each writes its number where its unit is kept, the earliest last: who is still there is the first.
        where = picked.run[fresh], picked.unit[fresh]
        self._mark[where[0][::-1], where[1][::-1]] = fresh[::-1]
        first: Ints = fresh[self._mark[where] == fresh]
        if stream == 0:
            known = seen[picked.run[first], picked.unit[first]]
            new = first[~self._same_proportion(known, counted.stage[first])]
            np.add.at(self.distinct, (counted.run[new], counted.stage[new], counted.arm[new]), 1.0)
        seen[picked.run[first], picked.unit[first]] = counted.stage[first]
        return first

    def _same_proportion(self, before: NDArray[np.int8], stage: Ints) -> Mask:
        """Tell the units that were counted already while the arms had this proportion."""
        proportion = self.ladder.challenger / (self.ladder.challenger + self.ladder.control)
        return (before >= 0) & (np.abs(proportion[before] - proportion[stage]) < 1e-9)

    def _add(self, placed: tuple[Picked, Counted], *, labelled: bool) -> None:
        picked, counted = placed
        fed: set[int] = set()
        for metric, delayed in enumerate(self.history.delayed):
            lane = self.tally.lane_of[metric]
            if delayed != labelled or lane in fed:
                continue
            fed.add(lane)
            n, d = self.traffic.values(metric, picked.entry)
            n = self._harmed(metric, n, d, counted)
            if self.history.kinds[metric] == "per_unit":
                first = self._first_of_unit(1, picked, counted) if labelled else np.flatnonzero(d > 0)
                d = np.zeros_like(d)
                d[first] = self.traffic.weight
            if self.outage is not None:
                n, d = self._garble(metric, n, d, picked, counted)
            self.tally.add(metric, counted, n, d)

    def _harmed(self, metric: int, n: Floats, d: Floats, counted: Counted) -> Floats:
        """Let the challenger's events differ by the world's effect.

        Values move by the effect; what is 0 or 1 turns over just as often as gives the effect on average.
        """
        for effect in self.world.effects:
            if effect.metric != self.history.metrics[metric]:
                continue
            treated = counted.arm == CHALLENGER
            if effect.cohort is not None:
                member = self.history.member[:, self.history.cohorts.index(effect.cohort)] > 0
                treated = treated & (member[counted.combination] == effect.inside)
            if not self.history.indicator(metric):
                n = np.where(treated, n + effect.size * d, n)
                continue
            rate = np.nan_to_num(self.history.rate(metric))
            room = max(1 - rate, 1e-9) if effect.size > 0 else max(rate, 1e-9)
            turns = treated & (self.rng.random(len(n)) < min(abs(effect.size) / room, 1.0))
            n = np.where(turns, d if effect.size > 0 else 0.0, n)
        return n

    def _silent(self) -> tuple[bool, ...]:
        """Tell the metrics whose numerator stays zero whatever the world does."""
        touched = {effect.metric for effect in self.world.effects}
        if self.outage is not None:
            touched |= set(self.history.metrics)
        return tuple(
            name not in touched and not self.history.numerator[index].any()
            for index, name in enumerate(self.history.metrics)
        )

    # --- trouble

    def _outages(self) -> _Outage:
        """Choose when traffic stops and when it brings no numbers: some time in the first half of the shortest way up."""
        experiment = self.ladder.experiment
        shortest = sum(stage.soak for stage in experiment.stages)
        stops = self.rng.random(self.traffic.runs) * shortest
        returns = stops + experiment.stale_after + (experiment.lease - experiment.stale_after) / 2
        garbled = returns + self.rng.random(self.traffic.runs) * shortest
        return _Outage(stops, returns, garbled, garbled + experiment.look_every)

    def _garble(
        self, metric: int, n: Floats, d: Floats, picked: Picked, counted: Counted
    ) -> tuple[Floats, Floats]:
        """In a bad moment answers are no numbers: errors where errors count, left out everywhere else."""
        if self.outage is None:
            return n, d
        bad = (picked.at > self.outage.garbled[picked.run]) & (picked.at <= self.outage.healed[picked.run])
        if not bad.any() or self.history.kinds[metric] == "latency_over":
            return n, d
        if self.history.kinds[metric] == "error_rate":
            return np.where(bad, d, n), d
        lost = np.flatnonzero(bad & (d > 0))
        fields = ("run", "arm", "stage", "bucket", "combination")
        self.tally.add_non_finite(metric, Counted(**{name: getattr(counted, name)[lost] for name in fields}))
        return np.where(bad, 0.0, n), np.where(bad, 0.0, d)

    def _newest(self, runs: Ints, now: Floats) -> Floats:
        newest = self.traffic.newest(runs, now)
        if self.outage is None:
            return newest
        stops, returns = self.outage.stops[runs], self.outage.returns[runs]
        return np.where((newest > stops) & (newest <= returns), stops, newest)

    def _lapsed(self, runs: Ints, after: Floats, until: Floats) -> Mask:
        """Tell the runs whose lease ran out between two looks because nothing came for too long."""
        experiment = self.ladder.experiment
        longest = experiment.stale_after + experiment.lease
        silent = until - self._newest(runs, until) > longest
        return silent | self.traffic.gap_within(runs, after, until, longest)

    # --- looks

    def _look(self, runs: Ints, stage: int) -> None:
        """Judge one look of runs that are at the same stage, and let them go on, hold or end."""
        standing, cells = self._judged(runs, stage)
        self.contained[runs] |= standing.contain
        more = self._looks_until_next(stage, self.step[runs])
        counters = standing.counters
        for place, after in enumerate((counters.failures, counters.errors, counters.inconclusive)):
            # A rehearsed look stands for the real ones up to the next.
            self.counters[place, runs] = np.where(after > self.counters[place, runs], after + more - 1, after)
        self.step[runs] += 1
        ends = standing.kind == policy.ROLL_BACK
        self.ending[runs[ends]] = ending_of(standing.cause[ends])
        up = standing.kind == policy.ADVANCE
        if stage + 1 < len(self.ladder.looks):
            rising = runs[up]
            self.stage[rising] += 1
            self.step[rising] = 0
            self.counters[:, rising] = 0
            self.entered[rising, stage + 1] = self.clock[rising]
            self._known[rising] = self._in_an_arm(rising)
        elif up.any():
            shipped = self._shipped(runs, cells)[up]
            self.ending[runs[up]] = np.where(shipped, Ending.PROMOTED, Ending.NOT_SHIPPED)

    def _looks_until_next(self, stage: int, step: Ints) -> Ints:
        looks = self.ladder.looks[stage]
        return np.diff(np.append(looks, looks[-1] + 1))[step]

    def _judged(self, runs: Ints, stage: int) -> tuple[policy.Standing, Cells]:
        experiment, cohorts = self.ladder.experiment, self.history.cohorts
        plan, contained = experiment.stages[stage], self.contained[runs]
        cells = self.tally.cells(runs, stage + 1, contained)
        found = policy.states(experiment, cohorts, cells, contained)
        within = policy.tolerances(experiment, cohorts, cells, plan.margin_scale, contained)
        seconds = self.clock[runs] - self.entered[runs, stage]
        units = self.units[runs, stage] * self.traffic.weight
        budget_open, budget_spent = policy.budgets_allow(policy.spending(experiment, cells, stage + 1))
        every = np.ones(len(runs), dtype=bool)
        signals = policy.Signals(
            harmed=policy.harmed_overall(found),
            harmed_cohorts=policy.harmed_cohorts(experiment, found, contained),
            contained=contained,
            tolerated=policy.tolerated(within),
            soaked=policy.soaked(plan, seconds),
            enough_units=policy.enough_units(plan, units[:, CONTROL], units[:, CHALLENGER]),
            timed_out=policy.timed_out(plan, seconds),
            measured=self.clock[runs] - self._newest(runs, self.clock[runs]) <= experiment.stale_after,
            sound=split_is_sound(
                self.distinct[runs, : stage + 1], self.ladder.challenger, self.ladder.control
            ),
            clean=every,
            budget_open=budget_open & every,
            budget_spent=budget_spent & every,
            counters=policy.Counters.of(*self.counters[:, runs]),
        )
        return policy.apply_rules(experiment, signals), cells

    def _shipped(self, runs: Ints, cells: Cells) -> Mask:
        experiment, cohorts = self.ladder.experiment, self.history.cohorts
        contained = self.contained[runs]
        whole = policy.tolerances(experiment, cohorts, cells, 1.0, contained)
        return policy.shipped(whole, contained.any(axis=-1)).shipped
