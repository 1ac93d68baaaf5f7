"""One installation: the real store and lifecycle, a registry in memory, and a real follower of the flag document."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests import declared
from tests.gateway.watched import LEASE, MODEL, Versions, Watched
from tests.machine.interruptions import Interruptions, ObservedStore
from tests.machine.mlflow_double import RegistryOf, Server, TrackingOf
from understudy import gateways, lifecycle, policy, rollback
from understudy import session as sessions
from understudy.errors import NoSuchVersion, Unreachable
from understudy.exposure import Exposure, read_flag
from understudy.lifecycle import registry_watch
from understudy.policy import Decision
from understudy.registry import CHAMPION, FEATURE_SET_TAG
from understudy.rollback import emergency, objectives
from understudy.session import Session
from understudy.settings import Settings
from understudy.spec import Experiment
from understudy.store import exposures, ledger, runs
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["BEFORE_EXPOSURE", "EXPERIMENT", "Installation", "Loaded", "stage"]

GATEWAY = "http://gateway"
WAITED = 5.0
"""Seconds that pass while somebody waits a tenth of a second for a gateway."""
BEFORE_EXPOSURE = ("preregister", "check_data", "evaluate", "shadow")
SPEC: dict[str, Any] = {"registry": {"start_on": ["alias", "stage"], "move_stage": True}}
EXPERIMENT: Experiment = declared.experiment(**SPEC)
assert (declared.MODEL, EXPERIMENT.lease) == (MODEL, LEASE)


class Loaded(Versions):
    """The versions of a gateway: each is there once it was loaded, which needs the registry."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._here: set[str] = set()

    def champion(self, version: str) -> Any:
        return super().champion(version) if self._load(version) else None

    def challenger(self, version: str | None) -> Any:
        return version and SimpleNamespace(
            decided=True, trouble=None if self._load(version) else "not loaded"
        )

    def failure(self, version: str) -> str | None:
        return None if self._load(version) else f"Version {version} cannot be loaded."

    def keep_only(self, champion: str, challenger: str | None) -> None:
        self._here &= {champion, challenger or champion}

    @property
    def versions(self) -> list[str]:
        return sorted(self._here)

    async def champion_alias(self) -> str:
        return self._server.model(MODEL).aliases["champion"]

    async def feature_set(self, version: str) -> str | None:
        return self._server.version(MODEL, version).tags.get(FEATURE_SET_TAG)

    def _load(self, version: str) -> bool:
        model = self._server.models[MODEL]
        if self._server.reachable and int(version) in model.versions:
            self._here.add(version)
        return version in self._here


