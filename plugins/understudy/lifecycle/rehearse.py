"""Rehearses an experiment, keeps the result, and refuses a run whose policy misses the spec's ceilings."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import RiskCeilingMissed
from understudy.lifecycle.history import history_of
from understudy.lifecycle.provenance import core_digest
from understudy.registry import Registry
from understudy.session import Passage
from understudy.settings import Settings
from understudy.spec import Experiment, find, load
from understudy.store import Store, exposures

__all__ = ["champion_of", "refusal", "rehearse", "require_rehearsed", "spec_of"]

Progress = Callable[[float, str], None]
"""Called with the part that is done, from 0 to 1, and what is being done."""

_SEARCH_FROM = 0.6
"""Where the progress stands when the worlds are done and a fix is looked for."""


def rehearse(
    experiment: Experiment | Path | str,
    replicates: int | None = None,
    progress: Progress | None = None,
    *,
    refresh: bool = False,
    registry: Registry | None = None,
    settings: Settings | None = None,
    champion: str | None = None,
    workers: int | None = None,
    holdout: Path | None = None,
) -> dict[str, Any]:
    """Rehearse an experiment in all its worlds; a result is kept by spec, history and code.

    Needs no server while the event log knows enough of the champion, or a history of it was kept.

    Args:
        experiment: The spec, its file, or its name in the experiments folder.
        replicates: Simulated runs per world; default: what the spec says, else 400.
        progress: Told how far it is.
        refresh: Build the history anew and simulate again.
        registry: Where the champion is loaded from if its past must be scored.
        settings: The installation; default: what the environment names.
        champion: Version whose past it is; default: the one that the store knows. The past of another is not used.
        workers: Threads.
        holdout: The copy of the holdout that a run keeps; default: the file as it is now.

    Returns:
        `understudy.rehearsal.Report.to_dict()` with ``cached``: whether it was kept from before.

    Raises:
        NoHistory: Nothing is known of the champion.
        SpecInvalid: The file breaks a rule of the spec.
    """
    from understudy import rehearsal

    settings = settings or Settings.from_env()
    spec = spec_of(experiment, settings)
    champion = champion or champion_of(settings, spec.model)
    history = history_of(
        spec, settings, champion=champion, registry=registry, refresh=refresh, holdout=holdout
    )
    path = settings.home / "rehearsals" / f"{spec.name}-{_key(spec, history.digest, replicates)}.json"
    kept = None if refresh else _kept(path)
    if kept is not None:
        if progress is not None:
            progress(1.0, "kept from before")
        return kept | {"cached": True}
    part = _SEARCH_FROM if spec.risk is not None else 1.0
    report = rehearsal.rehearse(
        spec, history, replicates=replicates, progress=_scaled(progress, 0.0, part), workers=workers
    )
    answer = report.to_dict()
    if not report.met:
        missed = [ceiling for ceiling in report.ceilings if not ceiling.met]
        fix = rehearsal.smallest_fix(
            spec, history, missed, progress=_scaled(progress, _SEARCH_FROM, 1.0), workers=workers
        )
        answer["fix"] = fix.to_dict()
    if progress is not None:
        progress(1.0, "done")
    _keep(path, answer)
    return answer | {"cached": False}


def require_rehearsed(passage: Passage) -> dict[str, Any]:
    """Refuse a run whose policy misses a ceiling of its spec; without ceilings nothing is simulated.

    Args:
        passage: The run, with its frozen spec.

    Returns:
        What goes on record: ``declared``, ``sentence``, and with ceilings ``ceilings``, ``history``, ``replicates``.

    Raises:
        RiskCeilingMissed: With the numbers and the smallest change that would fix it.
        NoHistory: Nothing is known of the champion, so nothing is proven.
    """
    if passage.experiment.risk is None:
        return {
            "declared": False,
            "sentence": "The spec declares no risk ceilings, so nothing was rehearsed.",
        }
    doors = passage.session
    found = rehearse(
        passage.experiment,
        settings=doors.settings,
        registry=doors.registry,
        champion=passage.run.champion,
        holdout=passage.snapshot(passage.experiment.data.holdout),
    )
    why = refusal(found)
    if why is not None:
        raise RiskCeilingMissed(why)
    sentence = (
        f"Rehearsed {found['replicates']} times in {len(found['worlds'])} worlds, the policy meets all "
        f"{len(found['ceilings'])} risk ceilings."
    )
    kept = {name: found[name] for name in ("ceilings", "history", "replicates", "seconds", "cached")}
    return {"declared": True, "sentence": sentence} | kept


def refusal(found: Mapping[str, Any]) -> str | None:
    """Return why a rehearsal forbids to begin, with the numbers and the fix; None if it does not."""
    missed = [ceiling for ceiling in found["ceilings"] if not ceiling["met"]]
    if not missed:
        return None
    numbers = " ".join(ceiling["sentence"] for ceiling in missed)
    fix = found["fix"]["sentence"] if found.get("fix") else ""
    return (
        f"The policy of {found['experiment']} misses {len(missed)} of {len(found['ceilings'])} risk ceilings in rehearsal "
        f"({found['replicates']} runs per world). {numbers} {fix}".rstrip()
    )


def spec_of(experiment: Experiment | Path | str, settings: Settings) -> Experiment:
    """Return a spec that may be given as itself, as a file, or by its name in the experiments folder."""
    if isinstance(experiment, Experiment):
        return experiment
    path = Path(experiment)
    return load(path) if path.suffix in (".yaml", ".yml") else find(settings.experiments, str(experiment))


def champion_of(settings: Settings, model: str) -> str | None:
    """Return the version in production as the store knows it; None before the first run."""
    store = Store.open(settings)
    with store.read() as connection:
        known = exposures.find(connection, model)
    return known.champion if known else None


def _scaled(progress: Progress | None, begin: float, end: float) -> Progress | None:
    if progress is None:
        return None
    return lambda part, what: progress(begin + (end - begin) * part, what)


def _key(spec: Experiment, history: str, replicates: int | None) -> str:
    """Fingerprint of everything that a result depends on: spec, history, number of runs, and the code itself."""
    content = [spec.digest(), history, str(replicates), core_digest()]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:20]


def _kept(path: Path) -> dict[str, Any] | None:
    """Return a kept result; a torn or foreign file is as good as none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and {"experiment", "worlds", "ceilings", "met", "fix"} <= set(found)
    return found if whole else None


def _keep(path: Path, answer: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(answer, stream, allow_nan=False)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
