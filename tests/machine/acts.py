"""What people, Airflow, servers and clocks do to an installation, each as one call."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.gateway.watched import MODEL
from tests.machine.installation import BEFORE_EXPOSURE, EXPERIMENT, Installation
from tests.machine.interruptions import Killed
from tests.machine.laws import Laws
from understudy.errors import GatewayMismatch, StoreError, UnderstudyError, Unreachable
from understudy.lifecycle import registry_watch
from understudy.policy import Decision, Kind
from understudy.registry import CHALLENGER
from understudy.store import records
from understudy.store.runs import Run, RunState
from understudy.verdicts import Outcome, Verdict

__all__ = ["ACTS", "INTERRUPTED", "LADDER", "LOOKS", "Acts", "Interrupted"]

_PASSING = (Unreachable, StoreError, GatewayMismatch)
"""After these a step is run again."""


def _decision(kind: Kind, outcome: Outcome, *, renew: bool, contain: tuple[str, ...] = ()) -> Decision:
    return Decision(kind, Verdict(outcome, "drawn", "A test says so."), renew, contain)


LOOKS: dict[str, Decision | None] = {
    "passes": _decision(Kind.ADVANCE, Outcome.PASS, renew=True),
    "passes without renewal": _decision(Kind.ADVANCE, Outcome.PASS, renew=False),
    "holds": _decision(Kind.HOLD, Outcome.INCONCLUSIVE, renew=True),
    "holds on an error": _decision(Kind.HOLD, Outcome.ERROR, renew=False),
    "contains": _decision(Kind.HOLD, Outcome.INCONCLUSIVE, renew=True, contain=("origin=JFK",)),
    "fails": _decision(Kind.ROLL_BACK, Outcome.FAIL, renew=False),
    "gives up": _decision(Kind.ROLL_BACK, Outcome.ERROR, renew=False),
    "has no data": None,
}
LADDER = len(EXPERIMENT.stages)

_ACTS = (
    "roll back", "roll back to another", "roll back again", "abort", "go on", "begin again", "look and pass", "look and fail",
    "wait", "wait out the lease", "clock back", "clock ahead", "restart the gateway", "cut off MLflow", "cut off the gateway",
    "refuse writes", "delete the champion", "delete the challenger", "resume", "publish", "watch", "raise at once",
)  # fmt: skip
ACTS = st.sampled_from(_ACTS)
POINTS = st.integers(0, 8) | st.integers(0, 40)
INTERRUPTED = st.none() | POINTS | st.tuples(POINTS, ACTS)
Interrupted = int | tuple[int, str] | None


class Acts:
    """Everything that can be done.

    Attributes:
        place: The installation.
        laws: What watches over it.
        again: Steps that died or met a server that was down, to be run again.
        keys: Keys of the starts by hand.
        announced: Starts that the watch on the registry has announced.
    """

    place: Installation
    laws: Laws
    again: list[tuple[str, tuple[Any, ...]]]
    keys: list[str]
    announced: list[dict[str, Any]]

    # Doing something.

    def perform(self, name: str, *arguments: Any) -> None:
        """Take a step as one of two processes; a step that died or met a server that is down is noted."""
        step = (name, arguments)
        try:
            getattr(self.place, name)(*arguments)
            if step in self.again:
                self.again.remove(step)
        except (Killed, *_PASSING) as error:
            if step not in self.again:
                self.again.append(step)
            if isinstance(error, Killed):
                self.place.new_process()
        except UnderstudyError:
            if step in self.again:
                self.again.remove(step)

    def interrupted(self, how: Interrupted, name: str, *arguments: Any) -> None:
        """Take a step that is interrupted by death or by what somebody else does meanwhile."""
        if isinstance(how, tuple):
            self.place.interruptions.arm(how[0], lambda: self.meanwhile(how[1]))
        else:
            self.place.interruptions.arm(how)
        self.perform(name, *arguments)
        self.place.interruptions.arm(None)

    def meanwhile(self, act: str) -> None:
        who = self.place.who
        self.place.act_as(1 - who)
        self.act(act)
        self.place.act_as(who)

    def act(self, act: str) -> None:
        """Let somebody do something that needs no more particulars."""
        getattr(self, f"_{act.lower().replace(' ', '_')}")()

    def _roll_back(self) -> None:
        self.perform("roll_back", f"r-{len(self.keys)}-{self.laws.served}", None)

    def _roll_back_to_another(self) -> None:
        others = [str(number) for number in self._versions() if str(number) != self.place.alias()]
        if others:
            self.perform("roll_back", f"to-{len(self.keys)}-{self.laws.served}", others[-1])

    def _roll_back_again(self) -> None:
        self.perform("roll_back", "always the same key", None)

    def _abort(self) -> None:
        run = self._run()
        if run:
            self.perform("abort", run.key)

    def _go_on(self) -> None:
        self.perform(*self.next_step())

    def _begin_again(self) -> None:
        if self.keys:
            self.perform("begin", self.keys[-1], None)

    def _look_and_pass(self) -> None:
        self._look("passes")

    def _look_and_fail(self) -> None:
        self._look("fails")

    def _look(self, kind: str) -> None:
        run = self._run()
        if run and run.stage:
            self.perform("look", run.run_id, run.stage, LOOKS[kind])

    def _raise_at_once(self) -> None:
        run = self._run()
        if run:
            self.perform("raise_exposure", run.run_id, run.stage + 1)

    def _wait(self) -> None:
        self.pass_time(7.0)

    def _wait_out_the_lease(self) -> None:
        self.pass_time(EXPERIMENT.lease + 1)

    def _clock_back(self) -> None:
        self.set_clock(-3600.0)

    def _clock_ahead(self) -> None:
        self.set_clock(3600.0)

    def _restart_the_gateway(self) -> None:
        self.place.gateway.restart()
        self.place.gateway_looks()

    def _cut_off_mlflow(self) -> None:
        self.place.server.reachable = not self.place.server.reachable

    def _cut_off_the_gateway(self) -> None:
        self.place.gateway_answers = not self.place.gateway_answers

    def _refuse_writes(self) -> None:
        self.place.refuse_writes(not self.place.unwritable)

    def _delete_the_champion(self) -> None:
        self._delete(self.place.alias())

    def _delete_the_challenger(self) -> None:
        self._delete(self.place.alias(CHALLENGER))

    def _delete(self, version: str | None) -> None:
        if version is not None and len(self._versions()) > 2:
            self.perform("delete_version", version)

    def _resume(self) -> None:
        self.perform("resume")

    def _publish(self) -> None:
        self.perform("publish")

    def _watch(self) -> None:
        """Read the registry as its watch does; what it announces is delivered later, more than once or never."""
        try:
            self.announced += registry_watch.pending_starts()
        except UnderstudyError:
            return

    def pass_time(self, seconds: float) -> None:
        self.place.passes(seconds)
        self.laws.of_a_request()

    def set_clock(self, seconds: float) -> None:
        self.place.gateway.wall += seconds
        self.laws.wall_is_steady = False

    # Looking around.

    def _versions(self) -> list[int]:
        return sorted(self.place.server.models[MODEL].versions)

    def _run(self) -> Run | None:
        """Return the run that is on, else the newest one."""
        found = self.place.runs()
        return self.place.active() or (found[-1] if found else None)

    def next_step(self) -> tuple[Any, ...]:
        """Return what Airflow would do next with the run that is on, if everything goes well."""
        run = self.place.active()
        if run is None:
            self.keys.append(f"start-{len(self.keys)}")
            return "begin", self.keys[-1], str(self._versions()[-1])
        if run.state is RunState.PROMOTING:
            return "promote", run.run_id
        if run.state is RunState.ROLLING_BACK:
            return "roll_back", f"of {run.run_id}", None
        with self.place.session.store.read() as connection:
            newest = records.newest_of_each_step(connection, run.run_id)
        passed = {item.step for item in newest if item.verdict.passed}
        missing = [step for step in BEFORE_EXPOSURE if step not in passed]
        if missing == list(BEFORE_EXPOSURE):
            return "begin", run.key, run.version
        if missing:
            return "conclude_step", run.run_id, missing[0], Outcome.PASS
        if run.stage and f"stage_{run.stage}" not in passed:
            return "look", run.run_id, run.stage, LOOKS["passes"]
        if run.stage < LADDER:
            return "raise_exposure", run.run_id, run.stage + 1
        if "compare" not in passed:
            return "conclude_step", run.run_id, "compare", Outcome.PASS
        return "promote", run.run_id
