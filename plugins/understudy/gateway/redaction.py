"""Keeps private values out of messages: a model's own error text may quote the row it failed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["MESSAGE_LENGTH", "describe", "redact"]

MESSAGE_LENGTH = 500
"""Longest error text that is logged or sent, in characters."""

# MLflow quotes the whole input in these two messages.
_QUOTED_DATA = re.compile(r"(Failed to enforce schema of data )(?:'.*?'|`.*?`)( with )", re.DOTALL)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a message without private values.

    Args:
        text: Any message.
        secrets: Raw values of private columns in the request that the message is about.
    """
    text = _QUOTED_DATA.sub(r"\1\2", text).replace("of data  with", "with")
    forms = {
        form
        for secret in secrets
        if secret
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
    }
    for form in sorted(forms, key=len, reverse=True):
        # A short value is also part of many innocent words.
        pattern = re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"
        text = re.sub(pattern, "[private]", text)
    return text


def describe(error: BaseException, secrets: Iterable[str]) -> str:
    """Return an error as one short line that is safe to log."""
    message = getattr(error, "message", None)
    text = redact(message if isinstance(message, str) else str(error), secrets)
    return f"{type(error).__name__}: {' '.join(text.split())}"[:MESSAGE_LENGTH]