class Installation:
    """One installation.

    Attributes:
        current: The one in which somebody acts now.

    Args:
        folder: Its state and its declarations.
        url: The store.
        server: The registry.
        clocks: Wall clock and steady clock.
    """

    current: ClassVar[Installation]
    named = (
        "MLFLOW_TRACKING_URI", "UNDERSTUDY_HOME", "UNDERSTUDY_STORE_URL", "UNDERSTUDY_EXPERIMENTS",
        "UNDERSTUDY_EXPECTATIONS", "UNDERSTUDY_DATA", "UNDERSTUDY_GATEWAY_URLS",
    )  # fmt: skip

    def __init__(self, folder: Path, url: str, server: Server, clocks: tuple[float, float]) -> None:
        self.folder = folder
        self.server = server
        self.interruptions = Interruptions()
        Installation.current = self
        self.watchers: list[Callable[[], None]] = []
        folders = [str(folder / name) for name in ("home", "experiments", "expectations", "data")]
        values = ("http://mlflow", folders[0], url, *folders[1:], GATEWAY)
        self.environment = dict(zip(self.named, values, strict=True))
        os.environ.update(self.environment)
        self.settings = Settings.from_env()
        self.loop = asyncio.new_event_loop()
        self.gateway = Watched(folder / "home", *clocks, pool=Loaded(server))
        self.gateway_answers = True
        self.unwritable = False
        self.decision: Decision | None = None
        self.doors = [self._opened(), self._opened()]
        self.act_as(0)

    @classmethod
    def copied(cls, other: Installation, folder: Path, url: str) -> Installation:
        """Return an installation with the same past that goes its own way, in which everything answers."""
        shutil.copytree(other.folder, folder)
        server = other.server.copied()
        server.reachable = True
        return cls(folder, url, server, (other.gateway.wall, other.gateway.steady))

    def close(self) -> None:
        """End it."""
        for doors in self.doors:
            doors.store.close()
        sessions._opened.pop(self.settings, None)
        self.loop.close()

    def act_as(self, who: int) -> None:
        """Let what is called from now on run in one of two processes."""
        Installation.current = self
        self.who = who
        os.environ.update(self.environment)
        sessions._opened[self.settings] = self.doors[who]

    def new_process(self) -> None:
        """Let a fresh process take the place of the one that acts."""
        self.doors[self.who].store.close()
        self.doors[self.who] = self._opened()
        self.act_as(self.who)

    def _opened(self) -> Session:
        store = ObservedStore.open(self.settings, lambda: self.gateway.wall)
        store.interruptions = self.interruptions
        store.wrote = lambda: [watch() for watch in self.watchers]
        store.unwritable = self.unwritable
        doors = Session(self.settings, store)
        registry = RegistryOf(self.server, self.interruptions.reached)
        doors.__dict__ |= {"registry": registry, "tracking": TrackingOf(registry, MODEL)}
        return doors

    def refuse_writes(self, unwritable: bool) -> None:
        """Make the database read-only, or writable again."""
        self.unwritable = unwritable
        for doors in self.doors:
            doors.store.unwritable = unwritable

    # What is seen.

    @property
    def session(self) -> Session:
        return self.doors[self.who]

    def stored(self) -> Exposure | None:
        with self.session.store.read() as connection:
            return exposures.find(connection, MODEL)

    def published(self) -> Exposure | None:
        path = self.settings.flags_path
        return read_flag(path, MODEL) if path.exists() else None

    def alias(self, name: str = CHAMPION) -> str | None:
        return self.server.models[MODEL].aliases.get(name)

    def runs(self) -> list[runs.Run]:
        """Return every run in the order of their starts."""
        with self.session.store.read() as connection:
            started = ledger.entries(connection, model=MODEL, actions=("run.started",))
            return [runs.get(connection, str(entry.run_id)) for entry in started]

    def active(self) -> runs.Run | None:
        with self.session.store.read() as connection:
            return runs.active(connection, MODEL)

    # The gateway.

    def gateway_looks(self) -> None:
        self.loop.run_until_complete(self.gateway.looks(1))

    def status(self, url: str) -> dict[str, Any]:
        """Answer as the gateway does, which has looked at the document shortly before."""
        if not self.gateway_answers:
            raise Unreachable(f"The gateway at {url} does not answer.")
        self.gateway_looks()
        follower, served = self.gateway.follower, self.gateway.served
        challenger = follower.serving.challenger if follower.serving else None
        return {
            "model": MODEL,
            "ready": served is not None,
            "generation": served.generation if served else None,
            "champion": served.champion if served else None,
            "loaded": self.gateway.pool.versions,
            "waiting_for": follower.waiting_for,
            "loading": follower.loading,
            "document_error": follower.document_error,
            "challenger_error": challenger.trouble if challenger else None,
        }

    def passes(self, seconds: float) -> None:
        """Let time pass, in which the gateway looks all the time."""
        self.gateway.passes(seconds)
        self.gateway_looks()

    # The steps, as Airflow, the command line and the console call them.

    def begin(self, key: str, version: str | None) -> None:
        lifecycle.begin(declared.NAME, version, key, "Ada", "a test", {"run_id": key})

    def conclude_step(self, run_id: str, step: str, outcome: Outcome) -> None:
        verdict = Verdict(outcome, "drawn", "A test says so.")
        self.session.passage(run_id).conclude(step, verdict, StepRecord())

    def raise_exposure(self, run_id: str, stage: int) -> None:
        lifecycle.raise_exposure(run_id, stage)

    def look(self, run_id: str, stage: int, decision: Decision | None) -> None:
        """Look at a stage; without a decision the real policy decides on the real event log, which is empty."""
        before, self.decision = self.decision, decision
        try:
            lifecycle.look(run_id, stage)
        finally:
            self.decision = before

    def conclude_stage(self, run_id: str, stage: int) -> None:
        lifecycle.conclude_stage(run_id, stage)

    def promote(self, run_id: str) -> None:
        lifecycle.promote(run_id)

    def abort(self, key: str) -> None:
        lifecycle.abort(key, "a test")

    def roll_back(self, key: str, target: str | None) -> None:
        rollback.execute(MODEL, "it hurts", "Ada", key, target)

    def resume(self) -> None:
        rollback.resume()

    def publish(self) -> None:
        exposures.publish_flags(self.session.store, self.settings)

    def accept(self, keys: dict[str, str]) -> None:
        registry_watch.accept_starts(keys)

    def delete_version(self, version: str) -> None:
        try:
            self.session.registry.client.delete_model_version(MODEL, version)
        except Exception as error:
            raise NoSuchVersion(str(error)) from error


@contextmanager
def stage() -> Iterator[None]:
    """Let gateways, clocks, locks and the policy be those of the installation in which somebody acts."""
    here, decide = lambda: Installation.current, policy.decide
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UNDERSTUDY_PSEUDONYM_KEY", "UNDERSTUDY_SIGNING_KEY"):
            patch.delenv(name, raising=False)
        for name in Installation.named:
            patch.setenv(name, "")  # so that they are put back at the end
        waiting = SimpleNamespace(
            monotonic=lambda: here().gateway.steady, sleep=lambda _: here().passes(WAITED)
        )
        patch.setattr(gateways, "time", waiting)
        patch.setattr(gateways, "status", lambda url: here().status(url))
        patch.setattr(policy, "decide", lambda spec, look: here().decision or decide(spec, look))
        patch.setattr(fcntl, "flock", lambda handle, how: here().interruptions.flock(handle, how))
        for room in (exposures, emergency):
            real = room.publish
            patch.setattr(room, "publish", lambda *a, real=real: here().interruptions.publishing(real, *a))
        # A timer of real time would write whenever the machine that runs the tests is slow.
        patch.setattr(objectives, "_stalled", lambda *_: None)
        yield
