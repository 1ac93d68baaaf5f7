"""The task of the DAG ``event_log``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

__all__ = ["KeepEventsOperator"]


class KeepEventsOperator(BaseOperator):
    """Compacts the events of every model and removes what is old; says in its log what it did, and returns it."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """Do it; safe to repeat, and safe beside gateways that write and guards that look."""
        from understudy.lifecycle.event_log import keep_events
        from understudy.session import session

        return keep_events(session(), lambda sentence: self.log.info("%s", sentence))
