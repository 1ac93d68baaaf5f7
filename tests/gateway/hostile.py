"""Requests that nobody in their right mind sends, and what must hold of the answer to any of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
from hypothesis import strategies as st

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
ENVELOPE = ("tailnum", "pilot", "event_id", "event_time")

PRIVATE = ("N-private-7", 'Ann O\'Private "x" \\ é\n', 8_123_456_789, 52_345.678, "P" * 60)
"""Values of private columns. None of them may be found anywhere."""

MARKS = ("N-private-7", "O'Private", "8123456789", "52345.678", "P" * 20)
"""How they would be found."""

_NUMBERS = [0, -0.0, 1, -1, 7.5, 1e16, 5e-324, 1e308, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400]
_NUMBERS += [float("nan"), float("inf"), -float("inf")]
_TEXTS = [
    "",
    "JFK",
    "7",
    "7.0",
    "far",
    "nan",
    "\x00",
    "\ud800",
    "\U0001f600",
    "é",
    "a\nb",
    "x" * 300,
    "null",
    "1e999",
]
SCALARS = (
    st.sampled_from([None, True, False, *_NUMBERS, *_TEXTS])
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_NAMES = st.sampled_from(
    [
        "origin",
        "distance",
        "hour",
        "colour",
        "",
        "0",
        "origin.1",
        "x" * 100,
        "é",
        "columns",
        "data",
        'a"b',
        "a\\b",
    ]
)
_TOKENS = [
    *'[]{}:,"\\',
    "null",
    "NaN",
    "-Infinity",
    "1e999",
    "\\ud800",
    "\\u0000",
    " ",
    "\n",
    "\x00",
    "\x1f",
    "//",
    "'",
]
_TOKENS += [*FORMATS, "params", "messages", "columns", "index", "data", "9" * 40, "[" * 50, '{"a":' * 50]

_TOKEN = re.compile(r'"[^"]*"|[^"\s]|\s+')

KINDS = st.sampled_from(
    [JSON] * 8 + [JSON + "; charset=utf-8", CSV, PARQUET, "text/plain", "", "application/json;x"]
)


@dataclass(frozen=True)
class Hostile:
    """A request.

    Attributes:
        body: Its body.
        kind: Its content type.
        private: Whether private values stand under their columns, so that they must be found nowhere.
    """

    body: bytes
    kind: str
    private: bool = False


@st.composite
def rows(draw: st.DrawFn, private: bool) -> list[dict[str, Any]]:
    """Rows of which most are good."""
    kept = draw(
        st.sampled_from([("origin", "distance", "hour")] * 5 + [("origin", "hour"), ("hour", "distance"), ()])
    )
    extra = draw(st.lists(_NAMES, max_size=2, unique=True)) if draw(st.integers(0, 4)) == 0 else []
    made = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 7, 0]))):
        row: dict[str, Any] = {"origin": "JFK", "distance": 200.5, "hour": 7}
        row = {name: row[name] for name in kept}
        if draw(st.integers(0, 3)) == 0:
            row |= {draw(_NAMES): draw(VALUES)}
        row |= {name: draw(SCALARS) for name in extra}
        if private:
            row |= {"tailnum": draw(st.sampled_from(PRIVATE)), "pilot": draw(st.sampled_from(PRIVATE))}
            row |= {"pilot": draw(st.sampled_from([row["pilot"], [row["pilot"]], {"name": row["pilot"]}]))}
            row |= draw(
                st.sampled_from(
                    [{}, {}, {"event_id": "flight-7"}, {"event_time": 1.5}, {}, {"event_time": "x"}]
                )
            )
        made.append(dict(draw(st.permutations(list(row.items())))) if draw(st.booleans()) else row)
    return made


@st.composite
def contents(draw: st.DrawFn, private: bool) -> dict[str, Any]:
    """A body of one of the formats, or almost."""
    data = draw(rows(private))
    names = list(dict.fromkeys(name for row in data for name in row))
    shape = draw(
        st.sampled_from(["split", "split", "records", "records", "named", "columns", "scalars", "values"])
    )
    key = draw(st.sampled_from(["instances", "inputs"]))
    if shape == "split":
        split: dict[str, Any] = {
            "columns": names,
            "data": [[row.get(name) for name in names] for row in data],
        }
        if draw(st.integers(0, 5)) == 0:
            split["index"] = draw(VALUES | st.just(list(range(len(data)))))
        content: dict[str, Any] = {"dataframe_split": split}
    elif shape == "values":
        content = {key: [[row.get(name) for name in names if name not in ENVELOPE] for row in data]}
    elif shape == "columns":
        content = {key: {name: [row.get(name) for row in data] for name in names}}
    elif shape == "scalars":
        content = {key: data[0] if data else {}}
    else:
        content = {"dataframe_records" if shape == "records" else key: data}
    if draw(st.integers(0, 5)) == 0:
        content |= {
            draw(st.sampled_from(["params", "messages", "prompt", "signature_name", "x"])): draw(VALUES)
        }
    return content


@st.composite
def structured(draw: st.DrawFn) -> Hostile:
    """Good JSON in which something is not as it should be; private values stay under their names."""
    private = draw(st.booleans())
    content = draw(contents(private))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        _twisted(draw, content)
    text = json.dumps(
        content, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, None, 1]))
    )
    return Hostile(
        text.encode("utf-8", "surrogatepass"),
        draw(st.sampled_from([JSON] * 5 + [JSON + "; charset=utf-8"])),
        private,
    )


def _twisted(draw: st.DrawFn, content: dict[str, Any]) -> None:
    """Put something else in one place, or nothing, or the same again, but never touch what is private."""
    place: Any = content
    while True:
        keys = (
            [key for key in place if key not in (*ENVELOPE, "columns")]
            if isinstance(place, dict)
            else range(len(place))
        )
        if not keys:
            return
        key = draw(st.sampled_from(list(keys)))
        if isinstance(place[key], (dict, list)) and draw(st.integers(0, 2)):
            if isinstance(place, dict) and key == "data":
                return  # cells of a split stand under their names by position
            place = place[key]
            continue
        what = draw(st.sampled_from(["value", "drop", "twice"]))
        if what == "value" and not (key == "data" and isinstance(place, dict)):
            place[key] = draw(VALUES)
        elif what == "drop" and place is not content:
            del place[key]
        elif isinstance(place, list):
            place.insert(key, place[key])
        return


@st.composite
def torn(draw: st.DrawFn) -> Hostile:
    """The bytes of a good request with some of them changed."""
    content = json.dumps(draw(contents(private=False)))
    if draw(st.integers(0, 4)) == 0:
        content = "origin,distance,hour\nJFK,200.5,7\nLGA,1,2\n"
    if draw(st.booleans()):
        tokens = _TOKEN.findall(content)
        for _ in range(draw(st.integers(1, 2))):
            tokens[draw(st.integers(0, len(tokens) - 1))] = draw(st.sampled_from([*tokens, *_TOKENS]))
        return Hostile("".join(tokens).encode("utf-8", "surrogatepass"), draw(KINDS))
    body = bytearray(content.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.sampled_from([0, 1, 1, 2, 10])))
        put = draw(
            st.sampled_from([token.encode("utf-8", "surrogatepass") for token in _TOKENS])
            | st.binary(max_size=4)
        )
        body[start:end] = put * draw(st.sampled_from([1, 1, 1, 2, 30]))
    return Hostile(bytes(body), draw(KINDS))


@st.composite
def tables(draw: st.DrawFn) -> Hostile:
    """CSV that is almost right."""
    header = ["origin", "distance", "hour"][: draw(st.sampled_from([3, 3, 3, 2]))]
    header += draw(st.lists(_NAMES, max_size=draw(st.sampled_from([0, 0, 2]))))
    odd = st.sampled_from(["", "NA", "x", '"a,b"', '"', "1e999", "9" * 30, "é", "\x00", "\r", "1,2"])
    lines = [header]
    for _ in range(draw(st.integers(0, 4))):
        cells = ["JFK", "200.5", "7", *["1"] * len(header)][: len(header)]
        if draw(st.booleans()):
            cells[draw(st.integers(0, len(cells) - 1))] = draw(odd)
        lines.append(cells)
    return Hostile(draw(st.sampled_from(["\n", "\r\n"])).join(map(",".join, lines)).encode(), CSV)


HOSTILE = st.one_of(
    structured(),
    structured(),
    structured(),
    torn(),
    torn(),
    tables(),
    st.builds(Hostile, st.binary(max_size=400), KINDS),
)
"""Any hostile request."""


@dataclass(frozen=True)
class Wire:
    """Bytes of a connection, in the pieces in which they are sent."""

    pieces: tuple[bytes, ...]


_BODY = json.dumps({"dataframe_records": [{"origin": "JFK", "distance": 200.5, "hour": 7}]}).encode()
_HEADS = [
    b"Content-Length: %d" % len(_BODY),
    b"Content-Length: %d" % (len(_BODY) + 7),
    b"Content-Length: %d" % (len(_BODY) - 7),
    b"Content-Length: 0",
    b"Content-Length: -1",
    b"Content-Length: +7",
    b"Content-Length: 1e3",
    b"Content-Length: 9999999999999999999999",
    b"Content-Length: 104857600",
    b"Content-Length: ",
    b"Content-Length: %d, %d" % (len(_BODY), len(_BODY)),
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding : chunked",
    b"Content-Type: application/json",
    b"Content-Type: application/json\x00",
    b"Content-Type: \xff\xfe",
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
    b"Expect: something",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Connection: close",
    b"Connection: keep-alive",
    b"X-Request-Id: \r\n folded",
    b"X-Request-Id: " + b"a" * 9_000,
    b"traceparent: 00-zz-zz-zz",
    b"Host: \x80",
    b"Host: a\r\nHost: b",
    b"no colon here",
    b": no name",
    b"\x00: null",
]
_STARTS = [b"POST /invocations HTTP/1.1"] * 6 + [
    b"POST /invocations HTTP/1.0",
    b"POST /invocations HTTP/9.9",
    b"POST /invocations",
    b"POST http://elsewhere/invocations HTTP/1.1",
    b"POST /" + b"a" * 9_000 + b" HTTP/1.1",
    b"POST /\xff\xfe HTTP/1.1",
    b"POST /%ff%fe%00 HTTP/1.1",
    b"post /invocations HTTP/1.1",
    b"GET /ping HTTP/1.1",
    b"HEAD /status HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"OPTIONS * HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
]
_BODIES = [
    _BODY,
    _BODY[:20],
    b"",
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY),
    b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(_BODY), _BODY),
    b"%x\r\n%s\r\n" % (len(_BODY), _BODY),
    b"ffffffffffffffffffff\r\n%s\r\n" % _BODY,
    b"-1\r\n\r\n",
    b"zz\r\n%s\r\n0\r\n\r\n" % _BODY,
    b"1\r\n{\r\n" * 50,
    b"0\r\n\r\n",
    b"\x00" * 100,
]


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """Up to three requests on one connection, of which most are wrong somewhere."""
    sent = b""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        line = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r"]))
        start, body = _STARTS[0], _BODY
        heads = [b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(_BODY)]
        wrong = draw(st.sets(st.sampled_from(["start", "heads", "more", "body", "nothing"]), max_size=2))
        if "start" in wrong:
            start = draw(st.sampled_from(_STARTS))
        if "heads" in wrong:
            heads = draw(st.lists(st.sampled_from([*heads, *_HEADS]), max_size=4))
        if "more" in wrong:
            heads.append(draw(st.sampled_from(_HEADS)))
        if "body" in wrong:
            body = draw(st.sampled_from(_BODIES))
        sent += line.join([start, *heads, b"", body])
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(sent)))
        sent = sent[:place] + draw(st.binary(max_size=5)) + sent[place + draw(st.integers(0, 3)) :]
    cut = draw(st.integers(0, len(sent)))
    return Wire((sent[:cut], sent[cut:]) if draw(st.booleans()) else (sent,))


WIRES = wires()


def problem_with(answer: httpx.Response) -> str | None:
    """Return what is wrong with an answer to a hostile request, or nothing."""
    kind = answer.headers.get("content-type", "")
    if answer.status_code >= 500:
        return f"status {answer.status_code}: {answer.text[:500]}"
    if answer.status_code >= 400 and len(answer.content) > 20_000:
        return f"an error of {len(answer.content)} bytes"
    if any(sign in answer.text for sign in ("Traceback", "stack_trace", 'File "', "site-packages")):
        return f"a stack trace: {answer.text[:500]}"
    if answer.status_code == 415:
        return None if kind == "text/plain; charset=utf-8" else f"content type {kind}"
    if kind != JSON:
        return f"content type {kind}"
    content = answer.json()
    if answer.status_code >= 400 and not {"error_code", "message"} <= content.keys():
        return f"not MLflow's shape: {answer.text[:500]}"
    return None
