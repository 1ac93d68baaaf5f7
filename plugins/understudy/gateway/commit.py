"""Group commit: what one turn of the event loop has answered reaches the log in one write, and only then the callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from understudy.events.writer import EventsUnwritable
from understudy.gateway.request_log import RequestLog, Served
from understudy.gateway.scoring import Answered

__all__ = ["Done", "GroupCommit"]

Done = Callable[[bool | None], None]
"""Called with whether a line is in the log; with nothing where it could not be made."""

# To let more wait costs more than it saves: ADR 15 has the figures.
_MOST_ROWS = 32
_log = logging.getLogger(__name__)


class GroupCommit:
    """Collects the answers of a turn of the event loop and writes their lines at its end.

    Under load many requests arrive in one turn. One write for all of them, by code that runs for one after the other, costs much
    less than doing it all anew for each; the first of a turn waits for the last.

    Args:
        log: The log.
    """

    def __init__(self, log: RequestLog) -> None:
        self._log = log
        self._rows = 0
        self._waiting: list[tuple[Served, Answered, Done]] = []

    def add(self, served: Served, answered: Answered, told: Done) -> None:
        """Write the line of an answer at the end of this turn, or at once if much waits.

        Args:
            served: The request.
            answered: How it was answered.
            told: Called once, after that.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.commit)
        self._waiting.append((served, answered, told))
        self._rows += served.batch.size
        if self._rows >= _MOST_ROWS:
            self.commit()

    def commit(self) -> None:
        """Write the lines of all that wait, and tell them."""
        waiting, self._waiting, self._rows = self._waiting, [], 0
        if not waiting:
            return
        logged: bool | None = True
        try:
            self._log.write([self._log.line(served, answered) for served, answered, _ in waiting])
        except EventsUnwritable:
            logged = False
        except (
            Exception
        ):  # one of them has no line: each is answered alone, where that one is told what is wrong
            logged = None
        for _, _, told in waiting:
            try:
                told(logged)
            except Exception as error:  # the others are still owed theirs
                _log.error("an answer was lost: %s", type(error).__name__)
