"""Certifies a promotion: on which spec, files, verdicts and moments it rests, and that the ledger says so too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

import understudy
from understudy.lifecycle.provenance import core_digest
from understudy.record import certificate, signing
from understudy.registry import DIGEST_TAG
from understudy.session import Passage
from understudy.store import certificates, history, ledger, moments, records
from understudy.store.records import RecordedVerdict

__all__ = ["certify"]


def certify(passage: Passage) -> str:
    """Issue the certificate of a promoted run, or return the one that was issued; safe to repeat.

    Returns:
        The text of the file, signed if there is a key.

    Raises:
        SettingMissing: The key cannot be used.
        StoreError: Stored moments are missing.
    """
    doors, run = passage.session, passage.run
    key = signing.private_key(doors.settings.signing_key)
    files = doors.registry.version(run.model, run.version).tags.get(DIGEST_TAG)
    with doors.store.write() as connection:
        issued = certificates.find(connection, run.run_id)
        if issued is None:
            now = doors.store.clock()
            text = certificate.issue(_parts(connection, passage, files, now), key)
            issued = certificates.save(
                connection,
                run.run_id,
                text,
                model=run.model,
                actor=run.actor,
                signed=key is not None,
                at=now,
            )
    return issued.text


def _parts(connection: Connection, passage: Passage, files: str | None, now: float) -> dict[str, Any]:
    run = passage.run
    recorded = records.verdicts_of(connection, run.run_id)
    concluded = records.newest_of_each_step(connection, run.run_id)
    begun = next((item.verdict.evidence for item in concluded if item.step == "preregister"), {})
    point = records.rollback_point(connection, run.run_id)
    entries = ledger.entries(connection, run_id=run.run_id)
    stored = _stored_moments(connection, run.run_id)
    return {
        "promotion": {
            "run_id": run.run_id,
            "experiment": run.experiment,
            "model": run.model,
            "version": run.version,
            "before": run.champion,
            "actor": run.actor,
            "reason": run.reason,
            "started_at": run.created_at,
            "promoted_at": next((entry.at for entry in entries if entry.action == "champion.promoted"), None),
            "issued_at": now,
            "trace_id": run.trace_id,
            "airflow": {name: run.airflow.get(name) for name in ("dag_id", "run_id")},
            "mlflow_run_id": run.mlflow_run_id,
        },
        "spec": {"digest": run.spec_digest},
        "files": {"registered": begun.get("challenger_digest"), "promoted": files},
        "way_back": {"version": point["version"], "digest": point["digest"]} if point else {},
        "code": {"understudy": understudy.__version__, "core": core_digest()},
        "verdicts": [_verdict(item, recorded, stored) for item in concluded],
        "looks": {
            "verdicts": len(recorded),
            "digest": certificate.digest_of([_digest(item) for item in recorded]),
        },
        "approvals": [],
        "ledger": history.proof_of_run(connection, run.run_id),
    }


def _verdict(
    item: RecordedVerdict, recorded: Sequence[RecordedVerdict], stored: Mapping[int, str]
) -> dict[str, Any]:
    return {
        "step": item.step,
        "stage": item.stage,
        "outcome": item.verdict.outcome.value,
        "reason": item.verdict.reason,
        "decision": item.decision,
        "sentence": item.verdict.sentence,
        "at": item.at,
        "digest": _digest(item),
        "moments": _moments(item.step, recorded, stored),
    }


def _moments(
    step: str, recorded: Sequence[RecordedVerdict], stored: Mapping[int, str]
) -> dict[str, Any] | None:
    """Return which moments a step was judged from: the verdict that ends a stage repeats its last look."""
    looks = (item.evidence for item in reversed(recorded) if item.step == step and item.evidence)
    evidence = next((found for found in looks if "seq" in found), None)
    if evidence is None:
        return None
    judged = evidence.get("digest") or evidence.get("look", {}).get("evidence", {}).get("digest")
    return {"upto": evidence["seq"], "evidence": judged, "stored": stored.get(evidence["seq"])}


def _digest(item: RecordedVerdict) -> str:
    """Return the digest of a verdict with everything that it was decided from."""
    return certificate.digest_of([item.verdict.to_dict(), item.decision, item.evidence, item.at])


def _stored_moments(connection: Connection, run_id: str) -> dict[int, str]:
    """Return, for each increment of a run, the digest of all stored moments up to it."""
    running, found = hashlib.sha256(), {}
    for increment in moments.load(connection, run_id):
        running.update(increment.body)
        found[increment.seq] = running.hexdigest()
    return found
