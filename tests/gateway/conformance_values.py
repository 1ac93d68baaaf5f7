"""Requests whose values decide the answer: what each kind of column takes, and what a model may answer."""

from __future__ import annotations

from typing import Any

from tests.gateway.conformance_requests import (
    BODIES,
    CSV,
    PARQUET,
    ROW,
    SHAPES,
    TABLES,
    Sent,
    columns,
    csv,
    each,
    parquet,
    records,
    split,
    without,
)


def cells(spelled: str) -> list[str]:
    """Return cells as JSON spells them, given with spaces between them."""
    return spelled.split()


NUMBERS = cells(
    "1e16 1e-5 1e-7 1.5e300 5e-324 1e308 0.1 123456789012.0 -0.0 -0 1E3 7 0 1 7.5 9007199254740993 4294967296 "
    "2147483648 -2147483649 9223372036854775807 9223372036854775808 -9223372036854775809 18446744073709551616 "
    "123456789012345678901234567890 1e400 -1e400 NaN Infinity -Infinity"
)
OTHERS = cells(
    'null true false "" "7" "7.0" "far" "nan" "inf" "1e3" "1_000" "0x10" "JFK" "null" "True" "2013-01-01" "/w==" '
    '"\\ud800" "\\u0000" "\\ud83d\\ude00" "é" "a\\nb" [] [7] {} {"a":1}'
)
OTHERS += ['" 7 "']
MALFORMED = cells(r"""01 1. .5 +1 0x10 tru '7' [1,] -- 1e nan - "\x" " """)
MALFORMED += ['"\t"', ""]

LINE = each(
    ROW, {"origin": NUMBERS + OTHERS, "distance": NUMBERS + OTHERS + MALFORMED, "hour": NUMBERS + OTHERS}
)
TYPED: dict[str, Any] = {
    "double": 1.5,
    "float": 0.5,
    "integer": 3,
    "long": 2**40,
    "boolean": True,
    "text": "a",
    "moment": "2013-01-01T10:00:00",
}
MOMENTS = cells(
    '"2013-01-01" "2013-01-01T10:00:00Z" "2013-01-01T10:00:00+02:00" "2013-01-01T10:00:00.123456789" "01/02/2013" '
    '"2013-02-30" "9999-12-31" "10000-01-01" "1600-01-01" "yesterday" "NaT" "" "x" 1370000000 1370000000000000000 '
    "1.5 null true [] {}"
)
MOMENTS += ['"2013-01-01 10:00"']
NESTED = cells(
    'null [] [1.5] [1] ["a"] [null] [[1.5]] {} 7 "x" {"left":1} {"left":1.5} {"left":"a"} {"left":null} {"right":1} '
    '{"left":1,"right":2}'
)
CELLS = each(
    TYPED,
    dict.fromkeys(
        ("double", "float", "integer", "long", "boolean", "text", "maybe", "note"), NUMBERS + OTHERS
    )
    | {
        "moment": MOMENTS,
        "blob": ['"/w=="', '"YQ=="', '"Y"', '""', '"é"', "null", "7", "[]"],
        "series": NESTED,
        "box": NESTED,
    },
)
CELLS |= {f"without {name}": Sent(records(without(TYPED, name))) for name in TYPED}
CELLS |= {
    "two rows of which one is null": Sent(records(TYPED, dict.fromkeys(TYPED))),
    "null whole numbers among others": Sent(records(TYPED, TYPED | {"integer": None, "long": None})),
    "whole numbers that turn to fractions": Sent(records(TYPED, TYPED | {"long": 1.5})),
    "numbers and texts in a column": Sent(records(TYPED, TYPED | {"text": 7, "double": "8"})),
    "a column that only the second row has": Sent(records(TYPED, TYPED | {"maybe": 1.5, "note": "b"})),
    "an extra column": Sent(records(TYPED | {"colour": "red"})),
    "an extra column and a missing one": Sent(records(without(TYPED, "text") | {"colour": "red"})),
    "split": Sent(split(TYPED, TYPED | {"text": None, "boolean": False})),
    "columns": Sent(columns("inputs", TYPED, TYPED)),
    "named instances": Sent({"instances": [TYPED, TYPED]}),
    "one row of scalars": Sent({"inputs": TYPED}),
    "rows without names": Sent({"inputs": [list(TYPED.values())]}, excuse="unnamed"),
}


