"""Promotion certificates as they were issued; the first of a run stays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import ledger, schema

__all__ = ["Certificate", "find", "save"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and the digest of its text."""

    run_id: str
    text: str
    digest: str
    at: float


def find(connection: Connection, run_id: str) -> Certificate | None:
    """Return the certificate of a run, if one was issued."""
    query = sa.select(schema.certificates).where(schema.certificates.c.run_id == run_id)
    row = connection.execute(query).first()
    return Certificate(**row._mapping) if row else None


def save(
    connection: Connection, run_id: str, text: str, *, model: str, actor: str, signed: bool, at: float
) -> Certificate:
    """Keep the certificate of a run, and write its digest into the ledger."""
    issued = Certificate(run_id, text, hashlib.sha256(text.encode()).hexdigest(), at)
    connection.execute(schema.certificates.insert().values(**issued.__dict__))
    ledger.append(
        connection,
        at=at,
        actor=actor,
        action="certificate.issued",
        model=model,
        run_id=run_id,
        reason="The promotion is certified."
        if signed
        else "The promotion is certified, without a signature.",
        body={"digest": issued.digest, "signed": signed},
    )
    return issued
