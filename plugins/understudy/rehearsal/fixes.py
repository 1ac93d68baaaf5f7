"""Looks for the smallest change of a spec that meets its ceilings, one field at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from understudy.rehearsal.history import History
from understudy.rehearsal.ladder import Ladder
from understudy.rehearsal.rehearse import seed_of, simulate
from understudy.rehearsal.report import Ceiling, ceilings_of, concerns
from understudy.rehearsal.worlds import worlds_of
from understudy.spec import Experiment

__all__ = ["Fix", "changes_for", "smallest_fix"]

REDUCED = 120
"""Runs per world of a trial; few, but a ceiling must still be met with its upper bound."""

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Fix:
    """A change of a spec and what became of the ceilings that were missed.

    Attributes:
        change: what to change, in words; None if none of the changes tried is enough.
        tried: every change that was tried, in order.
        ceilings: how the ceilings stand with it, from fewer runs.
    """

    change: str | None
    tried: tuple[str, ...]
    ceilings: tuple[Ceiling, ...] = ()

    @property
    def sentence(self) -> str:
        """The fix in words."""
        if self.change is not None:
            return f"The smallest change found that meets them: {self.change}."
        if not self.tried:
            return "No change was tried."
        return f"None of these changes alone meets them: {'; '.join(self.tried)}."

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        ceilings = [asdict(ceiling) for ceiling in self.ceilings]
        return {
            "change": self.change,
            "tried": list(self.tried),
            "ceilings": ceilings,
            "sentence": self.sentence,
        }


def smallest_fix(
    experiment: Experiment,
    history: History,
    missed: Sequence[Ceiling],
    *,
    replicates: int = REDUCED,
    progress: Tell | None = None,
    workers: int | None = None,
) -> Fix:
    """Try single changes, the smallest first, until the missed ceilings are met and no other is broken.

    A trial runs the worlds of the missed ceilings with fewer runs, and only where these are met the others too.

    Args:
        experiment: The spec.
        history: The champion's past.
        missed: The ceilings that it misses.
        replicates: Runs per world of a trial.
        progress: Told how far it is.
        workers: Threads.
    """
    names = {ceiling.name for ceiling in missed}
    tried: list[str] = []
    candidates = list(changes_for(experiment, missed))
    for number, (words, changed) in enumerate(candidates):
        if progress is not None:
            progress(number / len(candidates), words)
        tried.append(words)
        ladder = Ladder.of(changed, history)
        worlds = worlds_of(changed, ladder.history)
        first = [world for world in worlds if any(concerns(name, world) for name in names)]
        found = simulate(ladder, first, replicates, seed_of(experiment), workers=workers)
        if not all(ceiling.met for ceiling in ceilings_of(changed, found) if ceiling.name in names):
            continue
        others = [world for world in worlds if world not in first]
        found += simulate(ladder, others, replicates, seed_of(experiment), workers=workers)
        ceilings = ceilings_of(changed, found)
        if all(ceiling.met for ceiling in ceilings):
            return Fix(words, tuple(tried), ceilings)
    return Fix(None, tuple(tried))


def changes_for(experiment: Experiment, missed: Sequence[Ceiling]) -> Iterator[tuple[str, Experiment]]:
    """Yield single changes that could help, the smallest first; those that the spec's own rules refuse are left out."""
    names = {ceiling.name for ceiling in missed}
    seen: set[str] = set()
    for words, changes in _candidates(experiment, missed, names):
        if words in seen:
            continue
        seen.add(words)
        try:
            yield words, Experiment.model_validate(experiment.model_dump(mode="json") | changes)
        except ValueError:
            continue


_Change = tuple[str, dict[str, Any]]


_WRONG = frozenset({"false_rollback", "false_promotion", "missed_harm"})
"""Ceilings on wrong decisions; the others are on how long and how many."""


