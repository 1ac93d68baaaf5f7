"""Alembic's entry: the store gives its own connection, so there is no configuration file."""

from __future__ import annotations

from alembic import context

from understudy.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
