"""Arrays as JSON: nothing that is not a finite number survives."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from understudy.stats.plain import plain, plain_fields


@dataclass(frozen=True)
class Result:
    values: object
    reason: str


def test_every_kind_of_value_becomes_plain_json() -> None:
    values = {
        "array": np.array([[1.0, math.nan], [math.inf, -math.inf]]),
        "nothing": np.empty((0, 2)),
        "point": np.float64(math.nan),
        "flag": np.array([True, False]),
        "text": np.array(["", "zero_variance"]),
        1: (np.int64(3), None, 2.5),
    }
    found = plain_fields(Result(values, "why"))
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "values": {
            "array": [[1.0, None], [None, None]],
            "nothing": [],
            "point": None,
            "flag": [True, False],
            "text": ["", "zero_variance"],
            "1": [3, None, 2.5],
        },
        "reason": "why",
    }
    assert plain(-0.0) == 0
