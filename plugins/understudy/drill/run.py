"""Drills a model: builds the sandbox's folder, lets a process of its own play the scenarios, and records what it found.

That process gets none of the installation's addresses and secrets. What reaches production is this module's own: files are read
from the registry and the data folder, and rows are added to the store.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from understudy.drill.findings import Played, judge, summary
from understudy.drill.miniature import miniature, of_answers
from understudy.errors import BadParameter, NoSuchVersion
from understudy.processes.keeper import Keeper
from understudy.processes.process import Process
from understudy.registry import CHAMPION
from understudy.scoring import read_dataset
from understudy.session import Session, session
from understudy.spec import Experiment, Scenario, validate_folder
from understudy.stack.environment import base_environment
from understudy.store import drills
from understudy.store.drills import Drilled

__all__ = ["Progress", "drill", "drilled_models", "experiment_of"]

Progress = Callable[[float, str], None]
"""Called with the part that is done, from 0 to 1, and what is being done."""

_ROWS = 20_000
_STARTING_SECONDS = 300.0
_SCENARIO_SECONDS = 240.0
_POLL = 0.2


def drill(
    model: str,
    scenarios: Sequence[str] = (),
    *,
    actor: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Play scenarios on a sandbox copy of a model and keep what they came to.

    Args:
        model: Registered model name.
        scenarios: Names of scenarios; empty: those that the spec demands.
        actor: Who asked.
        progress: Told how far it is.

    Returns:
        ``drill``, ``model``, ``version``, ``passed``, ``seconds``, ``sentence``, and per scenario ``passed``, ``sentence`` and
        what was measured. A scenario that failed is a finding, not an error.

    Raises:
        BadParameter: A scenario has no such name, or no experiment is about the model.
        NoSuchVersion: The model has no champion.
        ProcessEnded: The sandbox cannot be started; the message has the end of its log.
        UnderstudyError: With the cause and the fix.
    """
    began, doors = time.monotonic(), session()
    experiment = experiment_of(doors, model)
    chosen = _chosen(scenarios, experiment)
    champion = doors.registry.alias(model, CHAMPION)
    if champion is None:
        raise NoSuchVersion(
            f"No version of {model} has the alias {CHAMPION!r}, so there is nothing to make a bad twin from. Set it on the "
            "version in production."
        )
    tell = progress or (lambda part, what: None)
    with tempfile.TemporaryDirectory(prefix="understudy-drill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tell(0.0, "copying the champion")
        _furnish(doors, folder, experiment, champion, chosen)
        played = _play(folder, model, chosen, tell)
    return _record(doors, experiment, champion, played, actor, time.monotonic() - began)


def drilled_models(doors: Session) -> list[str]:
    """Return the models that an experiment is about and that have a champion, in order."""
    declared, _ = validate_folder(doors.settings.experiments)
    found = []
    for model in sorted({experiment.model for experiment in declared}):
        try:
            champion = doors.registry.alias(model, CHAMPION)
        except NoSuchVersion:
            continue
        if champion is not None:
            found.append(model)
    return found


def experiment_of(doors: Session, model: str) -> Experiment:
    """Return the experiment whose policy a drill of a model practises: the first one that is about it, by name.

    Raises:
        BadParameter: None is.
    """
    declared, broken = validate_folder(doors.settings.experiments)
    own = sorted((item for item in declared if item.model == model), key=lambda item: item.name)
    if not own:
        known = ", ".join(sorted({item.model for item in declared})) or "none"
        broke = (
            f" Files that break a rule: {', '.join(sorted(path.name for path in broken))}." if broken else ""
        )
        raise BadParameter(
            f"No experiment is about model {model!r}, so nobody knows what must not break; known models: {known}.{broke} Add an "
            "experiment file, or correct the name."
        )
    return own[0]


def _chosen(wanted: Sequence[str], experiment: Experiment) -> list[Scenario]:
    known = [scenario.value for scenario in Scenario]
    for name in wanted:
        if name not in known:
            raise BadParameter(f"There is no scenario {name!r}. Choose from: {', '.join(known)}.")
    asked = {*wanted} or {scenario.value for scenario in experiment.drill.demanded}
    return [scenario for scenario in Scenario if scenario.value in asked]


def _furnish(
    doors: Session, folder: Path, experiment: Experiment, champion: str, scenarios: Sequence[Scenario]
) -> None:
    """Copy what a sandbox needs: the champion's files, samples of the data, the suites, and the spec made small."""
    small = miniature(experiment)
    download = folder / "download"
    doors.registry.facts(experiment.model, champion, download)
    shutil.move(next(download.rglob("MLmodel")).parent, folder / "champion")
    for name in (small.data.reference, small.data.holdout):
        frame = read_dataset(doors.settings.data / name, name)
        frame = frame[frame[small.data.label].notna()] if small.data.label in frame.columns else frame
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.sample(min(len(frame), _ROWS), random_state=0).reset_index(drop=True).to_parquet(path)
    (folder / "expectations").mkdir()
    for suite in {check.suite for check in small.checks}:
        shutil.copy(doors.settings.expectations / f"{suite}.json", folder / "expectations")
    (folder / "experiments").mkdir()
    for spec in (small, of_answers(small)):
        text = yaml.safe_dump(spec.frozen(), allow_unicode=True, sort_keys=False)
        (folder / "experiments" / f"{spec.name}.yaml").write_text(text, encoding="utf-8")
    order = {"experiment": small.frozen(), "scenarios": [scenario.value for scenario in scenarios]}
    (folder / "order.json").write_text(json.dumps(order))


def _play(folder: Path, model: str, scenarios: Sequence[Scenario], tell: Progress) -> list[Played]:
    """Let a process of its own play them, and return what it wrote down, also where it did not come to the end."""
    env = base_environment(folder) | {
        "UNDERSTUDY_HOME": str(folder / "home"),
        "UNDERSTUDY_EXPERIMENTS": str(folder / "experiments"),
        "UNDERSTUDY_EXPECTATIONS": str(folder / "expectations"),
        "UNDERSTUDY_DATA": str(folder / "data"),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", "understudy.drill", str(folder)]
    log, keeper = folder / "drill.log", Keeper()
    keeper.clear(folder)
    process = Process(f"The drill of {model}", command, env=env, log=log, cwd=folder, keeper=keeper)
    until = time.monotonic() + _STARTING_SECONDS + _SCENARIO_SECONDS * len(scenarios)
    try:
        process.start()
        told = -1
        while process.running and time.monotonic() < until:
            done = len(_written(folder))
            if done > told and done < len(scenarios):
                tell(done / len(scenarios), scenarios[done].value)
            told = done
            time.sleep(_POLL)
        played = _written(folder)
        if not played:
            process.check()
    finally:
        tail = process.tail(5)
        process.stop(5.0)
        keeper.close()
    met = {one.scenario for one in played}
    missing = [scenario for scenario in scenarios if scenario not in met]
    return [*played, *(Played(one, told=tail, problems=("the sandbox ended before it",)) for one in missing)]


def _written(folder: Path) -> list[Played]:
    path = folder / "played.jsonl"
    text = path.read_text() if path.exists() else ""
    return [
        Played.from_dict(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")
    ]


def _record(
    doors: Session,
    experiment: Experiment,
    champion: str,
    played: Sequence[Played],
    actor: str,
    seconds: float,
) -> dict[str, Any]:
    name = f"{experiment.model}-{uuid.uuid4().hex[:8]}"
    now = doors.store.clock()
    found = []
    for one in played:
        passed, sentence = judge(one, experiment.rollback)
        found.append(
            Drilled(
                name, experiment.model, champion, one.scenario.value, passed, sentence, one.to_dict(), now
            )
        )
    sentence = summary({one.scenario: one.passed for one in found})
    with doors.store.write() as connection:
        drills.record(connection, found, actor=actor, reason=sentence)
    return {
        "drill": name,
        "model": experiment.model,
        "version": champion,
        "experiment": experiment.name,
        "passed": all(one.passed for one in found),
        "seconds": round(seconds, 1),
        "sentence": sentence,
        "scenarios": [
            {"scenario": one.scenario, "passed": one.passed, "sentence": one.sentence, **one.body}
            for one in found
        ],
    }
