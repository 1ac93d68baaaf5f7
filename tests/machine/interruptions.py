"""Where a process may die, or stand still while another one acts: before and after everything that it writes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from understudy.store import Store

__all__ = ["Interruptions", "Killed", "ObservedStore"]


class Killed(BaseException):
    """Stands for a process that is gone: no handler of errors sees it."""


class Interruptions:
    """Counts what a step writes, and interrupts it once, where a test says so."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._act: Callable[[], None] | None = None
        self._locked = 0
        self.happened: str | None = None

    def arm(self, after: int | None, act: Callable[[], None] | None = None) -> None:
        """Interrupt at the so-manieth point from now on: by an act of somebody else, or else by death."""
        self._left, self._act, self.happened = after, act, None

    def reached(self, where: str) -> None:
        """Say that a point is reached at which a process may be interrupted."""
        if self._left is None or (self._act and self._locked):
            return
        self._left -= 1
        if self._left >= 0:
            return
        act = self._act
        self.arm(None)
        self.happened = where
        if act is None:
            raise Killed(where)
        act()

    def flock(self, handle: Any, operation: int) -> None:
        """Stands in for `fcntl.flock`: another process may be faster at a lock."""
        self.reached("before a lock")
        fcntl_flock(handle, operation)

    def publishing(self, publish: Callable[..., None], *arguments: Any) -> None:
        """Stands around what publishes under the lock, so that nobody else can be in between."""
        self._locked += 1
        try:
            self.reached("before publishing")
            publish(*arguments)
            self.reached("after publishing")
        finally:
            self._locked -= 1


fcntl_flock = fcntl.flock


class ObservedStore(Store):
    """The real store, which may be interrupted around every write and tells of each one.

    Attributes:
        interruptions: What may happen around writes.
        wrote: Called after every write.
        unwritable: Whether the database refuses to be written.
    """

    interruptions = Interruptions()
    unwritable = False

    @staticmethod
    def wrote() -> None:
        """Nobody wants to know."""

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.interruptions.reached("before a write")
        with super().write() as connection:
            if not self.unwritable:
                yield connection
            else:
                with _refusing(connection):
                    yield connection
        self.wrote()
        self.interruptions.reached("after a write")


@contextmanager
def _refusing(connection: Connection) -> Iterator[None]:
    """Have the database itself refuse writes."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        yield
        return
    connection.exec_driver_sql("PRAGMA query_only = ON")
    try:
        yield
    finally:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
