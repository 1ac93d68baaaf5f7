"""What is answered in one turn of the event loop is written at once, and nobody is told before that."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from understudy.events.writer import EventsUnwritable
from understudy.gateway.commit import GroupCommit


class Log:
    """Lines are the requests' own names; a write fails, or one line cannot be made, if it is told so."""

    def __init__(self, *, full: bool = False, no_line_for: str | None = None) -> None:
        self.written: list[list[str]] = []
        self.full, self.no_line_for = full, no_line_for

    def line(self, served: Any, answered: str) -> str:
        if answered == self.no_line_for:
            raise TypeError("a value that has no text")
        return answered

    def write(self, lines: list[str]) -> None:
        if self.full:
            raise EventsUnwritable("the disk is full")
        self.written.append(lines)


class Rows:
    """A request of so many rows."""

    def __init__(self, size: int = 1) -> None:
        self.batch = self
        self.size = size


def told(log: Log, turns: list[list[tuple[str, int]]]) -> list[tuple[str, bool | None, int]]:
    """Answer some requests turn by turn; return what each was told, and how many writes there were by then."""
    found: list[tuple[str, bool | None, int]] = []

    async def live() -> None:
        commit = GroupCommit(log)  # type: ignore[arg-type]
        for turn in turns:
            for name, rows in turn:
                commit.add(Rows(rows), name, partial(note, name))  # type: ignore[arg-type]
            await asyncio.sleep(0)

    def note(name: str, logged: bool | None) -> None:
        found.append((name, logged, len(log.written)))

    asyncio.run(live())
    return found


def test_a_turn_is_one_write_and_everybody_is_told_after_it() -> None:
    log = Log()
    assert told(log, [[("a", 1), ("b", 1)], [], [("c", 1)]]) == [
        ("a", True, 1),
        ("b", True, 1),
        ("c", True, 2),
    ]
    assert log.written == [["a", "b"], ["c"]]


def test_much_is_written_at_once_and_the_rest_at_the_end_of_the_turn() -> None:
    log = Log()
    asked = [("a", 10), ("b", 100), ("c", 1), ("d", 1000), ("e", 1)]
    assert [name for name, logged, _ in told(log, [asked]) if logged] == ["a", "b", "c", "d", "e"]
    assert log.written == [["a", "b"], ["c", "d"], ["e"]]


def test_where_nothing_can_be_written_everybody_is_told_so() -> None:
    assert told(Log(full=True), [[("a", 1), ("b", 1)]]) == [("a", False, 0), ("b", False, 0)]


def test_one_that_has_no_line_leaves_none_of_its_turn_half_told() -> None:
    log = Log(no_line_for="b")
    assert told(log, [[("a", 1), ("b", 1)], [("c", 1)]]) == [("a", None, 0), ("b", None, 0), ("c", True, 1)]
    assert log.written == [["c"]]


def test_one_caller_that_cannot_be_told_does_not_cost_the_others_their_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[bool | None] = []

    def broken(logged: bool | None) -> None:
        raise RuntimeError("secret")

    async def live() -> None:
        commit = GroupCommit(Log())  # type: ignore[arg-type]
        for listener in (heard.append, broken, heard.append):
            commit.add(Rows(), "a", listener)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(live())
    assert heard == [True, True]
    assert "an answer was lost: RuntimeError" in caplog.text
    assert "secret" not in caplog.text
