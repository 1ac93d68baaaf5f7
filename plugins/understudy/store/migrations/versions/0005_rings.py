"""Rings: cohorts that are exposed before everybody else; and how long a lease is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns; what is exposed already has no ring, and its lease is renewed with its length."""
    op.add_column("exposures", sa.Column("rings", sa.JSON, nullable=False, server_default=sa.text("'[]'")))
    op.add_column(
        "exposures", sa.Column("lease_seconds", sa.Float, nullable=False, server_default=sa.text("86400"))
    )
