"""The kinds of fields an experiment file is made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Column", "Declared", "Name", "Seconds", "below_the_data_folder"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def _seconds(value: object) -> object:
    """Turn ``90``, ``"90s"``, ``"5m"``, ``"2h"`` or ``"7d"`` into seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError(
                f"{value!r} is not a duration; write a number and a unit, like 30s, 5m, 2h or 7d"
            )
        return float(match[1]) * _UNITS[match[2]]
    return value


Seconds = Annotated[
    float,
    BeforeValidator(
        _seconds, json_schema_input_type=float | Annotated[str, Field(pattern=f"^{_DURATION.pattern}$")]
    ),
    Field(gt=0, allow_inf_nan=False),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Column = Annotated[str, Field(min_length=1, max_length=120)]


class Declared(BaseModel):
    """Something a user declares: unknown fields are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


def below_the_data_folder(value: str) -> str:
    """Return a dataset's path unchanged; refuse one that is absolute or climbs."""
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError(f"{value!r} leaves the data folder; give a path relative to UNDERSTUDY_DATA")
    return value
