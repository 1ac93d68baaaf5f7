"""Increments of evidence, append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table and refuse changes to what is in it."""
    op.create_table(
        "moments",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("checkpoint", sa.JSON, nullable=False),
        sa.Column("quality", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("summary", sa.LargeBinary),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER moments_refuse_{verb.lower()} BEFORE {verb} ON moments "
                "BEGIN SELECT RAISE(ABORT, 'stored moments are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION moments_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'stored moments are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER moments_refuse_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON moments "
        "FOR EACH STATEMENT EXECUTE FUNCTION moments_are_append_only()"
    )
