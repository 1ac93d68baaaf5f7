"""The task of the DAG ``audit``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

from understudy.errors import AuditFailed

__all__ = ["AuditOperator"]


class AuditOperator(BaseOperator):
    """Looks for what nobody has noticed, says each finding in its log, and fails where somebody must act."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """Look at everything; safe to repeat, nothing is changed.

        Raises:
            AuditFailed: There are findings of severity error.
        """
        from understudy.lifecycle.audit import ERROR, audit
        from understudy.session import session

        found = audit(session())
        for one in found:
            self.log.info("%s %s %s: %s (%s)", one.severity, one.kind, one.about, one.sentence, one.runbook)
        errors = [one for one in found if one.severity == ERROR]
        if errors:
            told = "; ".join(f"{one.about}: {one.sentence} See {one.runbook}." for one in errors[:3])
            raise AuditFailed(f"The audit has {len(errors)} findings that somebody must act on. {told}")
        return [one.to_dict() for one in found]
