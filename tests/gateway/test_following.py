"""Following the flag document through faults, with clocks of its own: nothing that goes wrong ever raises exposure."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from understudy.exposure import Exposure, publish
from understudy.gateway.pool import ModelPool


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


def test_a_lease_that_nobody_renews_ends_and_a_renewal_keeps_it(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        watched.passes(LEASE - 1)
        await watched.looks()
        assert watched.percent == 5.0
        await watched.follows(replace(RUN, lease_expires_at=int(watched.wall + LEASE)))
        watched.passes(LEASE - 1)
        await watched.looks()
        assert watched.percent == 5.0
        watched.passes(1)
        assert watched.percent == 0.0
        await watched.looks()
        assert watched.served == replace(RUN, run_id=None, percent=0.0, stage=0, lease_expires_at=None)
        assert "lease of generation 7 is over" in watched.error

    play(scene)


@pytest.mark.parametrize("back", [60.0, 3600.0, 1e9])
def test_a_wall_clock_that_is_set_back_does_not_make_a_lease_longer(back: float, play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        watched.passes(10)
        watched.wall -= back
        await watched.looks()
        assert watched.percent == 5.0
        watched.passes(LEASE - 10)
        await watched.looks()
        assert watched.percent == 0.0
        assert "steady clock" in watched.error

    play(scene)


@pytest.mark.parametrize("ahead", [600, 10**9, 10**12])
def test_a_lease_that_ends_absurdly_late_ends_in_time(ahead: int, play: Play) -> None:
    async def scene(watched: Watched) -> None:
        # The gateway's clock is slow, or the document was written by hand: either way it looks the same from here.
        await watched.follows(replace(RUN, lease_expires_at=int(NOW) + ahead))
        assert watched.percent == 5.0
        watched.passes(LEASE)
        await watched.looks()
        assert watched.percent == 0.0
        # The same again is no renewal.
        await watched.follows(replace(RUN, lease_expires_at=int(NOW) + ahead))
        assert watched.percent == 0.0

    play(scene)


def test_a_wall_clock_that_jumps_ahead_ends_the_lease_and_one_second_too_early_is_not_too_late(
    play: Play,
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        watched.wall += 3600
        assert watched.percent == 0.0
        await watched.looks()
        watched.wall -= 3600
        watched.passes(LEASE)
        await watched.looks()
        assert watched.percent == 0.0

    play(scene)


REFUSED: dict[str, tuple[Exposure, str]] = {
    "a lower generation": (replace(RUN, generation=6, percent=100.0), "went back to generation 6"),
    "a lower generation with another champion": (Exposure(MODEL, 1, "9"), "went back to generation 1"),
    "more percent without a new generation": (replace(RUN, percent=50.0), "without a new generation"),
    "a ring without a new generation": (replace(RUN, rings=(("a=b", 50.0),)), "without a new generation"),
    "another challenger without a new generation": (replace(RUN, challenger="3"), "without a new generation"),
    "the document of another model": (replace(RUN, model="other", generation=99, percent=50.0), "no flag"),
}


@pytest.mark.parametrize(("document", "said"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("restarted", [False, True])
def test_a_document_that_may_not_be_accepted_changes_nothing_before_or_after_a_restart(
    document: Exposure, said: str, restarted: bool, play: Play
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        assert watched.percent == 5.0
        if restarted:
            watched.restart()
        await watched.follows(document)
        assert said in watched.error
        if restarted:
            # The registry's champion answers; nobody is exposed by a document that is not accepted.
            assert watched.served == Exposure(MODEL, 0, "1")
        else:
            assert watched.served == RUN
        await watched.follows(replace(RUN, generation=8, percent=25.0))
        assert (watched.percent, watched.error) == (25.0, "")

    play(scene)


def _replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replaced_by_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _grown_huge(path: Path) -> None:
    with path.open("ab") as stream:
        stream.truncate(1 << 40)


def _in_a_folder_that_is_gone(path: Path) -> None:
    path.unlink()


def _with_a_rule_of_its_own(path: Path) -> None:
    document = json.loads(path.read_text())
    document["flags"][MODEL]["metadata"] |= {"generation": 8, "percent": 1e9}
    path.write_text(json.dumps(document))


FAULTS = {
    "torn": torn,
    "empty": emptied,
    "a folder": replaced_by_a_folder,
    "a pipe": _replaced_by_a_pipe,
    "a loop of links": _replaced_by_a_loop,
    "huge": _grown_huge,
    "gone": _in_a_folder_that_is_gone,
    "out of range": _with_a_rule_of_its_own,
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS.keys())
def test_a_spoiled_document_leaves_what_was_accepted_until_its_lease_ends(
    spoil: Callable[[Path], None], play: Play
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        spoil(watched.path)
        await watched.looks()
        assert watched.percent == 5.0
        assert watched.error
        watched.passes(LEASE)
        await watched.looks()
        assert watched.percent == 0.0
        assert watched.served
        assert watched.served.champion == "1"
        # A gateway that starts now has only the registry to go by.
        watched.restart()
        await watched.looks()
        assert watched.served == Exposure(MODEL, 0, "1")

    play(scene)


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS.keys())
def test_a_document_that_is_written_again_is_followed_again(
    spoil: Callable[[Path], None], play: Play
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        spoil(watched.path)
        await watched.looks()
        if watched.path.is_dir():
            watched.path.rmdir()
        await watched.follows(Exposure(MODEL, 8, "1"))
        assert (watched.served, watched.error) == (Exposure(MODEL, 8, "1"), "")

    play(scene)


def test_a_document_written_bit_by_bit_is_followed_when_it_is_whole(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        publish(watched.folder / "next.json", [replace(RUN, generation=8, percent=50.0)])
        whole = (watched.folder / "next.json").read_bytes()
        with watched.path.open("wb") as stream:
            for begin in range(0, len(whole), 97):
                stream.write(whole[begin : begin + 97])
                stream.flush()
                watched.follower.step()
                if begin + 97 < len(whole):
                    assert watched.percent == 5.0
        await watched.looks()
        assert watched.percent == 50.0

    play(scene)


def test_what_could_not_be_read_is_tried_again_though_the_file_has_not_changed(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        publish(watched.path, [Exposure(MODEL, 8, "1")])
        with monkeypatch.context() as broken:

            def fails(*_: object) -> int:
                raise PermissionError(13, "Permission denied")

            broken.setattr(os, "open", fails)
            await watched.looks(1)
            assert "PermissionError" in watched.error
            assert watched.percent == 5.0
        await watched.looks()
        assert watched.served == Exposure(MODEL, 8, "1")

    play(scene)


def test_without_an_alias_nothing_is_served_and_both_reasons_are_known(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.alias = None
        await watched.looks()
        assert watched.served is None
        assert "no alias `champion` of delay" in watched.error
        watched.pool.alias = "4"
        watched.passes(2)
        await watched.looks()
        assert watched.served == Exposure(MODEL, 0, "4")
        await watched.follows(RUN)
        assert (watched.percent, watched.error) == (5.0, "")

    play(scene)


def test_growth_never_sends_anybody_back_while_it_is_being_remembered(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        publish(watched.path, [replace(RUN, generation=8, percent=25.0)])
        watched.follower.step()
        assert watched.percent == 5.0
        await watched.looks()
        assert watched.percent == 25.0

    play(scene)


def test_a_withdrawal_waits_for_nothing(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        for generation, smaller in enumerate(
            (
                Exposure(MODEL, 8, "1"),
                Exposure(MODEL, 8, "5"),
                replace(RUN, percent=1.0),
                replace(RUN, contained=("a=b",)),
                replace(RUN, challenger="3"),
            ),
            8,
        ):
            watched.pool.loading = {"5"}
            publish(watched.path, [replace(smaller, generation=generation)])
            watched.follower.step()
            assert watched.percent == 0.0 or watched.served == replace(smaller, generation=generation)
            watched.pool.loading = set()
            await watched.follows(replace(RUN, generation=generation + 10))
            watched.folder.joinpath("accepted", f"{MODEL}.json").unlink()
            watched.restart()
            await watched.follows(RUN)
            assert watched.percent == 5.0

    play(scene)


def test_a_look_that_fails_unexpectedly_ends_neither_following_nor_the_watch_over_the_lease(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(watched: Watched) -> None:
        await watched.follows(RUN)
        with monkeypatch.context() as broken:

            def fails(*_: object) -> Any:
                raise RuntimeError("a bug")

            broken.setattr(watched.follower, "_look", fails)
            watched.wall -= 3600
            watched.passes(LEASE)
            await watched.looks()
            assert "a bug" in watched.error
            assert watched.percent == 0.0
        await watched.follows(Exposure(MODEL, 8, "1"))
        assert watched.error == ""

    play(scene)


def test_the_fake_pool_has_what_the_real_one_has() -> None:
    for name in ("champion", "challenger", "failure", "keep_only", "champion_alias"):
        assert callable(getattr(ModelPool, name))
