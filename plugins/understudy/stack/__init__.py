"""The servers an embedded installation consists of, as local processes that never outlive whoever started them."""

from __future__ import annotations

from understudy.stack.stack import Stack, exit_on_sigterm

__all__ = ["Stack", "exit_on_sigterm"]
