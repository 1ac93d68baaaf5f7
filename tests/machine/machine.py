"""The state machine: whatever happens in any order, and whoever dies meanwhile."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.gateway.watched import LEASE, MODEL, NOW
from tests.machine.acts import ACTS, INTERRUPTED, LADDER, LOOKS, Acts, Interrupted
from tests.machine.installation import Installation
from tests.machine.laws import Laws, it_leads_back, unfinished
from tests.machine.mlflow_double import Client, Server
from understudy.registry import CHALLENGER, CHAMPION
from understudy.store import ledger
from understudy.verdicts import Outcome

__all__ = ["Machine"]

CLIMB = 14
"""Regular steps from nothing to a promoted run, and into the next one."""
EXPOSED = st.integers(5, 9)
"""Regular steps after which somebody is exposed: most of what could go wrong begins there."""

WHO = st.sampled_from([0, 0, 1])


class Machine(Acts, RuleBasedStateMachine):
    """One installation and everything that can happen to it.

    Attributes:
        template: A folder with a fresh installation.
        store_url: Makes the address of a fresh store for a folder.
        thorough: Whether the way back is tried from every state and not only from those that are new.
        copies: Whether it is tried at all on copies; else only in the end.
        known: States from which it was tried.
    """

    template: Path
    store_url: Callable[[Path], str]
    thorough = False
    copies = True
    known: ClassVar[set[Any]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="understudy-machine-", dir=self.template.parent))
        shutil.copytree(self.template, self.folder / "it")
        server = Server()
        client = Client(server)
        client.create_registered_model(MODEL)
        for _ in range(3):
            client.create_model_version(MODEL, source="models:/m-1")
        client.set_registered_model_alias(MODEL, CHAMPION, "1")
        url = type(self).store_url(self.folder / "it")
        self.place = Installation(self.folder / "it", url, server, (NOW, 1000.0))
        self.laws = Laws(self.place)
        self.again: list[tuple[str, tuple[Any, ...]]] = []
        self.keys: list[str] = []
        self.announced: list[dict[str, Any]] = []

    # What happens.

    @initialize(steps=EXPOSED | st.integers(0, CLIMB))
    def begin_somewhere(self, steps: int) -> None:
        for _ in range(steps):
            self.perform(*self.next_step())

    @rule(times=st.integers(1, 4), how=INTERRUPTED, who=WHO)
    def goes_on(self, times: int, how: Interrupted, who: int) -> None:
        self.place.act_as(who)
        for _ in range(times - 1):
            self.perform(*self.next_step())
        self.interrupted(how, *self.next_step())

    @precondition(lambda self: self.laws.exposure is not None and self.laws.exposure.exposed)
    @rule(
        kind=st.sampled_from(sorted(LOOKS)), late=st.sampled_from([LEASE + 1, 7, 0]), how=INTERRUPTED, who=WHO
    )
    def looks(self, kind: str, late: float, how: Interrupted, who: int) -> None:
        run = self.place.active()
        assert run is not None
        self.place.act_as(who)
        self.pass_time(late)
        before = self.place.stored()
        self.interrupted(how, "look", run.run_id, run.stage, LOOKS[kind])
        decision = LOOKS[kind]
        after = self.place.stored()
        if not isinstance(how, tuple) and (decision is None or not decision.renew_lease):
            assert before is not None
            assert after is not None
            assert (after.lease_expires_at or 0) <= (before.lease_expires_at or 0), (
                "nothing was sound to renew on"
            )

    @rule(again=st.booleans(), number=st.integers(0, 6), how=INTERRUPTED, who=WHO)
    def rolls_back(self, again: bool, number: int, how: Interrupted, who: int) -> None:
        self.place.act_as(who)
        known = self._versions()
        # An odd number beyond those that exist: somebody names a version that is not there.
        target = str(number) if 0 < number <= known[-1] + 1 else None
        key = "always the same key" if again else f"r-{number}-{self.laws.served}"
        self.interrupted(how, "roll_back", key, target)

    @rule(act=ACTS)
    def somebody_acts(self, act: str) -> None:
        self.act(act)

    @rule(
        step=st.sampled_from(["begin", "abort", "raise", "look", "conclude", "fail", "promote"]),
        back=st.integers(0, 3),
        stage=st.integers(1, LADDER),
        kind=st.sampled_from(sorted(LOOKS)),
        how=INTERRUPTED,
        who=WHO,
    )
    def something_comes_late_or_twice(
        self, step: str, back: int, stage: int, kind: str, how: Interrupted, who: int
    ) -> None:
        """A task that was cleared, a message that was delivered twice, a worker that wakes up after hours."""
        found = self.place.runs()
        if not found:
            return
        run = found[-1 - min(back, len(found) - 1)]
        self.place.act_as(who)
        steps: dict[str, tuple[Any, ...]] = {
            "begin": ("begin", run.key, run.version),
            "abort": ("abort", run.key),
            "raise": ("raise_exposure", run.run_id, stage),
            "look": ("look", run.run_id, stage, LOOKS[kind]),
            "conclude": ("conclude_stage", run.run_id, stage),
            "fail": ("conclude_step", run.run_id, "evaluate", Outcome.INCONCLUSIVE),
            "promote": ("promote", run.run_id),
        }
        self.interrupted(how, *steps[step])

    @precondition(lambda self: self.again)
    @rule(number=st.integers(0, 5), how=INTERRUPTED)
    def is_run_again(self, number: int, how: Interrupted) -> None:
        name, arguments = self.again[number % len(self.again)]
        self.interrupted(how, name, *arguments)

    @precondition(lambda self: self.announced)
    @rule(number=st.integers(0, 5), accept=st.booleans(), how=INTERRUPTED)
    def an_announced_start_arrives(self, number: int, accept: bool, how: Interrupted) -> None:
        start = self.announced[number % len(self.announced)]
        self.interrupted(how, "begin", f"registry__{start['key']}", start["version"])
        if accept:
            self.perform("accept", {start["key"]: start["signal"]})

    @rule(alias=st.booleans())
    def somebody_wants_a_version_tried(self, alias: bool) -> None:
        client = Client(self.place.server)
        if not self.place.server.reachable or len(self.place.server.models[MODEL].versions) > 5:
            return
        made = client.create_model_version(MODEL, source="models:/m-1").version
        if alias:
            client.set_registered_model_alias(MODEL, CHALLENGER, made)
        else:
            client.transition_model_version_stage(MODEL, made, "Staging")

    # What holds.

    @invariant()
    def every_law_holds(self) -> None:
        self.laws.after_a_step()
        if self._is_at_rest():
            self.laws.all_agree()

    @invariant()
    def a_way_back_is_there(self) -> None:
        if not self.copies:
            return
        seen = self._signature()
        if seen in self.known and not self.thorough:
            return
        who = self.place.who
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "copy"
        copy = Installation.copied(self.place, folder, type(self).store_url(folder))
        try:
            it_leads_back(copy)
        finally:
            copy.close()
            self.place.act_as(who)
            shutil.rmtree(folder.parent)
        self.known.add(seen)

    def _is_at_rest(self) -> bool:
        place = self.place
        healthy = place.server.reachable and place.gateway_answers and not place.unwritable
        stored, document = place.stored(), place.published()
        return healthy and not self.again and not unfinished(place) and document == stored

    def _signature(self) -> Any:
        place, run, stored, document = self.place, self._run(), self.place.stored(), self.place.published()
        model = place.server.models[MODEL]
        with place.session.store.read() as connection:
            last = ledger.entries(connection, model=MODEL, newest=1)
        named = [run.champion, run.version] if run else []
        return (
            run is not None and (run.state, run.stage),
            stored and (stored.exposed, stored.live(place.gateway.wall), stored.champion in named),
            document and stored and (document == stored, document.generation > stored.generation),
            tuple(model.aliases.get(alias) in named and named.index(model.aliases[alias]) for alias in (CHAMPION, CHALLENGER)),
            tuple(int(version) in model.versions for version in named),
            bool(last) and (last[0].action, last[0].body.get("step")),
            unfinished(place),
        )  # fmt: skip

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
        finally:
            self.place.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _comes_to_rest(self) -> None:
        """Mend everything, let everybody finish what was begun, and see that all agree; then go back once more."""
        place = self.place
        place.interruptions.arm(None)
        place.server.reachable = place.gateway_answers = True
        place.refuse_writes(False)
        for _ in range(3):
            for name, arguments in list(self.again):
                self.perform(name, *arguments)
            self.perform("resume")
        run = place.active()
        if run:
            self.perform("abort", run.key)
            self.perform("roll_back", f"of {run.run_id}", None)
        self.perform("publish")
        self.laws.after_a_step()
        assert not self.again, f"{self.again} cannot be finished"
        if not unfinished(place):
            self.laws.all_agree()
        it_leads_back(place)
        self.laws.after_a_step()
        assert not unfinished(place)
        self.laws.all_agree()
