"""Keeps private values out of messages: a model's own error text may quote the row it failed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

__all__ = ["MESSAGE_LENGTH", "describe", "redact"]

MESSAGE_LENGTH = 500
"""Longest error text that is logged, in characters."""

_READ = 4000
"""Longest error text that is sent; what a model says beyond it is not looked at."""

_TELLING = 24
"""Characters by which a long value is recognised: tables and validators show long values cut off."""

# MLflow and pydantic quote whole rows in these. Greedy, because a row may hold the words that follow it.
_QUOTED = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(?<=Failed to enforce schema )of data '.*' (?=with schema ')",
        r"(?<=Failed to enforce schema )of data `.*` (?=with dtype `)",
        r"(?<=Failed to enforce schema )of '.*' (?=with type ')",
        r"(?<=Failed to convert data type )for data `.*` (?=with spec `)",
        r"(?<=Failed to convert data )`.*` (?=to type `)",
        r"input_value=[^\n]*, (?=input_type=)",
    )
]
_PLAIN = re.compile(r"[\w .:@/+-]*", re.ASCII)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a message without private values, cut to a length that can be sent.

    Args:
        text: Any message.
        secrets: Private values of the request that the message is about, as messages spell them.
    """
    for quoted in _QUOTED:
        text = quoted.sub("", text)
    read = text[:_READ]
    for form in sorted(_found(read, secrets), key=len, reverse=True):
        if len(form) >= _TELLING:
            read = read.partition(form)[0] + "[private]" if form in read else read
        else:
            # A short value is also part of many innocent words.
            pattern = re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"
            read = re.sub(pattern, "[private]", read)
    # Where the message was cut, a value may have been cut with it and would not be recognised.
    return read if len(text) <= _READ else read[:-_TELLING]


def describe(error: BaseException, secrets: Iterable[str]) -> str:
    """Return an error as one short line that is safe to log."""
    message = getattr(error, "message", None)
    text = redact(message if isinstance(message, str) else str(error), secrets)
    return f"{type(error).__name__}: {' '.join(text.split())}"[:MESSAGE_LENGTH]


def _found(text: str, secrets: Iterable[str]) -> set[str]:
    """Return the spellings of secrets that are in a text. Of very many secrets only few are, and most look one way."""
    return {form for secret in secrets for form in _forms(secret) if form and form in text}


def _forms(secret: str) -> Iterator[str]:
    yield secret[:_TELLING]
    if not _PLAIN.fullmatch(secret):
        escaped = repr(secret)[1:-1]
        # An error that quotes an error escapes what was escaped.
        for form in (escaped, repr(escaped)[1:-1], json.dumps(secret)[1:-1]):
            yield form[:_TELLING]
