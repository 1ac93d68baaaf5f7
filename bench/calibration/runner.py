"""Run jobs on a few processes, and keep what each of them counted, so that an interrupted run goes on."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.calibration.jobs import Job, code_digest, run
from bench.calibration.rates import Rate, summary

__all__ = ["Result", "complete", "results"]


@dataclass(frozen=True)
class Result:
    """What a job counted.

    Attributes:
        section: part of the report.
        name: unique within the section.
        runs: simulated runs.
        settings: what was simulated.
        counts: in how many runs something happened.
        stops: when it first happened: median with its 95 % interval, and mean.
        averages: anything else worth telling.
        seconds: processor time it took.
    """

    section: str
    name: str
    runs: int
    settings: dict[str, Any]
    counts: dict[str, int]
    stops: dict[str, dict[str, float | None]]
    averages: dict[str, float]
    seconds: float

    def rate(self, kind: str) -> Rate:
        """Return the rate of something that was counted."""
        return Rate(self.counts[kind], self.runs)


def results(jobs: Iterable[Job]) -> list[Result]:
    """Run jobs one after the other, in this process."""
    return [_result(job) for job in jobs]


def complete(jobs: Sequence[Job], folder: Path, workers: int) -> list[Result]:
    """Run the jobs that are not yet in ``folder``; return the results of all, in the order of the jobs.

    Args:
        jobs: What to run.
        folder: Where counts are kept, one line per finished job. Counts of other code or other settings are not used.
        workers: Processes.
    """
    code = code_digest()
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "counts.jsonl"
    done = _stored(store, code)
    waiting = [job for job in jobs if job.key not in done]
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress, store.open("a") as kept:
        kept.write("\n")  # a line that was torn when a run was killed must not take the next one with it
        bar = progress.add_task("calibrate", total=len(jobs), completed=len(jobs) - len(waiting))
        # A fresh interpreter per worker: it takes the settings of the numerical libraries from the environment.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            running = {pool.submit(_result, job): job for job in waiting}
            for future in as_completed(running):
                job, found = running[future], future.result()
                done[job.key] = found
                kept.write(json.dumps({"key": job.key, "code": code, **vars(found)}) + "\n")
                kept.flush()
                progress.update(bar, advance=1, description=f"{job.section}: {job.name}"[:32])
                if not console.is_terminal:
                    console.print(
                        f"{len(done)} of {len(jobs)}: {job.section}, {job.name}: {found.seconds:.0f} s"
                    )
    return [done[job.key] for job in jobs]


def _result(job: Job) -> Result:
    began = time.process_time()
    found = run(job)
    return Result(
        section=job.section,
        name=job.name,
        runs=found.runs,
        settings=dict(job.settings),
        counts=dict(found.counts),
        stops=summary(found.stops),
        averages=dict(found.averages),
        seconds=round(time.process_time() - began, 1),
    )


def _stored(store: Path, code: str) -> dict[str, Result]:
    found = {}
    for line in store.read_text().splitlines() if store.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # nothing, or the last line of a run that was killed
            continue
        key, of = row.pop("key"), row.pop("code")
        if of == code:
            found[key] = Result(**row)
    return found