def answered(way: str, rows: int = 3, excuse: str | None = None, **params: Any) -> Sent:
    return Sent(records(*[TYPED] * rows, params={"answer": way} | params), excuse=excuse)


PARAMS = {
    "params": {"factor": 2.5, "count": 3, "strict": True, "weights": [1.0, 2.5]},
    "a whole number for a double": {"factor": 2},
    "a double for a whole number": {"count": 2.5},
    "text for a double": {"factor": "2.5"},
    "null for a double": {"factor": None},
    "a list for a double": {"factor": [2.5]},
    "a double for a list": {"weights": 2.5},
    "a list of texts": {"weights": ["a"]},
    "an empty list": {"weights": []},
    "a number for a truth value": {"strict": 1},
    "a huge whole number": {"count": 10**30},
    "an infinite double": {"factor": float("inf")},
    "unknown": {"colour": "red"},
    "unknown among known": {"colour": "red", "count": 2},
    "an object": {"factor": {"a": 1}},
}
ANSWERS = {name: Sent(records(TYPED, params=params)) for name, params in PARAMS.items()}
ANSWERS |= {
    f"an answer that is {way}": answered(way)
    for way in ("number", "series", "frame", "mapping", "scalar", "nothing", "not_finite", "binary")
}
ANSWERS |= {
    "an answer to no row": answered("echo", rows=0),
    "an answer to one row": answered("number", rows=1),
    "an answer that JSON cannot write": answered("unserialisable", excuse="fails"),
    "a model that raises": answered("raising"),
    "a model that refuses": answered("refusing"),
    "a model that is overloaded": answered("overloaded"),
    "an answer of numbers that are written in many ways": Sent(
        records(*(TYPED | {"double": float(number)} for number in NUMBERS[:14]), params={"answer": "number"})
    ),
    "an answer of texts that are escaped": Sent(
        records(*(TYPED | {"text": text} for text in ("é", "\U0001f600", '"\\\n', "\x7f", "<>&", "\u2028"))),
    ),
}

