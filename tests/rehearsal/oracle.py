"""The rehearsal as slowly as it can be done: one run, one event after the other, judged by the policy's own `decide`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from understudy import policy
from understudy.rehearsal.ladder import Ending, Ladder
from understudy.rehearsal.traffic import BUCKETS, Traffic
from understudy.rehearsal.worlds import World
from understudy.stats.cells import ALL, Cell, Cells
from understudy.stats.evidence import Evidence, Quality, StageUnits
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split

NOW = 1_700_000_000.0


@dataclass
class Event:
    """One event of a run."""

    entry: int
    unit: int
    at: float


@dataclass
class Run:
    """How far one run has come."""

    stage: int = 0
    entered: list[float] = field(default_factory=lambda: [0.0])
    contained: dict[str, float] = field(default_factory=dict)
    history: policy.History = field(default_factory=policy.History)


def slow_run(
    ladder: Ladder, traffic: Traffic, world: World, number: int
) -> tuple[Ending, int, float, int, int]:
    """Return how one run ends: (ending, stage from 1, seconds, events of both arms, units that saw the challenger)."""
    events = _events(traffic, number, horizon=sum(stage.timeout for stage in ladder.experiment.stages) + 100)
    run = Run()
    while True:
        for look in ladder.looks[run.stage]:
            now = run.entered[run.stage] + look * ladder.experiment.look_every
            evidence = _evidence(ladder, traffic, world, run, events, number, now)
            decision = policy.decide(
                ladder.experiment,
                policy.Look(
                    evidence,
                    stage=run.stage + 1,
                    seconds_in_stage=now - run.entered[run.stage],
                    now=NOW + now,
                    cohorts=ladder.history.cohorts,
                    contained=tuple(run.contained),
                    history=run.history,
                ),
            )
            run.history = decision.history
            run.contained |= dict.fromkeys(decision.contain, now)
            if decision.kind is policy.Kind.HOLD:
                continue
            if decision.kind is policy.Kind.ADVANCE and run.stage + 1 < len(ladder.looks):
                run.stage += 1
                run.entered.append(now)
                run.history = policy.History()
                break
            ending = _ending(ladder, decision, evidence, run)
            seen = [event for event in events if event.at <= now]
            arms = [_arm(ladder, traffic, run, number, event) for event in seen]
            treated = {event.unit for event, arm in zip(seen, arms, strict=True) if arm == 1}
            counts = sum(arm is not None for arm in arms), len(treated), len(run.contained)
            return (ending, run.stage + 1, now, *counts), evidence
        else:
            raise AssertionError("the last look of a stage neither advanced nor rolled back")


def _ending(ladder: Ladder, decision: policy.Decision, evidence: Evidence, run: Run) -> Ending:
    if decision.kind is policy.Kind.ADVANCE:
        cohorts = ladder.history.cohorts
        verdict = policy.compare_online(
            ladder.experiment, evidence, cohorts=cohorts, contained=tuple(run.contained)
        )
        return Ending.PROMOTED if verdict.passed else Ending.NOT_SHIPPED
    return Ending.ROLLED_BACK if decision.verdict.outcome.value == "FAIL" else Ending.TIMED_OUT


def _events(traffic: Traffic, number: int, horizon: float) -> list[Event]:
    history, phase = traffic.history, traffic.phase[number]
    found = []
    for rounds in range(int((horizon + phase) // history.span) + 2):
        shuffle = 0 if rounds == 0 else 1 + (int(traffic._first_shuffle[number]) + rounds) % 32
        for entry in range(len(history.at)):
            at = rounds * history.span + history.at[entry] - phase
            if 0 <= at <= horizon:
                found.append(Event(entry, int(traffic._shuffles[shuffle, history.unit[entry]]), float(at)))
    return found


def _stage_at(run: Run, at: float) -> int:
    return max(sum(entered < at for entered in run.entered) - 1, 0)


def _arm(ladder: Ladder, traffic: Traffic, run: Run, number: int, event: Event) -> int | None:
    stage = _stage_at(run, event.at)
    position, cohort = traffic.position[number, event.unit], _cohort(ladder, traffic, event)
    present, before = ladder.experiment.stages[stage], ladder.experiment.stages[: stage + 1]
    share = max(
        [part.percent for part in before if cohort in part.ring] + [0 if present.ring else present.percent]
    )
    if position < share / 100:
        return 1 if event.at <= run.contained.get(cohort, np.inf) else None
    return 0 if position >= 1 - share / 100 else None


def _cohort(ladder: Ladder, traffic: Traffic, event: Event) -> str:
    member = ladder.history.member[traffic.history.combination[event.entry]]
    return ladder.history.cohorts[int(np.flatnonzero(member)[0])]


def _evidence(
    ladder: Ladder, traffic: Traffic, world: World, run: Run, events: list[Event], number: int, now: float
) -> Evidence:
    history = ladder.history
    names = (ALL, *history.cohorts)
    shape = (len(history.metrics), len(names), 2, BUCKETS, run.stage + 1)
    n, d = np.zeros(shape), np.zeros(shape)
    units: dict[tuple[int, int], set[int]] = {}
    for event in events:
        if event.at > now:
            continue
        arm, stage = _arm(ladder, traffic, run, number, event), _stage_at(run, event.at)
        if arm is None:
            continue
        units.setdefault((stage, arm), set()).add(event.unit)
        bucket = traffic.bucket[number, event.unit]
        for metric, delayed in enumerate(history.delayed):
            if delayed and not event.at + traffic.history.delay[event.entry] <= now:
                continue
            value, weight = (
                part[metric, event.entry] for part in (traffic.history.numerator, traffic.history.denominator)
            )
            cohort = _cohort(ladder, traffic, event)
            for effect in world.effects:
                if effect.metric == history.metrics[metric] and arm == 1:
                    concerned = effect.cohort is None or (effect.cohort == cohort) == effect.inside
                    value += effect.size * weight if concerned else 0.0
            for row, name in enumerate(names):
                if name == cohort or (name == ALL and cohort not in run.contained):
                    n[metric, row, arm, bucket, stage] += value
                    d[metric, row, arm, bucket, stage] += weight
    cells = [
        Cell(history.metrics[metric], history.kinds[metric], name, *_both(n[metric, row], d[metric, row]))
        for metric in range(len(history.metrics))
        for row, name in enumerate(names)
    ]
    return Evidence(
        "delay", "delay_test-v2-1", NOW + now, Cells.stack(cells), _quality(ladder, run, events, units, now)
    )


def _both(n: np.ndarray, d: np.ndarray) -> list[ArmMoments]:
    return [ArmMoments.from_units(n[arm], d[arm], buckets=BUCKETS) for arm in (0, 1)]


def _quality(
    ladder: Ladder, run: Run, events: list[Event], units: dict[tuple[int, int], set[int]], now: float
) -> Quality:
    stages = range(run.stage + 1)
    counted = tuple(
        StageUnits(
            stage + 1,
            len(units.get((stage, 0), ())),
            len(units.get((stage, 1), ())),
            float(ladder.control[stage]),
            float(ladder.challenger[stage]),
            0,
        )
        for stage in stages
    )
    # Both stages of these specs have as many control as challenger units, so a unit counts once over them.
    both = [len(set().union(*(units.get((stage, arm), set()) for stage in stages))) for arm in (0, 1)]
    newest = max((event.at for event in events if event.at <= now), default=-1e9)
    split = Split(tuple(stage + 1 for stage in stages), (both[0], both[1]), (0.1, 0.1))
    return Quality(stages=counted, splits=(split,), newest_received_at=NOW + newest, watermark=NOW + newest)
