"""The head of the ledger, kept by triggers; certificates; and entries whose contents have digests of their own."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_GENESIS = "0" * 64
_ABOUT = ("seq", "at", "actor", "action", "model", "run_id", "reason")
_COLUMNS = (*_ABOUT, "body", "previous", "digest")


def upgrade() -> None:
    """Chain what is there anew, keep the head, and refuse whatever does not continue the chain."""
    op.create_table(
        "certificates",
        sa.Column("run_id", sa.String(200), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "ledger_head",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    _execute(_SQLITE_OFF if sqlite else _POSTGRESQL_OFF)
    seq, digest = _chain_anew()
    op.get_bind().execute(
        sa.text("INSERT INTO ledger_head VALUES (:seq, :digest)"), {"seq": seq, "digest": digest}
    )
    _execute(_SQLITE_ON if sqlite else _POSTGRESQL_ON)


def _execute(statements: str) -> None:
    for statement in statements.split("\n\n"):
        op.execute(statement)


def _chain_anew() -> tuple[int, str]:
    """Give every entry the digest of today's rule; whether the old chain held goes on record as one more entry."""
    bind = op.get_bind()
    previous, before, broken, count = _GENESIS, _GENESIS, None, 0
    query = "SELECT seq, at, actor, action, model, run_id, reason, CAST(body AS TEXT), previous, digest FROM ledger ORDER BY seq"
    for row in bind.execute(sa.text(query)).all():
        entry = dict(zip(_COLUMNS, row, strict=True)) | {"body": json.loads(row[7])}
        count += 1
        if broken is None and (entry["seq"], entry["previous"], entry["digest"]) != (
            count,
            before,
            _old(entry),
        ):
            broken = count
        before, previous = entry["digest"], _write(entry, previous)
    if not count:
        return 0, _GENESIS
    words = "The chain was built anew, because contents of entries have digests of their own now."
    added = {
        "seq": entry["seq"] + 1, "at": time.time(), "actor": "understudy", "action": "ledger.chained_anew", "model": None,
        "run_id": None, "reason": words, "body": {"head_before": before, "first_broken_before": broken},
    }  # fmt: skip
    statement = (
        "INSERT INTO ledger VALUES (:seq, :at, :actor, :action, :model, :run_id, :reason, '{}', '', '')"
    )
    bind.execute(sa.text(statement), {name: added[name] for name in _ABOUT})
    return added["seq"], _write(added, previous)


def _old(entry: dict[str, Any]) -> str:
    fields = {name: value for name, value in entry.items() if name != "digest"}
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def _write(entry: dict[str, Any], previous: str) -> str:
    body = _canonical(entry["body"])
    said = (_canonical([entry[name] for name in _ABOUT]) + body).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256((previous + hashlib.sha256(said).hexdigest()).encode()).hexdigest()
    op.get_bind().execute(
        sa.text("UPDATE ledger SET body = :body, previous = :previous, digest = :digest WHERE seq = :seq"),
        {"body": body, "previous": previous, "digest": digest, "seq": entry["seq"]},
    )
    return digest


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


_SQLITE_OFF = """
DROP TRIGGER ledger_refuses_update

DROP TRIGGER ledger_refuses_delete
"""

# INSERT OR REPLACE takes older rows of the same key away without a DELETE, so triggers look for them.
_SQLITE_ON = """
CREATE TRIGGER ledger_refuses_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END

CREATE TRIGGER ledger_refuses_delete BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END

CREATE TRIGGER ledger_continues BEFORE INSERT ON ledger
WHEN NOT EXISTS (SELECT 1 FROM ledger_head WHERE seq = NEW.seq - 1 AND digest = NEW.previous)
OR EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq OR digest = NEW.digest)
BEGIN SELECT RAISE(ABORT, 'the entry does not continue the chain of the ledger'); END

CREATE TRIGGER ledger_moves_head AFTER INSERT ON ledger
BEGIN UPDATE ledger_head SET seq = NEW.seq, digest = NEW.digest; END

CREATE TRIGGER ledger_head_moves_forward BEFORE UPDATE ON ledger_head
WHEN NOT EXISTS (
    SELECT 1 FROM ledger WHERE seq = NEW.seq AND seq = OLD.seq + 1 AND digest = NEW.digest AND previous = OLD.digest
)
BEGIN SELECT RAISE(ABORT, 'the head of the ledger only moves forward'); END

CREATE TRIGGER ledger_head_stays BEFORE DELETE ON ledger_head
BEGIN SELECT RAISE(ABORT, 'the head of the ledger only moves forward'); END

CREATE TRIGGER ledger_head_is_one BEFORE INSERT ON ledger_head
BEGIN SELECT RAISE(ABORT, 'the head of the ledger only moves forward'); END

CREATE TRIGGER certificates_refuse_update BEFORE UPDATE ON certificates
BEGIN SELECT RAISE(ABORT, 'certificates are append-only'); END

CREATE TRIGGER certificates_refuse_delete BEFORE DELETE ON certificates
BEGIN SELECT RAISE(ABORT, 'certificates are append-only'); END

CREATE TRIGGER certificates_refuse_replace BEFORE INSERT ON certificates
WHEN EXISTS (SELECT 1 FROM certificates WHERE run_id = NEW.run_id)
BEGIN SELECT RAISE(ABORT, 'certificates are append-only'); END

CREATE TRIGGER moments_refuse_replace BEFORE INSERT ON moments
WHEN EXISTS (SELECT 1 FROM moments WHERE run_id = NEW.run_id AND seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'stored moments are append-only'); END
"""

_POSTGRESQL_OFF = "DROP TRIGGER ledger_refuses_changes ON ledger"

_POSTGRESQL_ON = """
CREATE TRIGGER ledger_refuses_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()

CREATE FUNCTION ledger_continues() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE ledger_head SET seq = NEW.seq, digest = NEW.digest WHERE seq = NEW.seq - 1 AND digest = NEW.previous;
    IF NOT FOUND THEN RAISE EXCEPTION 'the entry does not continue the chain of the ledger'; END IF;
    RETURN NULL;
END $$

CREATE TRIGGER ledger_continues AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_continues()

CREATE FUNCTION ledger_head_moves_forward() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM ledger WHERE seq = NEW.seq AND seq = OLD.seq + 1 AND digest = NEW.digest AND previous = OLD.digest
    ) THEN RAISE EXCEPTION 'the head of the ledger only moves forward'; END IF;
    RETURN NEW;
END $$

CREATE TRIGGER ledger_head_moves_forward BEFORE UPDATE ON ledger_head
FOR EACH ROW EXECUTE FUNCTION ledger_head_moves_forward()

CREATE FUNCTION ledger_head_stays() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the head of the ledger only moves forward'; END $$

CREATE TRIGGER ledger_head_stays BEFORE INSERT OR DELETE OR TRUNCATE ON ledger_head
FOR EACH STATEMENT EXECUTE FUNCTION ledger_head_stays()

CREATE FUNCTION certificates_are_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'certificates are append-only'; END $$

CREATE TRIGGER certificates_refuse_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON certificates
FOR EACH STATEMENT EXECUTE FUNCTION certificates_are_append_only()
"""
