"""Trace context in the form of the W3C recommendation: ``version-trace_id-parent_id-flags`` in lower-case hex.

Source: https://www.w3.org/TR/trace-context/, section 3.2. A header that breaks a rule is treated as if it were not there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["CURRENT", "TraceContext", "current", "parse", "trace_id_of", "within"]

# Version 00 ends after the flags. Later versions may add fields behind another "-"; version ff does not exist.
_TRACEPARENT = re.compile(
    r"(?:00|(?!00|ff)([0-9a-f]{2}))-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?(1)(?:-.*)?|)"
)
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace.

    Attributes:
        trace_id: 32 hex digits, the same for everything that belongs together.
        span_id: 16 hex digits, one piece of work.
        sampled: Whether whoever began the trace records it.
    """

    trace_id: str
    span_id: str
    sampled: bool = True

    @classmethod
    def new(cls) -> TraceContext:
        """Begin a trace."""
        return cls(_digits(16), _digits(8))

    def child(self) -> TraceContext:
        """Return a new piece of work in the same trace."""
        return TraceContext(self.trace_id, _digits(8), self.sampled)

    @property
    def traceparent(self) -> str:
        """The header, 55 characters."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


CURRENT: ContextVar[TraceContext | None] = ContextVar("understudy_trace", default=None)
"""The innermost piece of work under way in this thread or asynchronous task; `span` sets it."""


def current() -> TraceContext | None:
    """Return the place in a trace where this code runs, if it runs in one."""
    return CURRENT.get()


def parse(traceparent: str | None) -> TraceContext | None:
    """Read a ``traceparent`` header.

    Args:
        traceparent: Its value, if there was one.

    Returns:
        What it says; None when there is none or it breaks a rule: wrong length, letters that are no lower-case hex
        digits, ids that are all zero, version ``ff``.
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return None
    return TraceContext(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id of a ``traceparent`` header, or None as `parse` does; made for the hot path."""
    if not traceparent:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[2] if found else None


@contextmanager
def within(traceparent: str | None) -> Iterator[None]:
    """Run a block as part of work elsewhere: that is `current` meanwhile.

    Args:
        traceparent: W3C trace context of that work; where there is none, or a bad one, nothing changes.
    """
    token = CURRENT.set(parse(traceparent) or current())
    try:
        yield
    finally:
        CURRENT.reset(token)


def _digits(size: int) -> str:
    """Return random bytes as hex digits that are not all zero."""
    while True:
        digits = secrets.token_hex(size)
        if digits.strip("0"):
            return digits
