"""Cohorts that are contained: back on the champion while the others stay exposed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; nothing is contained in what is exposed already."""
    op.add_column(
        "exposures", sa.Column("contained", sa.JSON, nullable=False, server_default=sa.text("'[]'"))
    )
