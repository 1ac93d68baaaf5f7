"""Which worlds are simulated: all of them for the report, the hardest in small for every change."""

from __future__ import annotations

from bench.calibration.distributions import DISTRIBUTIONS
from bench.calibration.jobs import Job
from bench.calibration.traffic import STRUCTURES

__all__ = ["full", "reduced"]

WEEK = 2016
"""Looks of a week, one every five minutes."""

PLANNED = 20_160
"""Units per arm at the planned end: ten per look."""

N_STARS = (PLANNED, 2 * PLANNED / 10)
"""Tunings: half of all events, which the targets were measured with, and a tenth of them, which the product uses."""

RAMPS = (
    ("product's control, to a holdback", (1, 5, 25, 50, 100), True),
    ("product's control, to 50 %", (1, 5, 25, 50), True),
    ("everybody else is control", (1, 5, 25, 50), False),
)


def full() -> list[Job]:
    """Return every job of the report."""
    return [*_grid(), *_unequal(), *_ramps(), *_detection(), *_others(), *_simulator()]


def reduced() -> list[Job]:
    """Return the hardest worlds, small enough to run with every change."""
    worlds = [(metric.name, "both") for metric in DISTRIBUTIONS]
    worlds += [("normal", structure.name) for structure in STRUCTURES[:-1]]
    jobs = [
        Job("grid", f"{name}, {structure}", "means:false_alarms",
            {"distribution": name, "design": ["staged", 5], "structure": structure, "looks": 200, "per_look": 4}, 500)
        for name, structure in worlds
    ]  # fmt: skip
    jobs += [
        Job("unequal", f"{name}, holdback", "means:false_alarms",
            {"distribution": name, "design": ["staged", 100], "structure": "independent", "looks": 200, "per_look": 5}, 300)
        for name in ("bernoulli-5", "lognormal-1.5", "buyers")
    ]  # fmt: skip
    jobs.append(_ramp("normal", RAMPS[0], looks=10, crowd=300, runs=200))
    jobs.append(_policy(looks=40, runs=150, batch=50))
    jobs.append(_split(0.5, looks=300, per_look=20, runs=150, name="as planned"))
    jobs.append(
        Job("adjusted", "no effect", "adjusted:with_history",
            {"correlation": 0.8, "known": 0.9, "looks": 80, "per_look": 8}, 300)
    )  # fmt: skip
    jobs.append(_rare(1, runs=1000, looks=500))
    return jobs


def _grid() -> list[Job]:
    return [
        Job("grid", f"{metric.name}, {structure.name}, {percent:g} %", "means:false_alarms",
            {"distribution": metric.name, "design": ["staged", percent], "structure": structure.name,
             "looks": WEEK, "per_look": 10},
            4000 if metric.name in ("normal", "bernoulli-5") else 1500)  # the former come closest to alpha
        for structure in STRUCTURES
        for metric in DISTRIBUTIONS
        for percent in (1, 5, 25, 50)
    ]  # fmt: skip


def _unequal() -> list[Job]:
    designs = (("against_the_rest", 1, 1000), ("against_the_rest", 5, 2000), ("staged", 100, 2000))
    worlds = [
        ({"distribution": metric.name, "structure": structure}, f"{metric.name}, {structure}")
        for metric in DISTRIBUTIONS
        for structure in ("independent", "both")
    ]
    doubled = {"distribution": "normal", "structure": "independent", "spread": 2.0}
    worlds.append((doubled, "normal, challenger's spread doubled"))
    return [
        Job("unequal", f"{name}, {kind} {percent:g} %", "means:false_alarms",
            {**world, "design": [kind, percent], "looks": 400, "per_look": 5}, runs)
        for kind, percent, runs in designs
        for world, name in worlds
    ]  # fmt: skip


def _ramps() -> list[Job]:
    return [
        _ramp(metric.name, ramp, looks=30, crowd=800, runs=1000) for ramp in RAMPS for metric in DISTRIBUTIONS
    ]


