"""Reads what came of earlier requests. A list is taken as a whole or not at all."""

from __future__ import annotations

from typing import Any

from understudy.events.lines import OutcomeLine
from understudy.events.outcomes import BadOutcome, read_outcome
from understudy.gateway.protocol import bad_request

__all__ = ["read_outcomes"]

_SHAPE = (
    '{"outcomes": [{"event_id": "...", "outcome": 1, "values": {"revenue": 3.2}, "occurred_at": 1700000000}]}'
)


def read_outcomes(content: dict[str, Any], received_at: float) -> list[OutcomeLine]:
    """Check the body of ``POST /outcomes``.

    Args:
        content: The parsed body.
        received_at: Unix seconds.

    Raises:
        MlflowException: With the position of the first bad item, its field and the rule.
    """
    items = content.get("outcomes")
    if not isinstance(items, list) or set(content) != {"outcomes"}:
        raise bad_request(
            f"The body must have exactly one field, `outcomes`, and it must be a list, like {_SHAPE}."
        )
    return [_outcome(item, position, received_at) for position, item in enumerate(items)]


def _outcome(item: Any, position: int, received_at: float) -> OutcomeLine:
    where = f"Item {position} of `outcomes`"
    if not isinstance(item, dict):
        raise bad_request(
            f"{where} is a {type(item).__name__}, but must be an object, like those in {_SHAPE}."
        )
    try:
        return read_outcome(item, received_at)
    except BadOutcome as error:
        raise bad_request(f"{where}: {error}. Nothing was recorded.") from None
