"""Tells what happens to a run while it happens, from the store's own record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from understudy.lifecycle.status import status
from understudy.session import Session, session
from understudy.store import exposures, records, runs

_STYLE = {"PASS": "green", "FAIL": "red", "ERROR": "red", "INCONCLUSIVE": "yellow"}


@dataclass(frozen=True)
class Step:
    """One thing that the demo promises."""

    promise: str
    kept: bool
    found: str


class Story:
    """Prints verdicts once each and keeps what was promised.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Step] = []
        self._told: dict[str, int] = {}
        self._doors: Session | None = None

    @property
    def doors(self) -> Session:
        """The session, opened once the environment names the installation."""
        self._doors = self._doors or session()
        return self._doors

    @property
    def as_told(self) -> bool:
        """Whether every promise was kept."""
        return bool(self.steps) and all(step.kept for step in self.steps)

    def title(self, text: str) -> None:
        """Begin a chapter."""
        self.console.print()
        self.console.print(text, style="bold", markup=False)

    def note(self, text: str) -> None:
        """Say something on the way."""
        self.console.print(f"  {text}", style="dim", markup=False)

    def tell(self, step: Step) -> None:
        """Keep and print whether a promise was kept."""
        self.steps.append(step)
        mark, style = ("✓", "bold green") if step.kept else ("✗", "bold red")
        self.console.print(f"{mark} {step.promise}: {step.found}", style=style, markup=False)

    def follow(self, key: str, clock: int) -> str:
        """Print the verdicts of a run that were not printed yet, and return a line on where it stands."""
        with self.doors.store.read() as connection:
            run = runs.by_key(connection, key)
            found = records.verdicts_of(connection, run.run_id) if run else []
        day = time.strftime("%d %b %Y %H:%M UTC", time.gmtime(clock))
        if run is None:
            return f"{day}: waiting for Airflow to start the run"
        for recorded in found[self._told.get(run.run_id, 0) :]:
            self._verdict(recorded)
        self._told[run.run_id] = len(found)
        looking = f", {sum(item.is_look for item in found)} looks" if run.stage else ""
        last = found[-1].verdict.sentence[:110] if found else ""
        return f"{day}: {run.run_id} is {run.state.value}, stage {run.stage}{looking}. {last}"

    def state(self, model: str) -> dict[str, Any]:
        """Return what the store says of the model."""
        return status(self.doors, model)[0]

    def exposed(self, model: str) -> bool:
        """Tell whether any unit sees a challenger now."""
        with self.doors.store.read() as connection:
            found = exposures.find(connection, model)
        return found is not None and found.live(time.time())

    def caught(self, run_id: str) -> str | None:
        """Say which metric caught a run, at which stage, and how many units ever saw it; None if none did."""
        from understudy.events.lookups import exposed_units

        with self.doors.store.read() as connection:
            run = runs.get(connection, run_id)
            found = records.verdicts_of(connection, run_id)
        last = next((item for item in found if item.decision == "ROLL_BACK"), None)
        if last is None or last.verdict.metric is None:
            return None
        saw, every = exposed_units(self.doors.settings.events_dir, run.model, run_id)
        percent = run.spec["stages"][last.stage - 1]["percent"]
        return (
            f"Caught at stage {last.stage} ({percent:g} %) by {last.verdict.metric}, cohort {last.verdict.cohort}: "
            f"{last.verdict.sentence} {saw} of {every:,} aircraft ({saw / every:.1%}) ever saw it."
        )

    def summary(self) -> None:
        """Print every promise with what was found."""
        table = Table("", "promised", "found", title="Summary", title_justify="left")
        for step in self.steps:
            table.add_row(
                "✓" if step.kept else "✗", step.promise, step.found, style="green" if step.kept else "red"
            )
        self.console.print()
        self.console.print(table)

    def _verdict(self, recorded: records.RecordedVerdict) -> None:
        if recorded.decision == "HOLD" or recorded.step == "online_result":
            return
        what = recorded.step.replace("_", " ")
        if recorded.step.startswith("stage_"):
            if not recorded.is_look:
                return  # the last look once more, as it went to MLflow
            what = f"{what}: {recorded.decision}"
        outcome = recorded.verdict.outcome.value
        self.console.print(
            f"  {outcome:<12} {what:<22} {recorded.verdict.sentence}", style=_STYLE[outcome], markup=False
        )
