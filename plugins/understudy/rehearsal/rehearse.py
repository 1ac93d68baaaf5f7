"""Runs every world of a spec and puts the report together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from understudy.rehearsal.climb import climb
from understudy.rehearsal.history import History
from understudy.rehearsal.ladder import Endings, Ladder
from understudy.rehearsal.report import Report, WorldResult, ceilings_of, found_in
from understudy.rehearsal.traffic import Traffic
from understudy.rehearsal.worlds import Shape, World, reshaped, worlds_of
from understudy.spec import Experiment

__all__ = ["Progress", "rehearse", "simulate"]

Progress = Callable[[float, str], None]
"""Called with the part that is done, from 0 to 1, and what was done last."""

BATCH = 80
"""Runs that are simulated together; more of them only take more memory."""
DEFAULT_REPLICATES = 400


def rehearse(
    experiment: Experiment,
    history: History,
    *,
    replicates: int | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Report:
    """Rehearse a spec in all its worlds.

    Args:
        experiment: The spec.
        history: The champion's past.
        replicates: Runs per world; default: what the spec's ``risk`` says, else 400.
        progress: Told how far it is.
        workers: Threads; default: one for every processor, two at most.

    Returns:
        The report, without a search for a fix. The same spec and history give the same report, whatever the machine.
    """
    began = time.perf_counter()
    runs = replicates or (experiment.risk.replicates if experiment.risk else DEFAULT_REPLICATES)
    ladder = Ladder.of(experiment, history)
    worlds = worlds_of(experiment, ladder.history)
    found = simulate(ladder, worlds, runs, seed_of(experiment), progress=progress, workers=workers)
    looks = tuple((len(looks), real) for looks, real in zip(ladder.looks, ladder.real_looks, strict=True))
    return Report(
        experiment.name,
        experiment.digest(),
        history.to_dict(),
        runs,
        looks,
        found,
        ceilings_of(experiment, found),
        seconds=time.perf_counter() - began,
    )


def seed_of(experiment: Experiment) -> int:
    """Return the seed of an experiment: its digest, so that chance is the same each time."""
    return int(experiment.digest()[:16], 16)


def simulate(
    ladder: Ladder,
    worlds: Sequence[World],
    runs: int,
    seed: int,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
) -> tuple[WorldResult, ...]:
    """Let runs climb in each world.

    Args:
        ladder: The spec with its history.
        worlds: The worlds.
        runs: Runs per world.
        seed: Source of chance. Batches of all worlds share their traffic, so that worlds can be compared.
        progress: Told how far it is.
        workers: Threads; numpy lets them run side by side.
    """
    sizes = [min(BATCH, runs - begin) for begin in range(0, runs, BATCH)]
    shapes = {shape: _history_of(ladder, shape, seed) for shape in {world.shape for world in worlds}}

    def batch(place: int, number: int) -> Endings:
        world = worlds[place]
        traffic = Traffic(shapes[world.shape], sizes[number], np.random.default_rng([seed, number]))
        return climb(ladder, traffic, world, np.random.default_rng([seed, number, _word(world.name)]))

    parts: list[list[Endings | None]] = [[None] * len(sizes) for _ in worlds]
    with ThreadPoolExecutor(workers or min(2, os.cpu_count() or 1)) as pool:
        jobs = {
            pool.submit(batch, place, number): (place, number)
            for place in range(len(worlds))
            for number in range(len(sizes))
        }
        for done, job in enumerate(as_completed(jobs), 1):
            place, number = jobs[job]
            parts[place][number] = job.result()
            if progress is not None:
                progress(done / len(jobs), worlds[place].name)
    population = ladder.history.units * ladder.history.scale
    return tuple(
        found_in(world, Endings.joined([part for part in found if part]), population, len(ladder.looks))
        for world, found in zip(worlds, parts, strict=True)
    )


def _history_of(ladder: Ladder, shape: Shape, seed: int) -> History:
    return reshaped(ladder.history, shape, np.random.default_rng([seed, _word(shape.value)]))


def _word(name: str) -> int:
    """Turn a name into a number that is the same in every process."""
    return int.from_bytes(name.encode(), "big") % (2**63)
