"""What the triggerer runs for us: the guard of an exposed stage and the watch on the registry.

Both only call plain, synchronous functions of the lower rooms in threads, and both may run twice at once (a triggerer
that is lost comes back elsewhere): the functions they call read, decide and record in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from understudy.verdicts import Outcome, Verdict

__all__ = ["GUARD_LOST", "GuardTrigger", "RegistryTrigger"]

GUARD_LOST = "guard_lost"
"""Reason of a stage that ended because nobody could look at it any more."""

DECISIONS = ("ADVANCE", "HOLD", "ROLL_BACK")
LOOK_LIMIT = 30.0
"""Seconds after which a look counts as failed. It cannot be stopped, but nothing waits for it any longer."""


class GuardTrigger(BaseTrigger):
    """Looks at the evidence of one stage again and again until it is decided.

    ``lifecycle.look`` renews the lease, or drops exposure to zero on harm, before this trigger even fires: safety does
    not wait for a worker. If looks keep failing the trigger ends the exposure itself; if that fails too, nobody renews
    the lease any more and it lapses.

    Args:
        run_id: The lifecycle's run.
        stage: Number of the stage, from 1.
        look_every: Seconds between the starts of two looks.
        patience: How many looks in a row may fail before exposure is ended.
    """

    def __init__(self, run_id: str, stage: int, look_every: float, patience: int = 3) -> None:
        super().__init__()
        self.run_id = run_id
        self.stage = stage
        self.look_every = look_every
        self.patience = patience

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to build this trigger again."""
        arguments = {
            "run_id": self.run_id,
            "stage": self.stage,
            "look_every": self.look_every,
            "patience": self.patience,
        }
        return "understudy.orchestration.triggers.GuardTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the look that decided the stage."""
        clock = asyncio.get_running_loop()
        failures = 0
        while True:
            started = clock.time()
            try:
                look = await asyncio.wait_for(asyncio.to_thread(self._look), LOOK_LIMIT)
            except Exception as error:
                failures += 1
                self.log.warning("Look %s of %s in a row failed: %r", failures, self.patience, error)
                if failures >= self.patience:
                    reason = f"{failures} looks in a row failed, the last with: {error!r}"
                    yield TriggerEvent(await self._give_up(reason))
                    return
            else:
                failures = 0
                self.log.info(
                    "Stage %s of %s: %s. %s", self.stage, self.run_id, look["decision"], look["sentence"]
                )
                if look["decision"] != "HOLD":
                    yield TriggerEvent(look)
                    return
            await asyncio.sleep(max(0.0, started + self.look_every - clock.time()))

    async def on_kill(self) -> None:
        """End the exposure when a person marks or clears the waiting task: from then on nobody guards it."""
        await self._give_up("The guard was stopped by hand in Airflow.")

    def _look(self) -> dict[str, Any]:
        look: dict[str, Any] = import_module("understudy.lifecycle").look(self.run_id, self.stage)
        if look["decision"] not in DECISIONS:
            raise ValueError(f"look answered {look['decision']!r}, expected one of {', '.join(DECISIONS)}")
        return look

    async def _give_up(self, reason: str) -> dict[str, Any]:
        sentence = f"{reason} Exposure was set to zero."
        try:
            await asyncio.wait_for(asyncio.to_thread(self._abort, reason), LOOK_LIMIT)
        except Exception:
            self.log.exception(
                "Exposure of %s could not be ended; its lease lapses unrenewed. See docs/runbooks/lease-is-not-renewed.md.",
                self.run_id,
            )
            sentence = f"{reason} Exposure could not be set to zero either; its lease lapses unrenewed."
        verdict = Verdict(Outcome.ERROR, GUARD_LOST, sentence)
        return {"decision": "ROLL_BACK", "sentence": sentence, "verdict": verdict.to_dict()}

    def _abort(self, reason: str) -> None:
        import_module("understudy.lifecycle").abort(self.run_id, reason)


class RegistryTrigger(BaseEventTrigger):
    """Fires while the registry holds starts that nobody has accepted yet.

    The event carries no truth, it only wakes ``registry_intake``, which reads the registry again. Airflow merges asset
    events and may leave some behind (apache/airflow #56050, #55956), so the trigger repeats itself until the starts are
    accepted: a lost event costs seconds, never a start.

    Args:
        poll_every: Seconds between two readings of the registry.
        repeat_after: Seconds after which unaccepted starts are announced again.
    """

    def __init__(self, poll_every: float = 2.0, repeat_after: float = 10.0) -> None:
        super().__init__()
        self.poll_every = poll_every
        self.repeat_after = repeat_after

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to build this trigger again."""
        arguments = {"poll_every": self.poll_every, "repeat_after": self.repeat_after}
        return "understudy.orchestration.triggers.RegistryTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event whenever unaccepted starts appear or change, and again while they stay unaccepted."""
        clock = asyncio.get_running_loop()
        announced: tuple[str, ...] = ()
        announced_at = clock.time() - self.repeat_after
        while True:
            keys = await self._pending()
            if keys and (keys != announced or clock.time() - announced_at >= self.repeat_after):
                announced_at = clock.time()
                yield TriggerEvent({"keys": list(keys)})
            announced = keys
            await asyncio.sleep(self.poll_every)

    async def _pending(self) -> tuple[str, ...]:
        # An error must not end the loop: Airflow would not start the watch again before its DAG is parsed anew.
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._read), LOOK_LIMIT)
        except Exception as error:
            self.log.warning(
                "The registry could not be read, trying again in %s s: %r", self.poll_every, error
            )
            return ()

    def _read(self) -> tuple[str, ...]:
        from understudy import rollback
        from understudy.lifecycle import registry_watch

        # Whoever sees the registry come back finishes the rollbacks that wait for it; none waits as a rule.
        rollback.resume()
        return tuple(sorted(start["key"] for start in registry_watch.pending_starts()))