TENSOR = {
    "a tensor": Sent({"inputs": [[1, 2, 3], [4.5, 5, 6]]}),
    "instances": Sent({"instances": [[1, 2, 3], [4.5, 5, 6]]}),
    "split": Sent({"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}}),
    "split without columns": Sent({"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6]]}}),
    "records": Sent(records({"a": 1, "b": 2, "c": 3})),
    "two columns": Sent({"inputs": [[1, 2]]}),
    "one dimension": Sent({"inputs": [1, 2, 3]}),
    "three dimensions": Sent({"inputs": [[[1, 2, 3]]]}),
    "ragged": Sent({"inputs": [[1, 2, 3], [1]]}),
    "texts": Sent({"inputs": [["1", "2", "3"]]}),
    "texts that are no numbers": Sent({"inputs": [["a", "b", "c"]]}, excuse="unnamed"),
    "nulls": Sent({"inputs": [[None, 2, 3]]}),
    "truth values": Sent({"inputs": [[True, False, True]]}),
    "huge numbers": Sent({"inputs": [[10**30, 2, 3]]}),
    "objects": Sent({"inputs": [{"a": 1}, 7]}),
    "no rows": Sent({"inputs": []}),
    "empty rows": Sent({"inputs": [[], []]}),
    "infinite": Sent('{"inputs": [[Infinity, NaN, -Infinity]]}'),
    "csv": Sent("a,b,c\n1,2,3\n", CSV),
    "parquet": Sent(parquet({"a": 1.0, "b": 2.0, "c": 3.0}), PARQUET),
    "params": Sent({"inputs": [[1, 2, 3]], "params": {"colour": "red"}}),
}

PIXELS = {"pixels": [[1, 2], [3.5, 4]], "count": [7, 8]}
TENSORS = {
    "columns": Sent({"inputs": PIXELS}),
    "columns as instances": Sent({"instances": PIXELS}),
    "rows": Sent({"instances": [{"pixels": [1, 2], "count": 7}, {"pixels": [3.5, 4], "count": 8}]}),
    "rows as inputs": Sent({"inputs": [{"pixels": [1, 2], "count": 7}, {"pixels": [3.5, 4], "count": 8}]}),
    "records": Sent(records({"pixels": [1, 2], "count": 7}, {"pixels": [3.5, 4], "count": 8})),
    "split": Sent(split({"pixels": [1, 2], "count": 7})),
    "without one": Sent({"inputs": {"pixels": [[1, 2]]}}),
    "an extra one": Sent({"inputs": PIXELS | {"colour": [1, 2]}}),
    "of the wrong shape": Sent({"inputs": {"pixels": [[1, 2, 3]], "count": [7]}}),
    "of unequal length": Sent({"inputs": {"pixels": [[1, 2]], "count": [7, 8]}}),
    "of unequal length as instances": Sent({"instances": {"pixels": [[1, 2]], "count": [7, 8]}}),
    "fractions for whole numbers": Sent({"inputs": {"pixels": [[1, 2]], "count": [7.5]}}),
    "texts": Sent({"inputs": {"pixels": [["a", "b"]], "count": [7]}}),
    "nulls": Sent({"inputs": {"pixels": [[None, 2]], "count": [None]}}),
    "too large": Sent({"inputs": {"pixels": [[1e300, 2]], "count": [2**63]}}),
    "a tensor": Sent({"inputs": [[1, 2]]}),
    "scalars": Sent({"inputs": {"pixels": 1, "count": 7}}),
    "csv": Sent("pixels,count\n1,2\n", CSV),
}

FLIGHTS = {
    "a flight": Sent({"inputs": [ROW]}),
    "flights": Sent({"inputs": [ROW, without(ROW, "hour")]}),
    "a text for a number": Sent({"inputs": [ROW | {"distance": "200.5"}]}),
    "a text that is no number": Sent({"inputs": [ROW | {"distance": "far"}]}),
    "a fraction for a whole number": Sent({"inputs": [ROW | {"hour": 7.5}]}),
    "a missing field": Sent({"inputs": [without(ROW, "origin")]}),
    "an extra field": Sent({"inputs": [ROW | {"colour": "red"}]}),
    "null": Sent({"inputs": [ROW | {"hour": None}]}),
    "not a list": Sent({"inputs": ROW}),
    "instances": Sent({"instances": [ROW]}),
    "split": Sent(split(ROW)),
    "two keys": Sent({"inputs": [ROW], "instances": [ROW]}),
    "csv": Sent(csv(ROW), CSV),
    "parquet": Sent(parquet(ROW), PARQUET),
}

REQUESTS: dict[str, dict[str, dict[str, Sent]]] = {
    "line": {"shapes": SHAPES, "cells": LINE, "tables": TABLES, "bodies": BODIES},
    "typed": {"shapes": SHAPES, "cells": CELLS, "answers": ANSWERS, "tables": TABLES},
    "free": {"shapes": SHAPES, "cells": LINE, "tables": TABLES, "bodies": BODIES},
    "tensor": {"shapes": SHAPES, "tensors": TENSOR},
    "tensors": {"shapes": SHAPES, "tensors": TENSORS},
    "hinted": {"shapes": SHAPES, "flights": FLIGHTS},
}
