"""The requests that the gateway and MLflow's own scoring server must answer alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"


EXCUSES = {
    "trace": "Every error of MLflow's server has a stack trace; none of the gateway's has.",
    "quoted": "Where MLflow's error quotes the whole input, the gateway's leaves it out.",
    "undecodable": "MLflow quotes bytes that it cannot decode; the gateway names the place.",
    "unnamed": "Text that stands under no column name may be private and is never quoted.",
    "fails": "MLflow's server fails (500, no MLflow error) on what the gateway refuses or names.",
    "long": "Where MLflow's error is longer than 4,000 characters, the gateway's is cut.",
    "pages": "MLflow's server describes itself in pages that FastAPI makes; the gateway has none of them.",
    "first": "The gateway reads a CSV body before it looks at the signature, so that of two errors it tells the other.",
}
"""How answers may differ. The first two hold for every error, the others for the requests that name them."""


@dataclass(frozen=True)
class Sent:
    """A request to ``/invocations``.

    Attributes:
        body: Bytes or text as they are, anything else as JSON.
        kind: Its content type; nothing leaves the header out.
        excuse: Which of the `EXCUSES` it needs, on one of the models at least.
    """

    body: Any
    kind: str | None = JSON
    excuse: str | None = None

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def records(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"dataframe_records": list(rows), **more}


def split(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows], **more}
    }


def columns(key: str, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key: {name: [row[name] for row in rows] for name in rows[0]}, **more}


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: cell for name, cell in row.items() if name not in names}


def csv(*rows: dict[str, Any]) -> str:
    return "\n".join([",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]) + "\n"


def parquet(*rows: dict[str, Any], index: Any = None) -> bytes:
    import pandas as pd

    file = BytesIO()
    pd.DataFrame(list(rows), index=index).to_parquet(file)
    return file.getvalue()


def spelled(row: dict[str, Any], **cells: str) -> str:
    """Return a body of one record in which some cells are written as given, valid or not."""
    texts = {name: json.dumps(cell) for name, cell in row.items()} | cells
    inner = ", ".join(f'"{name}": {cell}' for name, cell in texts.items())
    return f'{{"dataframe_records": [{{{inner}}}]}}'


def each(row: dict[str, Any], cells: dict[str, list[str]]) -> dict[str, Sent]:
    """Return a request for each cell, the others being those of ``row``."""
    return {
        f"{name} is {cell}": Sent(spelled(row, **{name: cell}))
        for name, some in cells.items()
        for cell in some
    }


ROW: dict[str, Any] = {"origin": "JFK", "distance": 200.5, "hour": 7}
THREE = [ROW, ROW | {"origin": "LGA", "hour": 23}, ROW | {"origin": "XXX", "distance": -1.0}]
SHAPES = {
    "split": Sent(split(*THREE)),
    "split, one row": Sent(split(ROW)),
    "split with an index": Sent(split(*THREE, index=[7, 8, 9])),
    "split with a text index": Sent(split(*THREE, index=["a", "b", "c"])),
    "split with equal index values": Sent(split(*THREE, index=[1, 1, 1])),
    "split with a null index": Sent(split(*THREE, index=None)),
    "split with a short index": Sent(split(*THREE, index=[1])),
    "split with an index that is an object": Sent(split(*THREE, index={"a": 1})),
    "split with columns in another order": Sent(split(dict(reversed(ROW.items())))),
    "split without columns": Sent({"dataframe_split": {"data": [list(ROW.values())]}}, excuse="unnamed"),
    "split without data": Sent({"dataframe_split": {"columns": list(ROW)}}),
    "split without rows": Sent({"dataframe_split": {"columns": list(ROW), "data": []}}),
    "split of nothing": Sent({"dataframe_split": {}}),
    "split with another field": Sent(split(ROW, dtype="x")),
    "split with short rows": Sent({"dataframe_split": {"columns": list(ROW), "data": [["JFK", 1.0]]}}),
    "split with one short row": Sent(
        {"dataframe_split": {"columns": list(ROW), "data": [["JFK", 1.0, 2], ["JFK", 1.0]]}}
    ),
    "split with one short row of a float": Sent(
        {
            "dataframe_split": {
                "columns": ["origin", "hour", "distance"],
                "data": [["JFK", 1, 2.5], ["JFK", 1]],
            }
        }
    ),
    "split with long rows": Sent({"dataframe_split": {"columns": list(ROW), "data": [["JFK", 1.0, 2, 3]]}}),
    "split with a column twice": Sent(
        {"dataframe_split": {"columns": [*ROW, "hour"], "data": [["JFK", 1.0, 2, 3]]}}
    ),
    "split with columns that are numbers": Sent({"dataframe_split": {"columns": [0, 1], "data": [[1.0, 2]]}}),
    "split with columns that are null": Sent({"dataframe_split": {"columns": None, "data": [[1.0, 2]]}}),
    "split with nested columns": Sent(
        {"dataframe_split": {"columns": [["a", "b"], ["a", "c"]], "data": [[1.0, 2]]}}
    ),
    "split with rows that are objects": Sent(
        {"dataframe_split": {"columns": list(ROW), "data": [ROW]}}, excuse="unnamed"
    ),
    "split with rows that are numbers": Sent(
        {"dataframe_split": {"columns": ["distance"], "data": [1.0, 2.0]}}
    ),
    "split with data that is an object": Sent(
        {"dataframe_split": {"columns": ["distance"], "data": {"distance": [1.0, 2.0]}}}
    ),
    "split with data that is a number": Sent({"dataframe_split": {"columns": ["distance"], "data": 7}}),
    "split that is a list": Sent({"dataframe_split": [1]}),
    "split that is null": Sent({"dataframe_split": None}),
    "records": Sent(records(*THREE)),
    "records with a missing cell": Sent(records(ROW, without(ROW, "distance"))),
    "records with a missing cell first": Sent(records(without(ROW, "distance"), ROW)),
    "records with a missing text": Sent(records(ROW, without(ROW, "origin"))),
    "records with a missing whole number": Sent(records(ROW, without(ROW, "hour"))),
    "records with a name that JSON escapes": Sent(records(ROW | {'say "x" \\ \n': 1})),
    "columns with a name that JSON escapes": Sent(columns("inputs", ROW | {'say "x" \\ \n': 1})),
    "records that are empty": Sent({"dataframe_records": []}),
    "records of one empty row": Sent({"dataframe_records": [{}]}),
    "records that are an object": Sent({"dataframe_records": {"a": 1}}),
    "records that are text": Sent({"dataframe_records": "x"}),
    "records that are null": Sent({"dataframe_records": None}),
    "records of numbers": Sent({"dataframe_records": [1, 2]}),
    "records of lists": Sent({"dataframe_records": [["JFK", 1.0, 2]]}, excuse="unnamed"),
    "records and a number": Sent({"dataframe_records": [ROW, 7]}),
    "instances, named": Sent({"instances": THREE}),
    "instances with a missing cell": Sent({"instances": [ROW, without(ROW, "hour")]}),
    "instances and a number": Sent({"instances": [ROW, 7]}),
    "instances, columns": Sent(columns("instances", *THREE)),
    "instances, columns of which one is ragged and not asked for": Sent(
        {"instances": columns("instances", *THREE)["instances"] | {"colour": [None, None, []]}}
    ),
    "instances, columns of unequal length": Sent(
        {"instances": {"origin": ["JFK"], "distance": [1.0, 2.0], "hour": [7]}}
    ),
    "instances, rows": Sent({"instances": [list(row.values()) for row in THREE]}, excuse="unnamed"),
    "instances, numbers": Sent({"instances": [1, 2]}),
    "instances, text": Sent({"instances": ["a", "b"]}, excuse="unnamed"),
    "instances, empty": Sent({"instances": []}),
    "instances, null": Sent({"instances": None}),
    "instances, a number": Sent({"instances": 7}),
    "inputs, columns": Sent(columns("inputs", *THREE)),
    "inputs, columns of unequal length": Sent(
        {"inputs": {"origin": ["JFK"], "distance": [1.0, 2.0], "hour": [7]}}
    ),
    "inputs, named": Sent({"inputs": THREE}),
    "inputs, one row of scalars": Sent({"inputs": ROW}),
    "inputs, scalars of text": Sent({"inputs": {"origin": "JFK"}}),
    "inputs, rows": Sent({"inputs": [list(row.values()) for row in THREE]}, excuse="unnamed"),
    "inputs, ragged rows": Sent({"inputs": [[1, 2], [1]]}),
    "inputs, one column of lists": Sent({"inputs": {"distance": [[1.0], [2.0]]}}),
    "inputs, numbers": Sent({"inputs": [1.5, 2.5]}),
    "inputs, text": Sent({"inputs": "some text"}),
    "inputs, empty": Sent({"inputs": []}),
    "inputs, an empty object": Sent({"inputs": {}}),
    "inputs, null": Sent({"inputs": None}),
    "inputs, a number": Sent({"inputs": 7}),
    "inputs, true": Sent({"inputs": True}),
    "messages": Sent({"messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}),
    "prompt": Sent({"prompt": "hello", "inputs": [1]}),
    "input": Sent({"input": "hello"}),
    "two formats": Sent({"inputs": [1], "instances": [1]}),
    "three formats": Sent({"dataframe_split": {}, "inputs": [1], "instances": [1]}),
    "another key beside": Sent(records(ROW, colour="red")),
    "signature_name beside": Sent({"signature_name": "x", "inputs": [ROW]}),
    "no known key": Sent({"rows": [1]}),
    "params only": Sent({"params": {}}),
    "an empty object": Sent({}),
    "a missing column and very many that are not asked for": Sent(
        records(without(ROW, "hour") | {f"colour {number}": 1 for number in range(600)}), excuse="long"
    ),
    "params that are unknown": Sent(records(ROW, params={"colour": 1})),
    "params that are empty": Sent(records(ROW, params={})),
    "params that are null": Sent(records(ROW, params=None)),
    "params that are a list": Sent(records(ROW, params=[1])),
    "params that are text": Sent(records(ROW, params="x")),
}

TABLES = {
    "csv": Sent(csv(*THREE), CSV),
    "csv with an index": Sent(",origin,distance,hour\n0,JFK,1,2\n1,LGA,3,4\n", CSV),
    "csv with windows' line ends": Sent(csv(*THREE).replace("\n", "\r\n"), CSV),
    "csv with old line ends": Sent(csv(*THREE).replace("\n", "\r"), CSV),
    "csv without a last line end": Sent(csv(ROW).rstrip(), CSV),
    "csv with empty lines": Sent(csv(ROW).replace("\n", "\n\n"), CSV),
    "csv with a byte order mark": Sent("\ufeff" + csv(ROW), CSV),
    "csv with quotes": Sent('origin,distance,hour\n"J""F,\nK",1,2\n', CSV),
    "csv with an open quote": Sent('origin,distance,hour\n"JFK,1,2\n', CSV, excuse="first"),
    "csv with spaces": Sent("origin, distance, hour\nJFK, 1, 2\n", CSV),
    "csv with missing cells": Sent("origin,distance,hour\n,1,2\nNA,,3\n", CSV),
    "csv with a missing whole number": Sent("origin,distance,hour\nJFK,1,\n", CSV),
    "csv with a column too few": Sent("origin,distance\nJFK,1\n", CSV),
    "csv with a cell too few": Sent("origin,distance,hour\nJFK,1\n", CSV),
    "csv with a cell too many everywhere": Sent("origin,distance,hour\nx,JFK,1,2\n", CSV),
    "csv with a cell too many in one row": Sent(
        "origin,distance,hour\nJFK,1,2\nJFK,1,2,3,4\n", CSV, excuse="first"
    ),
    "csv with a column twice": Sent("origin,distance,hour,hour\nJFK,1,2,3\n", CSV),
    "csv with text for a number": Sent("origin,distance,hour\nJFK,far,2\n", CSV),
    "csv with a fraction for a whole number": Sent("origin,distance,hour\nJFK,1,2.5\n", CSV),
    "csv with a huge number": Sent(f"origin,distance,hour\nJFK,{10**30},{10**30}\n", CSV),
    "csv with semicolons": Sent("origin;distance;hour\nJFK;1;2\n", CSV),
    "csv with a zero byte": Sent("origin,distance,hour\nJ\x00FK,1,2\n", CSV),
    "csv of a header only": Sent("origin,distance,hour\n", CSV),
    "csv of nothing": Sent("", CSV, excuse="first"),
    "csv of line ends": Sent("\n\n\n", CSV, excuse="first"),
    "csv of json": Sent(records(ROW), CSV),
    "csv that is not utf-8": Sent(b"origin,distance,hour\nJ\xe9,1,2\n", CSV, excuse="undecodable"),
    "csv with a charset": Sent(csv(ROW), "text/csv; charset=UTF-8"),
    "parquet": Sent(parquet(*THREE), PARQUET),
    "parquet with an index": Sent(parquet(*THREE, index=list("abc")), PARQUET),
    "parquet with missing cells": Sent(parquet(ROW, ROW | {"origin": None}), PARQUET),
    "parquet with a missing whole number": Sent(parquet(ROW, ROW | {"hour": None}), PARQUET),
    "parquet with text for a number": Sent(parquet(ROW | {"distance": "far"}), PARQUET),
    "parquet with a column too few": Sent(parquet(without(ROW, "hour")), PARQUET),
    "parquet with a column too many": Sent(parquet(ROW | {"colour": "red"}), PARQUET),
    "parquet with lists": Sent(parquet(ROW | {"distance": [1.0]}), PARQUET),
    "parquet of nothing": Sent(b"", PARQUET),
    "parquet that is cut off": Sent(parquet(ROW)[:-20], PARQUET),
    "parquet that is torn": Sent(parquet(ROW)[:60] + b"\x00" * 40 + parquet(ROW)[100:], PARQUET),
    "parquet of json": Sent(records(ROW), PARQUET),
}

PLAIN = json.dumps(records(ROW))
BODIES = {
    "charset": Sent(PLAIN, "application/json; charset=utf-8"),
    "charset in capitals": Sent(PLAIN, "application/json;charset=UTF-8"),
    "charset in quotes": Sent(PLAIN, 'application/json; charset="utf-8"'),
    "another charset": Sent(PLAIN, "application/json; charset=latin-1"),
    "an empty charset": Sent(PLAIN, "application/json; charset="),
    "another parameter": Sent(PLAIN, "application/json; colour=red"),
    "a parameter without a value": Sent(PLAIN, "application/json; colour"),
    "an empty parameter": Sent(PLAIN, "application/json;"),
    "type in capitals": Sent(PLAIN, "Application/JSON"),
    "two types": Sent(PLAIN, "application/json, text/csv"),
    "another json type": Sent(PLAIN, "application/json-patch+json"),
    "another type": Sent(PLAIN, "application/xml"),
    "a form": Sent("a=1", "application/x-www-form-urlencoded"),
    "plain text": Sent(PLAIN, "text/plain"),
    "an empty type": Sent(PLAIN, ""),
    "no type": Sent(PLAIN, None, excuse="fails"),
    "nothing": Sent(""),
    "spaces": Sent("  \n "),
    "spaces around": Sent(f" \n\t\r {PLAIN} \n"),
    "a form feed before": Sent(f"\f{PLAIN}"),
    "torn": Sent(PLAIN[:30]),
    "something after": Sent(PLAIN + "x"),
    "two objects": Sent(PLAIN + PLAIN),
    "a list": Sent([ROW]),
    "a number": Sent("7"),
    "a text": Sent('"x"'),
    "null": Sent("null"),
    "true": Sent("true"),
    "not a number": Sent("NaN"),
    "not utf-8": Sent(b"\xff\xfe\x00", excuse="undecodable"),
    "not utf-8 in a cell": Sent(PLAIN.replace("JFK", "J\xe9").encode("latin-1"), excuse="undecodable"),
    "a byte order mark": Sent("\ufeff" + PLAIN),
    "utf-16": Sent(PLAIN.encode("utf-16")),
    "utf-32": Sent(PLAIN.encode("utf-32-le")),
    "a surrogate in bytes": Sent(PLAIN.replace("JFK", "\ud800").encode("utf-8", "surrogatepass")),
    "a zero byte": Sent(PLAIN.replace("JFK", "\x00")),
    "comments": Sent(f"/* */ {PLAIN}"),
    "single quotes": Sent(PLAIN.replace('"', "'")),
    "a column twice": Sent(PLAIN.replace('"hour": 7', '"hour": 1, "hour": 7')),
    "a format twice": Sent(PLAIN[:-1] + f", {PLAIN[1:]}"),
    "escaped names": Sent(PLAIN.replace("hour", "\\u0068our")),
    "deep nesting": Sent('{"inputs": ' + "[" * 50_000 + "]" * 50_000 + "}", excuse="fails"),
    "a very long number": Sent(PLAIN.replace("200.5", "9" * 5_000), excuse="fails"),
    "a very long fraction": Sent(PLAIN.replace("200.5", "0." + "3" * 5_000)),
    "very many zeros": Sent(PLAIN.replace("200.5", "1" + "0" * 300)),
    "a long text": Sent(PLAIN.replace("JFK", "J" * 100_000)),
}


@dataclass(frozen=True)
class Target:
    """A method and a path; with a body where the method has one."""

    method: str
    path: str
    excuse: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


TARGETS = [
    *(
        Target("GET", path)
        for path in ("/ping", "/health", "/version", "/ping?colour=red", "/%70ing", "/ping#part")
    ),
    *(
        Target("GET", path)
        for path in ("/", "/nowhere", "/PING", "/ping/x", "/invocations/x", "/ping%00", "//ping")
    ),
    *(
        Target("GET", path)
        for path in ("/ping/", "/version/", "/invocations", "/invocations/", "/favicon.ico")
    ),
    *(
        Target("POST", path)
        for path in ("/invocations?colour=red", "/invocations/", "/ping", "/nowhere", "/")
    ),
    *(
        Target(method, "/invocations")
        for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")
    ),
    *(Target(method, "/ping") for method in ("HEAD", "OPTIONS", "DELETE")),
    *(Target("HEAD", path) for path in ("/version", "/nowhere", "/ping/")),
    *(Target("GET", path, "pages") for path in ("/docs", "/redoc", "/openapi.json")),
]
