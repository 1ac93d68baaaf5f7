"""Reads what came of earlier requests. A list is taken as a whole or not at all."""

from __future__ import annotations

import math
from typing import Any

from understudy.gateway.protocol import bad_request

__all__ = ["read_outcomes"]

_SHAPE = '{"outcomes": [{"event_id": "...", "outcome": 1, "occurred_at": 1700000000}]}'


def read_outcomes(content: dict[str, Any], received_at: float) -> list[dict[str, Any]]:
    """Check the body of ``POST /outcomes``.

    Args:
        content: The parsed body.
        received_at: Unix seconds.

    Returns:
        One log line per outcome.

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
    return {
        "event_id": event_id,
        "outcome": _number(item, "outcome", where),
        "occurred_at": _number(item, "occurred_at", where),
        "received_at": received_at,
    }


def _number(item: dict[str, Any], field: str, where: str) -> float:
    value = item.get(field)
    try:
        number = math.nan if isinstance(value, (bool, str)) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise bad_request(f"{where}: `{field}` must be a finite number. Nothing was recorded.")
    return number
