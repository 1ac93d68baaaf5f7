"""When a failed task is worth another try."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from understudy.errors import UnderstudyError, Unreachable

__all__ = ["RETRY_POLICY", "task_defaults"]

_AGAIN_AFTER = timedelta(seconds=5)

RETRY_POLICY = ExceptionRetryPolicy(
    [
        RetryRule(
            exception=Unreachable,
            action=RetryAction.RETRY,
            retry_delay=_AGAIN_AFTER,
            reason="A server did not answer; it may in a moment.",
        ),
        RetryRule(
            exception=UnderstudyError,
            action=RetryAction.FAIL,
            reason="The same input would fail again; the message names the fix.",
        ),
    ]
)
"""Order matters: ``Unreachable`` is an ``UnderstudyError``. Any other error is retried, because steps may repeat."""


def task_defaults(owner: str) -> dict[str, Any]:
    """Return the ``default_args`` of every DAG of this project."""
    return {
        "owner": owner,
        "retries": 2,
        "retry_delay": _AGAIN_AFTER,
        "retry_policy": RETRY_POLICY,
        "execution_timeout": timedelta(minutes=15),
    }
