"""The tables of the store. The migrations create them; `tests/store` checks that both agree."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "certificates",
    "exposures",
    "feature_sets",
    "ledger",
    "ledger_head",
    "metadata",
    "moments",
    "outbox",
    "readiness_checks",
    "registry_starts",
    "rollback_points",
    "runs",
    "verdicts",
]

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("key", sa.String(400), nullable=False, unique=True),
    sa.Column("experiment", sa.String(100), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("champion", sa.String(20), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    # The model's lock: equal to `model` while the run is active, null afterwards; unique, so that one run holds it.
    sa.Column("holds", sa.String(200), unique=True),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("stage_entered_at", sa.Float),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("spec_digest", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("airflow", sa.JSON, nullable=False),
    sa.Column("mlflow_run_id", sa.String(64)),
    sa.Column("ending", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    # W3C traceparent of the span that began the run; null in runs from before.
    sa.Column("traceparent", sa.String(55)),
)

exposures = sa.Table(
    "exposures",
    metadata,
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("champion", sa.String(20), nullable=False),
    sa.Column("challenger", sa.String(20)),
    sa.Column("run_id", sa.String(200)),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("percent", sa.Float, nullable=False),
    sa.Column("lease_expires_at", sa.Integer),
    sa.Column("mirror", sa.Boolean, nullable=False),
    # Cohorts that are back on the champion, as "column=value".
    sa.Column("contained", sa.JSON, nullable=False, server_default=sa.text("'[]'")),
    # Cohorts that are exposed further than everybody else, as ["column=value", percent].
    sa.Column("rings", sa.JSON, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("lease_seconds", sa.Float, nullable=False, server_default=sa.text("86400")),
    # The feature set that requests must carry, and the one with which the challenger was admitted; null where none is registered.
    sa.Column("feature_set", sa.String(100)),
    sa.Column("challenger_feature_set", sa.String(100)),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String(200), nullable=False, index=True),
    sa.Column("step", sa.String(40), nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("decision", sa.String(20)),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("evidence", sa.JSON),
    sa.Column("at", sa.Float, nullable=False),
)

# Append-only: evidence of any past look is the sum of a run's increments up to it.
moments = sa.Table(
    "moments",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("checkpoint", sa.JSON, nullable=False),
    sa.Column("quality", sa.JSON, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    # Now and then, the sum of all increments so far, so that a new process need not add them up one by one.
    sa.Column("summary", sa.LargeBinary),
)

rollback_points = sa.Table(
    "rollback_points",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("model", sa.String(200), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# What a look at a rollback point found; the newest one counts.
readiness_checks = sa.Table(
    "readiness_checks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String(200), nullable=False, index=True),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# What was practised on a copy of a model, a row a scenario; the newest of each counts.
drills = sa.Table(
    "drills",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("drill_id", sa.String(100), nullable=False),
    sa.Column("model", sa.String(200), nullable=False, index=True),
    sa.Column("version", sa.String(20), nullable=False),
    sa.Column("scenario", sa.String(40), nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# Versions of the features of a model; a registered one does not change.
feature_sets = sa.Table(
    "feature_sets",
    metadata,
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    # As [name, type] in the order of the signature.
    sa.Column("columns", sa.JSON, nullable=False),
    # SHA-256 of whatever makes the features, and of rows that it made; both are snapshots.
    sa.Column("transformation", sa.String(64), nullable=False),
    sa.Column("snapshot", sa.String(64), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

registry_starts = sa.Table(
    "registry_starts",
    metadata,
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("signal", sa.String(20), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("done_at", sa.Float),
)

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("action", sa.String(60), nullable=False, index=True),
    sa.Column("model", sa.String(200), index=True),
    sa.Column("run_id", sa.String(200), index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
)

# One row, which a trigger on `ledger` moves forward: without it nobody would notice that the newest entries were cut off.
ledger_head = sa.Table(
    "ledger_head",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

# Append-only.
certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    # The very text of the file, because every letter of it is proven.
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
