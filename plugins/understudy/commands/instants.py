"""Moments as people write them, and as they are shown to people."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from understudy.errors import BadParameter

__all__ = ["instant", "shown"]


def instant(text: str) -> float:
    """Return a moment in Unix seconds.

    Args:
        text: Unix seconds, or ISO 8601 with a time zone.

    Raises:
        BadParameter: It is neither, or has no time zone.
    """
    try:
        seconds = float(text)
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        seconds = math.nan
    if math.isfinite(seconds):
        return seconds
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        why = "has no time zone" if when else "is no time"
        raise BadParameter(
            f"{text!r} {why}. Write Unix seconds, or ISO 8601 with a time zone: 2026-11-21T14:00:00Z, 2026-11-21T15:00+01:00."
        )
    return when.timestamp()


def shown(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
