"""What a gateway remembers over a restart, and what it does when that is lost or cannot be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.watched import (
    LEASE,
    MODEL,
    NOW,
    RUN,
    Play,
    Watched,
    emptied,
    player,
    replaced_by_a_folder,
    torn,
)
from understudy.exposure import Exposure, publish, read_flag
from understudy.gateway import memory


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


def test_a_restart_goes_on_where_it_was(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        assert read_flag(watched.mark, MODEL) == RUN
        await watched.follows(replace(RUN, lease_expires_at=int(NOW + 40)))
        watched.restart()
        await watched.looks()
        assert watched.percent == 5.0
        assert watched.error == ""

    play(scene)


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "torn": torn,
    "empty": emptied,
    "a folder": replaced_by_a_folder,
    "of another model": lambda path: publish(path, [replace(RUN, model="other")]),
}


@pytest.mark.parametrize("spoil", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_with_its_memory_lost_a_gateway_exposes_nobody_until_the_publisher_goes_on(
    spoil: Callable[[Path], object], play: Play
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        spoil(watched.mark)
        for _ in range(2):  # a second restart is no way around it
            watched.restart()
            await watched.looks()
            assert watched.served == RUN.ended()
            assert "cannot be read, so nobody is exposed until a generation above 7" in watched.error
            # Not even a renewal shows that the document is the newest.
            await watched.follows(replace(RUN, lease_expires_at=int(watched.wall + LEASE + 1)))
            assert watched.percent == 0.0
        if watched.mark.is_dir():
            watched.mark.rmdir()
        await watched.follows(replace(RUN, generation=8))
        assert (watched.percent, watched.error) == (5.0, "")
        watched.restart()
        await watched.looks()
        assert watched.percent == 5.0

    play(scene)


def test_a_generation_that_cannot_be_remembered_exposes_nobody_but_may_withdraw(
    play: Play,
) -> None:
    async def scene(watched: Watched) -> None:
        (watched.folder / "accepted").write_text("a file where a folder should be")
        watched.restart()
        # What was remembered cannot be read either, so the publisher goes on first.
        await watched.follows(replace(RUN, generation=6))
        await watched.follows(RUN)
        assert watched.served == RUN.ended()
        assert "until generation 7 can be remembered" in watched.error
        await watched.follows(Exposure(MODEL, 8, "1"))
        assert watched.served == Exposure(MODEL, 8, "1")
        await watched.follows(replace(RUN, generation=9))
        assert watched.percent == 0.0
        (watched.folder / "accepted").unlink()
        await watched.looks()
        assert (watched.percent, watched.error) == (5.0, "")

    play(scene)


def test_a_memory_that_is_never_done_exposes_nobody(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(watched: Watched) -> None:
        hangs = asyncio.Event()

        async def never_done(*_: object) -> None:
            await hangs.wait()

        monkeypatch.setattr(asyncio, "to_thread", never_done)
        monkeypatch.setattr(memory, "_PATIENCE_SECONDS", -1.0)
        publish(watched.path, [RUN])
        for _ in range(3):
            watched.follower.step()
            await asyncio.sleep(0)
        assert watched.served == RUN.ended()
        assert "is being written for more than" in watched.error
        hangs.set()

    play(scene)


def test_gateways_that_share_a_memory_keep_the_highest_generation(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        other = Watched(watched.folder)
        await watched.follows(replace(RUN, generation=9))
        # The other one was slower: what it has read is out by now.
        other.follower._accept(RUN)
        other.follower._advance()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
        kept = read_flag(watched.mark, MODEL)
        assert kept is not None
        assert kept.generation == 9

    play(scene)
