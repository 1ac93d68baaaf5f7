"""Results as plain JSON values: arrays become lists, and what is not a finite number becomes null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["plain", "plain_fields"]


def plain(value: Any) -> Any:
    """Return a JSON-safe copy: NaN and infinity become None, so that nobody reads them as numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def plain_fields(result: DataclassInstance) -> dict[str, Any]:
    """Return every field of a dataclass as a JSON-safe value."""
    return {field.name: plain(getattr(result, field.name)) for field in fields(result)}