def _candidates(experiment: Experiment, missed: Sequence[Ceiling], names: set[str]) -> Iterator[_Change]:
    if names & _WRONG:
        yield from _stricter(experiment, names)
    if names & {"promotion", "false_promotion", "missed_harm"}:
        yield from _longer_last_soak(experiment)
    if names & {"promotion", "detection"}:
        for times in (2, 4):
            yield f"timeout of every stage {times} times as long", _stages(experiment, timeout=times)
    if "promotion" in names:
        yield "margin_scale of every stage twice as large", _stages(experiment, margin_scale=2)
    if names & {"harmed_units", "detection"}:
        alpha = min(2 * experiment.alpha, 0.2)
        yield f"alpha {alpha:g} in place of {experiment.alpha:g}", {"alpha": alpha}
        yield from _smaller_start(experiment)
    yield from _wider_margins(experiment, missed)


def _stricter(experiment: Experiment, names: set[str]) -> Iterator[_Change]:
    for part in (2, 5):
        alpha = experiment.alpha / part
        yield f"alpha {alpha:g} in place of {experiment.alpha:g}", {"alpha": alpha}
    if "false_rollback" in names:
        more = experiment.limits.failures + 1
        limits = experiment.limits.model_dump(mode="json") | {"failures": more}
        yield f"limits.failures {more} in place of {experiment.limits.failures}", {"limits": limits}
    if names & {"false_promotion", "missed_harm"}:
        yield "margin_scale 1 at every stage", _stages(experiment, margin_scale=0)
    for times in (2, 4):
        yield f"min_units of every stage {times} times as many", _stages(experiment, min_units=times)


def _longer_last_soak(experiment: Experiment) -> Iterator[_Change]:
    """The ship rule needs the evidence of the last stage, and a longer soak waits for it."""
    last = experiment.stages[-1]
    for times in (2, 4, 8):
        soak = last.soak * times
        timeout = max(last.timeout, 2 * soak)
        stages = experiment.model_dump(mode="json")["stages"]
        stages[-1] |= {"soak": soak, "timeout": timeout}
        longer = f" (timeout {timeout:g} s)" if timeout != last.timeout else ""
        yield f"soak of the last stage {soak:g} s in place of {last.soak:g} s{longer}", {"stages": stages}


def _smaller_start(experiment: Experiment) -> Iterator[_Change]:
    stages = experiment.model_dump(mode="json")["stages"]
    percent = stages[0]["percent"] / 2
    stages[0]["percent"] = percent
    yield f"first stage at {percent:g} % in place of {2 * percent:g} %", {"stages": stages}


def _wider_margins(experiment: Experiment, missed: Sequence[Ceiling]) -> Iterator[_Change]:
    """Widen the margin of the metric whose world is the worst; a wider margin promises less."""
    worlds = {ceiling.world or "" for ceiling in missed}
    for metric in experiment.deciding:
        named = any(world.startswith(f"harm_{metric.name}_") for world in worlds)
        ends = metric.name == experiment.primary.name and worlds & {"hoped_gain", "harm_in_one_cohort"}
        if not (named or ends) or metric.margin is None:
            continue
        for times in (1.5, 2.0, 3.0):
            metrics = experiment.model_dump(mode="json")["metrics"]
            for item in metrics:
                if item["name"] == metric.name:
                    item["margin"] = metric.margin * times
            # What is hoped for stays what it was, or a wider margin would also promise a larger gain.
            risk = experiment.model_dump(mode="json")["risk"] or {}
            risk["hoped_gain"] = risk.get("hoped_gain") or experiment.primary.margin
            words = f"margin of {metric.name} {metric.margin * times:g} in place of {metric.margin:g}"
            yield words, {"metrics": metrics, "risk": risk}


def _stages(experiment: Experiment, **factors: float) -> dict[str, Any]:
    """Multiply a field of every stage; a factor of 0 sets it to 1."""
    stages = experiment.model_dump(mode="json")["stages"]
    for stage in stages:
        for name, factor in factors.items():
            stage[name] = stage[name] * factor if factor else 1.0
            if name == "margin_scale":
                stage[name] = min(stage[name], 100.0)
    return {"stages": stages}
