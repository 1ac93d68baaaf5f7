"""A follower with clocks of its own and versions that are loaded whenever a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from understudy.exposure import Exposure, publish
from understudy.gateway.follower import Follower

MODEL = "delay"
NOW = 1_700_000_000.0
LEASE = 30.0
RUN = Exposure(MODEL, 7, "1", "2", "delay-v2-1", 1, 5.0, int(NOW + LEASE), lease_seconds=LEASE)


class Versions:
    """A pool whose versions are there as soon as somebody asks, unless they are being loaded."""

    def __init__(self) -> None:
        self.loading: set[str] = set()
        self.alias: str | None = "1"
        self.sets: dict[str, str | None] = {}
        self.registry_down = False
        self.registry_answers = asyncio.Event()
        self.registry_answers.set()

    def champion(self, version: str) -> Any:
        return None if version in self.loading else SimpleNamespace(version=version)

    def challenger(self, version: str | None) -> Any:
        return version and SimpleNamespace(decided=version not in self.loading, trouble=None)

    def failure(self, version: str) -> str | None:
        return None

    def keep_only(self, champion: str, challenger: str | None) -> None:
        pass

    async def feature_set(self, version: str) -> str | None:
        await self.registry_answers.wait()
        if self.registry_down:
            raise ConnectionError("no answer")
        return self.sets.get(version)

    async def champion_alias(self) -> str:
        if self.alias is None:
            raise LookupError("no alias")
        return self.alias


@dataclass
class Watched:
    """A follower, its document and its clocks."""

    folder: Path
    wall: float = NOW
    steady: float = 1000.0
    pool: Versions = field(default_factory=Versions)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        pool: Any = self.pool
        self.follower = Follower(
            MODEL, self.path, pool, 0.1, clock=lambda: self.wall, steady=lambda: self.steady
        )

    @property
    def path(self) -> Path:
        return self.folder / "flags.json"

    @property
    def mark(self) -> Path:
        return self.folder / "accepted" / f"{MODEL}.json"

    @property
    def served(self) -> Exposure | None:
        return self.follower.serving.exposure if self.follower.serving else None

    @property
    def percent(self) -> float:
        """What share of units sees the challenger now."""
        return self.served.percent if self.served and self.served.live(self.wall) else 0.0

    @property
    def error(self) -> str:
        return self.follower.document_error or ""

    def passes(self, seconds: float) -> None:
        """Let time pass as it does."""
        self.wall += seconds
        self.steady += seconds

    async def looks(self, times: int = 3) -> None:
        """Look a few times, and let what was begun in between come to its end."""
        for _ in range(times):
            self.follower.step()
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.001)
        self.follower.step()

    async def follows(self, *exposures: Exposure) -> None:
        publish(self.path, exposures)
        await self.looks()


Scene = Callable[[Watched], Awaitable[None]]
Play = Callable[[Scene], None]


def player(folder: Path) -> Play:
    """Return a function that plays a scene on an event loop of its own."""

    def run(scene: Scene) -> None:
        async def whole() -> None:
            async with asyncio.timeout(30):
                await scene(Watched(folder))

        asyncio.run(whole())

    return run


def torn(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
