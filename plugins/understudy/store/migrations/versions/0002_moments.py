"""Keeps the place of the migration that creates the table of moments, and is replaced by it."""

from __future__ import annotations

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Change nothing."""
