"""Reads what came of earlier requests. A list is taken as a whole or not at all."""

from __future__ import annotations

import math
import re
from typing import Any

from understudy.gateway.protocol import bad_request

__all__ = ["MOST_VALUES", "read_outcomes"]

MOST_VALUES = 32
"""How many named numbers one outcome may carry."""

_NAME_LENGTH = 60
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHAPE = (
    '{"outcomes": [{"event_id": "...", "outcome": 1, "values": {"revenue": 3.2}, "occurred_at": 1700000000}]}'
)


def read_outcomes(content: dict[str, Any], received_at: float) -> list[dict[str, Any]]:
    """Check the body of ``POST /outcomes``.

    Args:
        content: The parsed body.
        received_at: Unix seconds.

    Returns:
        One log line per outcome; ``outcome`` and ``values`` are null where the item has none, never both.

    Raises:
        MlflowException: With the position of the first bad item, its field and the rule.
    """
    items = content.get("outcomes")
    if not isinstance(items, list) or set(content) != {"outcomes"}:
        raise bad_request(
            f"The body must have exactly one field, `outcomes`, and it must be a list, like {_SHAPE}."
        )
    return [_outcome(item, position, received_at) for position, item in enumerate(items)]


def _outcome(item: Any, position: int, received_at: float) -> dict[str, Any]:
    where = f"Item {position} of `outcomes`"
    if not isinstance(item, dict):
        raise bad_request(
            f"{where} is a {type(item).__name__}, but must be an object, like those in {_SHAPE}."
        )
    event_id = item.get("event_id")
    if not isinstance(event_id, str) or not event_id or not event_id.isprintable():
        raise bad_request(
            f"{where}: `event_id` must be the text that named the request. Nothing was recorded."
        )
    values = _values(item.get("values"), where)
    outcome = item.get("outcome")
    if outcome is not None or values is None:
        outcome = _number(
            outcome, "outcome", where, "a finite number; only where `values` has some it may be missing"
        )
    return {
        "event_id": event_id,
        "outcome": outcome,
        "values": values,
        "occurred_at": _number(item.get("occurred_at"), "occurred_at", where),
        "received_at": received_at,
    }


def _values(given: Any, where: str) -> dict[str, float] | None:
    """Return the named numbers of an item, true as 1 and false as 0; nothing where there are none."""
    if given is None or given == {}:
        return None
    if not isinstance(given, dict):
        raise bad_request(
            f"{where}: `values` is a {type(given).__name__}, but must be an object of names and numbers, like those in "
            f"{_SHAPE}. Nothing was recorded."
        )
    if len(given) > MOST_VALUES:
        raise bad_request(
            f"{where}: `values` has {len(given)} names, but may have at most {MOST_VALUES}. Nothing was recorded."
        )
    return {
        _name(name, where): float(value)
        if isinstance(value, bool)
        else _number(value, f"values.{name}", where, "a finite number, true or false")
        for name, value in given.items()
    }


def _name(name: str, where: str) -> str:
    if len(name) > _NAME_LENGTH or not _NAME.fullmatch(name):
        raise bad_request(
            f"{where}: `values` has the name {name[:_NAME_LENGTH]!r}; a name starts with a small letter, goes on with "
            f"small letters, digits and _, and has at most {_NAME_LENGTH} characters. Nothing was recorded."
        )
    return name


def _number(value: Any, field: str, where: str, rule: str = "a finite number") -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise bad_request(f"{where}: `{field}` must be {rule}. Nothing was recorded.")
    return number