def _ramp(
    distribution: str, ramp: tuple[str, tuple[int, ...], bool], looks: int, crowd: int, runs: int
) -> Job:
    label, percents, concurrent = ramp
    settings = {
        "distribution": distribution, "structure": "both", "percents": list(percents), "concurrent": concurrent,
        "looks": looks, "crowd": crowd, "drift": 0.3,
    }  # fmt: skip
    return Job("ramp", f"{distribution}, {label}", "ladder:drifting_ramp", settings, runs, batch=100)


def _detection() -> list[Job]:
    jobs = []
    for times, looks in ((1, WEEK), (1.5, WEEK), (2, WEEK), (4, 1000), (10, 250)):
        settings = {"times": times, "looks": looks, "per_look": 10, "planned": PLANNED}
        more = 4 if times == 1 else 1  # found in two runs of three: its median is the hardest to tell
        jobs.append(
            Job(
                "detection",
                f"{times:g}x",
                "means:detection",
                {**settings, "n_stars": list(N_STARS)},
                more * 10_000,
            )
        )
        jobs.append(
            Job("formula", f"{times:g}x", "means:formula", {**settings, "n_star": N_STARS[0]}, more * 20_000)
        )
    price = {"times": 4, "looks": 1000, "per_look": 10, "planned": PLANNED, "n_stars": list(N_STARS)}
    alphas = [0.05, 0.01, 0.005, 0.001, 0.05 / 80]
    jobs.append(Job("price", "4x", "means:detection", {**price, "alphas": alphas}, 2000))
    return jobs


def _others() -> list[Job]:
    week = {"looks": WEEK, "per_look": 10}
    history = {"correlation": 0.8, "known": 0.9, "looks": 400, "per_look": 10}
    tail = {"looks": 40, "per_look": 500, "limit": 2.3263}
    return [
        _policy(looks=300, runs=1000, batch=50),
        _split(0.5, WEEK, 20, 6000, "as planned"),
        _split(0.5, 200, 200, 20_000, "as planned, many runs"),
        _split(0.51, 400, 500, 1000, "51 to 49"),
        _rare(1, runs=3000, looks=WEEK),
        _rare(3, runs=2000, looks=1000),
        Job("adjusted", "no effect", "adjusted:with_history", history, 2000),
        Job("adjusted", "harm, 2x", "adjusted:with_history", {**history, "times": 2.0}, 1000),
        Job("ratio", "spend per session", "means:ratio_false_alarms", week, 2000),
        Job("ratio", "spend per unit", "means:ratio_false_alarms", {**week, "per_unit": True}, 2000),
        Job("tail", "no effect", "tails:slow_tail", {**tail, "slowdown": 1.0}, 1000, batch=50),
        Job("tail", "10 % slower", "tails:slow_tail", {**tail, "slowdown": 1.1}, 500, batch=50),
    ]


def _policy(looks: int, runs: int, batch: int) -> Job:
    settings = {"cohorts": 20, "looks": looks, "per_look": 20, "alpha": 0.05}
    return Job("policy", "4 metrics x 20 cohorts", "whole_policy:no_effect_anywhere", settings, runs, batch)


def _split(share: float, looks: int, per_look: int, runs: int, name: str) -> Job:
    settings = {"share": share, "looks": looks, "per_look": per_look, "alphas": [0.05, 0.001]}
    return Job("split", name, "splits:unit_split", settings, runs)


def _rare(times: float, runs: int, looks: int) -> Job:
    settings = {"rate": 0.001, "times": times, "looks": looks, "per_look": 100, "share": 0.5, "alpha": 0.05}
    return Job(
        "rare", "no effect" if times == 1 else f"{times:g} x as many", "splits:rare_events", settings, runs
    )


def _simulator() -> list[Job]:
    return [
        Job("simulator", f"{looks} looks", "means:false_alarms",
            {"distribution": "normal", "design": ["staged", 5], "structure": "independent",
             "looks": looks, "per_look": 5000 // looks}, 3000)
        for looks in (5, 10, 50, 100)
    ]  # fmt: skip
