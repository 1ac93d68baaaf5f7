"""The way back: zero exposure first, then the registry, then every gateway, then proof."""

from understudy.rollback.execute import execute, resume

__all__ = ["execute", "resume"]
