"""The way back: zero exposure first, then the registry, then every gateway, then proof."""

from understudy.rollback.execute import execute

__all__ = ["execute"]
