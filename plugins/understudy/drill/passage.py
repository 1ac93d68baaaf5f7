"""A run of the twin under guard: how long it takes to be caught, to be taken back and to be proven, seen from outside."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from understudy import lifecycle, rollback
from understudy.drill import findings
from understudy.drill.findings import Played
from understudy.drill.sandbox import CHAMPION, TWIN, Sandbox
from understudy.drill.traffic import Traffic, harmed, taken_back
from understudy.spec import Scenario
from understudy.store import ledger
from understudy.verdicts import Outcome

__all__ = ["ACTOR", "FIRST_LOOK", "Passage"]

ACTOR = "drill"
FIRST_LOOK, _FIRST_SLOW_LOOK = 1000, 100
"""Units that have asked before the first look. A request has units of one arm only, so after a few of them the arms would seem to
be split unevenly."""

_PATIENCE = 90.0
_BETWEEN_LOOKS = 0.5
_SETTLED = 0.5


@dataclass
class Passage:
    """A run of the twin under guard.

    Attributes:
        sandbox: Where.
        scenario: What is planted.
        run_id: The run.
        traffic: Who asks.
        played: What is known so far.
    """

    sandbox: Sandbox
    scenario: Scenario
    run_id: str
    traffic: Traffic
    played: Played = field(init=False)

    def __post_init__(self) -> None:
        self.played = Played(self.scenario)

    def look_until(self, enough: Callable[[], bool]) -> float:
        """Look again and again until exposure is taken back, and return the moment when that was decided."""
        until = time.monotonic() + _PATIENCE
        slow = self.scenario in (Scenario.SLOW, Scenario.LATENCY)
        self.traffic.wait_for_units(_FIRST_SLOW_LOOK if slow else FIRST_LOOK, _PATIENCE / 3)
        while time.monotonic() < until and not enough():
            began = time.monotonic()
            units = harmed(self.traffic.answers, TWIN)
            found = lifecycle.look(self.run_id, 1)
            if found["decision"] == "ROLL_BACK":
                decided = self._dropped_at(began)
                self.caught(found["verdict"], decided, units)
                return decided
            time.sleep(_BETWEEN_LOOKS)
        return time.monotonic()

    def _dropped_at(self, otherwise: float) -> float:
        """Return when the ledger says that exposure was dropped, as monotonic seconds."""
        with self.sandbox.session.store.read() as connection:
            found = ledger.entries(connection, run_id=self.run_id, newest=1, actions=("exposure.dropped",))
        return found[0].at - time.time() + time.monotonic() if found else otherwise

    def caught(self, verdict: dict[str, object], at: float, units: int) -> None:
        """Note who took exposure back. That time ran out is no catch, and neither is harm that was not planted."""
        by = f"{verdict.get('metric') or verdict['reason']}"
        cohort = verdict.get("cohort")
        if cohort not in (None, "all"):
            by = f"{by} in {cohort}"
        told = str(verdict["sentence"])
        proven, disturbed = verdict["outcome"] == Outcome.FAIL.value, False
        kinds = {metric.name: metric.kind for metric in self.sandbox.experiment.metrics}
        kind = kinds.get(str(verdict.get("metric")))
        if proven and findings.beside_the_point(self.scenario, kind, str(verdict["reason"])):
            told, proven, disturbed = f"{by} was, and it is about something else: {told}", False, True
        self.played = replace(
            self.played,
            caught_by=by if proven else "",
            told=told,
            disturbed=disturbed,
            units=units,
            detected_after=at - self.traffic.began,
        )

    def go_back(self, decided: float) -> None:
        """Carry the rollback out and note how long it took."""
        result = rollback.execute(
            self.sandbox.model, f"Drill: {self.scenario.value}.", ACTOR, uuid.uuid4().hex
        )
        self.played = replace(
            self.played,
            recovered_after=time.monotonic() - decided,
            problems=self._problems(result["problems"]),
        )

    def finish(self, decided: float) -> Played:
        """Note what the answers tell, once no answer is under way any more."""
        self.traffic.wait_for(taken_back, 10.0)
        time.sleep(_SETTLED)
        answers = list(self.traffic.answers)
        last = max((answer.sent_at for answer in answers if answer.version == TWIN), default=decided)
        over = any(answer.sent_at > last and taken_back(answer) for answer in answers)
        return replace(
            self.played,
            harmed=harmed(answers, TWIN),
            asked=sum(answer.units for answer in answers),
            zero_after=max(0.0, last - decided) if over else None,
            lost=sum(answer.status != 200 for answer in answers),
        )

    def _problems(self, told: list[str]) -> tuple[str, ...]:
        served = self.sandbox.exposure()
        found = list(told)
        if (served.champion, served.challenger) != (CHAMPION, None):
            found.append(f"version {served.champion} serves, and {served.challenger} is exposed")
        if self.sandbox.session.registry.alias(self.sandbox.model, "champion") != CHAMPION:
            found.append("the registry names another champion")
        return tuple(found)
