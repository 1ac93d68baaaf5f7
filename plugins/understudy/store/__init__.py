"""The system's own memory: runs, exposure, verdicts, rollback points and the ledger, in one SQL database."""

from understudy.store.database import Store

__all__ = ["Store"]
