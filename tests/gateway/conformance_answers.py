"""What two servers said, made comparable."""

from __future__ import annotations

import json
import re

import httpx

__all__ = ["Answer", "ask", "code_of", "excused"]

JSON = "application/json"
Answer = tuple[int, str | None, bytes]
"""Status, content type and body."""

_QUOTED = [
    (re.compile(pattern, re.DOTALL), left)
    for pattern, left in (
        (r"Failed to predict data '.*?'\. \nError", "Failed to predict data. \nError"),
        (r"of data '.*?' with schema '", "with schema '"),
        (r"of '.*?' with type '", "with type '"),
        (r"data `.*?` to type `", "data to type `"),
        (r"\nInput: \n.*\n", ""),
        (r"input_value=[^\n]*, input_type", "input_type"),
    )
]


def ask(client: httpx.Client, content: bytes, kind: str | None = JSON) -> Answer:
    """Send a body to ``/invocations``."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/invocations", content=content, headers=headers)
    return answer.status_code, answer.headers.get("content-type"), answer.content


def excused(answer: Answer) -> Answer:
    """Return an answer of MLflow's server without the two things that any error of it may have: quotes and a trace."""
    status, kind, body = answer
    if kind != JSON or status < 400:
        return answer
    error = json.loads(body)
    error.pop("stack_trace", None)
    for quoted, left in _QUOTED:
        error["message"] = quoted.sub(left, error["message"])
    return status, kind, json.dumps(error).encode()


def code_of(answer: Answer) -> str:
    """Return the code of an error."""
    code: str = json.loads(answer[2])["error_code"]
    return code
