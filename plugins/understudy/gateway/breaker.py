"""Stops asking an arm that keeps failing, and finds out when it has recovered.

A state machine without clock, threads or input of its own: the caller passes monotonic seconds and reports how each call
ended. Closed, every call is let through. Open, none is. Half-open, one at a time is, to see whether the arm has
recovered.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal

from understudy.spec import Breaker as Rules

__all__ = ["PROBES", "Breaker", "State"]

PROBES = 3
"""How many single calls in a row must succeed before all are let through again."""

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The breaker of one version.

    Args:
        rules: When it opens and how long it rests.

    Attributes:
        state: Whether calls are let through.
        opened: How often it went from closed to open.
        reason: Why it is not closed; nothing while it is.
    """

    def __init__(self, rules: Rules) -> None:
        self.state: State = "closed"
        self.opened = 0
        self.reason: str | None = None
        self._rules = rules
        self._last: deque[str | None] = deque(maxlen=rules.calls)
        self._failures = 0
        self._resting_until = 0.0
        # Calls that began before the last change of state say nothing about the present one.
        self._phase = 0
        self._probing = False
        self._recovered = 0

    def admit(self, now: float) -> int | None:
        """Return a ticket for one call, or nothing while the arm is left alone.

        Every ticket must be handed back once, through `succeeded`, `failed` or `abandoned`.

        Args:
            now: Monotonic seconds.
        """
        if self.state == "open" and now >= self._resting_until:
            self._enter("half-open")
        if self.state == "open" or self._probing:
            return None
        self._probing = self.state == "half-open"
        return self._phase

    def succeeded(self, ticket: int, now: float, seconds: float) -> bool:
        """Report an answer that could be used.

        Args:
            ticket: What `admit` returned.
            now: Monotonic seconds.
            seconds: How long the call took; beyond the latency budget it counts as failed.

        Returns:
            Whether this opened the breaker, which is when somebody should be told.
        """
        budget = self._rules.latency
        slow = budget is not None and seconds > budget
        return self._record(ticket, now, "Slow" if slow else None)

    def failed(self, ticket: int, now: float, kind: str) -> bool:
        """Report a call without a usable answer.

        Args:
            ticket: What `admit` returned.
            now: Monotonic seconds.
            kind: What went wrong, in a word that quotes nothing of the request.

        Returns:
            Whether this opened the breaker.
        """
        return self._record(ticket, now, kind)

    def abandoned(self, ticket: int) -> None:
        """Hand back the ticket of a call that says nothing about the arm, such as one with bad input."""
        if ticket == self._phase:
            self._probing = False

    def _record(self, ticket: int, now: float, kind: str | None) -> bool:
        if ticket != self._phase:
            return False
        if self.state == "half-open":
            self._judge_probe(now, kind)
            return False
        full = len(self._last) == self._rules.calls
        self._failures += (kind is not None) - (full and self._last[0] is not None)
        self._last.append(kind)
        if len(self._last) < self._rules.calls or self._failures < self._rules.error_rate * self._rules.calls:
            return False
        kinds = Counter(kind for kind in self._last if kind is not None).most_common()
        told = ", ".join(f"{kind} {count}" for kind, count in kinds)
        self.reason = f"{self._failures} of the last {len(self._last)} calls failed ({told})"
        self.opened += 1
        self._rest(now)
        return True

    def _judge_probe(self, now: float, kind: str | None) -> None:
        self._probing = False
        if kind is not None:
            self.reason = f"a call that was to show recovery failed ({kind})"
            self._rest(now)
            return
        self._recovered += 1
        if self._recovered == PROBES:
            self.reason = None
            self._enter("closed")

    def _rest(self, now: float) -> None:
        self._resting_until = now + self._rules.rest
        self._enter("open")

    def _enter(self, state: State) -> None:
        self.state = state
        self._phase += 1
        self._probing = False
        self._recovered = 0
        self._last.clear()
        self._failures = 0
