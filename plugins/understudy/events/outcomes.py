"""The rules for what is told of an event, however it comes: by request or in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from understudy.events.lines import OutcomeLine

__all__ = ["MOST_VALUES", "BadOutcome", "read_outcome"]

MOST_VALUES = 32
"""How many named numbers one outcome may carry."""

_NAME_LENGTH = 60
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class BadOutcome(ValueError):
    """An outcome breaks a rule.

    Args:
        field: The field, ``values.revenue`` for a named number.
        rule: What it must be, as the end of a sentence that starts with the field.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"`{field}` {rule}")
        self.field = field
        self.rule = rule


def read_outcome(item: Mapping[str, Any], received_at: float) -> OutcomeLine:
    """Check one outcome.

    Args:
        item: ``event_id``, ``outcome``, ``values`` and ``occurred_at``; other fields are ignored.
        received_at: Unix seconds at which it was told.

    Returns:
        Its line; ``outcome`` and ``values`` are nothing where the item has none, never both.

    Raises:
        BadOutcome: With the first field that is wrong and its rule.
    """
    event_id = item.get("event_id")
    if not isinstance(event_id, str) or not event_id or not event_id.isprintable():
        raise BadOutcome("event_id", "must be the text that named the request")
    values = _values(item.get("values"))
    outcome = item.get("outcome")
    if outcome is not None or values is None:
        outcome = _number(
            outcome, "outcome", "must be a finite number; only where `values` has some it may be missing"
        )
    return OutcomeLine(
        event_id=event_id,
        outcome=outcome,
        values=values,
        occurred_at=_number(item.get("occurred_at"), "occurred_at"),
        received_at=received_at,
    )


def _values(given: Any) -> dict[str, float] | None:
    """Return the named numbers, true as 1 and false as 0; nothing where there are none."""
    if given is None or given == {}:
        return None
    if not isinstance(given, Mapping):
        raise BadOutcome("values", f"is a {type(given).__name__}, but must be an object of names and numbers")
    if len(given) > MOST_VALUES:
        raise BadOutcome("values", f"has {len(given)} names, but may have at most {MOST_VALUES}")
    return {
        _name(name): float(value)
        if isinstance(value, bool)
        else _number(value, f"values.{name}", "must be a finite number, true or false")
        for name, value in given.items()
    }


def _name(name: str) -> str:
    if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
        raise BadOutcome(
            "values",
            f"has the name {name[:_NAME_LENGTH]!r}; a name starts with a small letter, goes on with small letters, digits "
            f"and _, and has at most {_NAME_LENGTH} characters",
        )
    return name


def _number(value: Any, field: str, rule: str = "must be a finite number") -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadOutcome(field, rule)
    return number
