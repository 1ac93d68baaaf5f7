"""What calibration consists of: jobs that each simulate one world and count what the product would have done."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CODE", "Job", "Outcome", "code_digest", "merged", "run"]

_PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "understudy"
CODE = tuple(
    f"{name}.py"
    for name in (
        "exposure", "policy/plan", "stats/cells", "stats/cuped", "stats/event_split", "stats/losses", "stats/multiplicity",
        "stats/quantiles", "stats/ratio", "stats/sequences", "stats/srm",
    )
)  # fmt: skip
"""Files of the product that are judged here; a change in one of them makes stored counts worthless."""


_NOT_SIMULATION = ("__init__", "__main__", "plan", "rates", "report", "runner", "tables")


@dataclass(frozen=True)
class Job:
    """One world.

    Attributes:
        section: part of the report.
        name: unique within the section.
        simulate: "module:function" in this package; called with a generator, a number of runs and the settings.
        settings: what the function needs to know, JSON-safe.
        runs: simulated runs.
        batch: how many of them at once: enough to vectorise, few enough to stay in the processor's cache.
    """

    section: str
    name: str
    simulate: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1000
    batch: int = 500

    @property
    def key(self) -> str:
        """Identify the job and all that its counts depend on."""
        text = json.dumps(
            [self.section, self.name, self.simulate, dict(self.settings), self.runs, self.batch],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What happened in some simulated runs.

    Attributes:
        runs: simulated runs.
        counts: in how many of them something happened.
        stops: when something first happened in each run, infinity for never.
        averages: means over the runs of anything else worth telling.
    """

    runs: int
    counts: Mapping[str, int] = field(default_factory=dict)
    stops: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    averages: Mapping[str, float] = field(default_factory=dict)


def run(job: Job) -> Outcome:
    """Simulate a job in batches; the seed follows from the job, so a repetition gives the same counts."""
    function: Callable[..., Outcome] = _resolve(job.simulate)
    sizes = [min(job.batch, job.runs - start) for start in range(0, job.runs, job.batch)]
    seeds = np.random.SeedSequence(int(job.key, 16)).spawn(len(sizes))
    parts = [
        function(np.random.default_rng(seed), size, **job.settings)
        for seed, size in zip(seeds, sizes, strict=True)
    ]
    return merged(parts)


def merged(parts: list[Outcome]) -> Outcome:
    """Add outcomes of the same job."""
    runs = sum(part.runs for part in parts)
    return Outcome(
        runs,
        {name: sum(part.counts[name] for part in parts) for name in parts[0].counts},
        {name: tuple(stop for part in parts for stop in part.stops[name]) for name in parts[0].stops},
        {name: sum(part.averages[name] * part.runs for part in parts) / runs for name in parts[0].averages},
    )


def code_digest() -> str:
    """Return a digest of the judged code and of the simulation."""
    simulation = (
        path for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem not in _NOT_SIMULATION
    )
    digest = hashlib.sha256()
    for path in [*(_PACKAGE / name for name in CODE), *simulation]:
        digest.update(ast.dump(_without_words(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:16]


def _without_words(tree: ast.Module) -> ast.Module:
    """Take the docstrings out: words change nothing."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_words(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_words(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _resolve(name: str) -> Callable[..., Outcome]:
    module, function = name.split(":")
    found: Callable[..., Outcome] = getattr(importlib.import_module(f"bench.calibration.{module}"), function)
    return found
