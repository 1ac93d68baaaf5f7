"""What must hold whatever happens: after every write to the store, in every published document, and for every request."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tests.gateway.watched import MODEL
from tests.machine.installation import BEFORE_EXPOSURE, EXPERIMENT, Installation
from understudy.errors import (
    BadParameter,
    NoPreviousVersion,
    NoSuchVersion,
    RollbackUnfinished,
    UnderstudyError,
)
from understudy.exposure import Exposure
from understudy.registry import CHALLENGER, CHAMPION
from understudy.store import exposures, ledger, outbox, schema
from understudy.store.runs import RunState
from understudy.store.unfinished import FINISH

__all__ = ["Laws", "it_leads_back"]

_DOWN = {RunState.ROLLING_BACK, RunState.ROLLED_BACK, RunState.FAILED}
_MAY_EXPOSE = {RunState.EXPOSED, RunState.PROMOTING}
_NEXT = {
    RunState.PREPARING: set(RunState),
    RunState.EXPOSED: set(RunState) - {RunState.PREPARING},
    RunState.PROMOTING: {RunState.PROMOTING, RunState.PROMOTED, *_DOWN},
    RunState.ROLLING_BACK: {RunState.ROLLING_BACK, RunState.ROLLED_BACK},
}


class Laws:
    """Watches one installation, from its own records of what was seen before.

    Args:
        place: The installation.
    """

    def __init__(self, place: Installation) -> None:
        self.place = place
        self.exposure: Exposure | None = None
        self.states: dict[str, RunState] = {}
        self.keys: dict[str, str] = {}
        self.down: set[str] = set()
        self.served = -1
        self.documented = -1
        self.granted: dict[tuple[int, int], float] = {}
        self.wall_is_steady = True
        place.watchers.append(self.after_a_write)
        self.after_a_write()

    def after_a_write(self) -> None:
        """Check what a transaction has made of the store."""
        with self.place.session.store.read() as connection:
            exposure = exposures.find(connection, MODEL)
            rows = connection.execute(
                sa.select(schema.runs.c.run_id, schema.runs.c.key, schema.runs.c.state, schema.runs.c.stage)
            ).all()
            outcomes = self._newest_outcomes(connection, exposure)
        self._runs_only_go_their_way(rows)
        if exposure is not None:
            stage = next((row.stage for row in rows if row.run_id == exposure.run_id), 0)
            self._generation_grows_with_every_change(exposure)
            self._exposure_rises_only_on_a_pass(exposure, stage, outcomes)
            self.exposure = exposure

    def _runs_only_go_their_way(self, rows: Any) -> None:
        states = {row.run_id: RunState(row.state) for row in rows}
        assert sum(not state.terminal for state in states.values()) <= 1, "two runs hold one model"
        for run_id, before in self.states.items():
            now = states[run_id]
            assert now in _NEXT.get(before, {before}), f"{run_id} went from {before} to {now}"
        keys = {row.run_id: row.key for row in rows}
        assert len(set(keys.values())) == len(keys), "one key started two runs"
        self.states, self.keys = states, keys
        self.down |= {run_id for run_id, state in states.items() if state in _DOWN}

    def _generation_grows_with_every_change(self, exposure: Exposure) -> None:
        before = self.exposure
        if before is None or before == exposure:
            return
        same = {"lease_expires_at": None, "lease_seconds": 0}
        renewed = before.__dict__ | same == exposure.__dict__ | same
        grew = exposure.generation > before.generation
        assert renewed or grew, f"{before} became {exposure} without a new generation"
        if renewed:
            assert before.live(self.place.gateway.wall), "a lease that had lapsed was renewed"

    def _newest_outcomes(self, connection: Any, exposure: Exposure | None) -> dict[str, str]:
        table = schema.verdicts
        wanted = table.c.run_id == (exposure.run_id if exposure else None)
        rows = connection.execute(sa.select(table.c.step, table.c.outcome).where(wanted).order_by(table.c.id))
        return {row.step: row.outcome for row in rows}

    def _exposure_rises_only_on_a_pass(
        self, exposure: Exposure, stage: int, outcomes: dict[str, str]
    ) -> None:
        if exposure.run_id in self.down:
            raise AssertionError(f"{exposure.run_id} is {self.states[exposure.run_id]} and in {exposure}")
        if not exposure.exposed:
            return
        assert exposure.run_id, exposure
        assert self.states[exposure.run_id] in _MAY_EXPOSE, f"{self.states[exposure.run_id]}: {exposure}"
        now, before = self.place.gateway.wall, self.exposure
        assert (exposure.lease_expires_at or 0) <= now + EXPERIMENT.lease or exposure == before
        if before is not None and before.live(now) and before.run_id == exposure.run_id:
            if exposure.percent <= before.percent:
                return
        elif before == exposure:
            return
        assert exposure.stage == stage
        assert exposure.percent == EXPERIMENT.stages[stage - 1].percent
        needed = BEFORE_EXPOSURE if stage == 1 else (f"stage_{stage - 1}",)
        found = {step: outcomes.get(step) for step in needed}
        assert set(found.values()) == {"PASS"}, f"exposure rose to stage {stage} on {found}"

    def after_a_step(self) -> None:
        """Check what is served, and that the record is whole."""
        place = self.place
        with place.session.store.read() as connection:
            assert ledger.verify(connection) is None
            unpublished = bool(outbox.pending(connection, "publish_flags"))
        document = place.published()
        if document is not None and self.exposure is not None and not unpublished:
            assert document == self.exposure or (
                document.generation > self.exposure.generation and not document.exposed
            ), f"{document} is published and {self.exposure} is true"
        self._note_leases(document)
        place.gateway_looks()
        self.of_a_request(unpublished)

    def _note_leases(self, document: Exposure | None) -> None:
        for seen in (self.exposure if self.wall_is_steady else None, document):
            if seen is not None and seen.exposed:
                lease = (seen.generation, seen.lease_expires_at or 0)
                self.granted.setdefault(lease, self.place.gateway.steady)

    def of_a_request(self, unpublished: bool = True) -> None:
        """Check what a request would meet now."""
        gateway = self.place.gateway
        served = gateway.served
        if served is None:
            return
        assert served.generation >= self.served, "a gateway went back to an older generation"
        self.served = served.generation
        if not served.live(gateway.wall):
            return
        lease = (served.generation, served.lease_expires_at or 0)
        assert lease in self.granted, f"nobody granted {served}"
        assert gateway.steady < self.granted[lease] + EXPERIMENT.lease, "somebody is exposed past the lease"
        if not unpublished:
            assert served.run_id not in self.down, f"{served.run_id} is down and served"
            assert self.exposure is not None
            assert served.percent <= self.exposure.percent

    def all_agree(self) -> None:
        """Check that registry, store, document and gateway name one champion, once nothing is left to do."""
        place, stored = self.place, self.exposure
        if stored is None:
            return
        model = place.server.models[MODEL]
        document, served = place.published(), place.gateway.served
        assert document is not None
        assert served is not None
        if int(stored.champion) in model.versions:
            assert model.aliases.get(CHAMPION) == stored.champion
            assert served.champion == stored.champion
        assert document.champion == stored.champion
        assert model.aliases.get(CHALLENGER) != stored.champion, "one version has both aliases"
        in_production = {
            item.version for item in model.versions.values() if item.current_stage == "Production"
        }
        assert in_production <= {stored.champion}, f"{in_production} are Production"


def unfinished(place: Installation) -> bool:
    """Tell whether the store itself says that something is still to be done."""
    with place.session.store.read() as connection:
        waiting = outbox.pending(connection, FINISH) or outbox.pending(connection, "publish_flags")
        last = ledger.entries(
            connection, model=MODEL, newest=1, actions=("rollback.started", "rollback.finished")
        )
    begun = bool(last) and last[0].action == "rollback.started"
    run = place.active()
    return (
        bool(waiting)
        or begun
        or (run is not None and run.state not in (RunState.PREPARING, RunState.EXPOSED))
    )


def it_leads_back(place: Installation) -> None:
    """Roll back, as a person would: to the version before, or else to one that is there; then check where it ended."""
    there = sorted(place.server.models[MODEL].versions)
    try:
        place.roll_back("the way back", None)
    except (NoPreviousVersion, NoSuchVersion, BadParameter, RollbackUnfinished) as error:
        _nobody_is_exposed(place, error)
        chosen = next((str(number) for number in there if str(number) != place.alias()), str(there[0]))
        place.roll_back("the way back by name", chosen)
        assert place.alias() == chosen
    run = place.active()
    assert run is None, f"{run} still holds the model"
    stored = place.stored()
    assert stored is not None
    assert int(stored.champion) in place.server.models[MODEL].versions
    assert place.alias() == stored.champion
    _nobody_is_exposed(place)
    assert place.gateway.served is not None
    assert place.gateway.served.champion == stored.champion


def _nobody_is_exposed(place: Installation, error: UnderstudyError | None = None) -> None:
    place.gateway_looks()
    for seen in (place.stored(), place.published(), place.gateway.served):
        assert seen is None or not seen.exposed, f"{seen} after {error!r}"
