"""A promoted run with a signed certificate, as the store has it, for commands to look at."""

from __future__ import annotations

import base64

from tests import declared
from understudy.record import certificate, signing
from understudy.session import session
from understudy.store import Store, certificates, exposures, history, ledger, runs
from understudy.store.runs import RunState

__all__ = ["AT", "SIGNING_KEY", "promoted"]

SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()
AT = 1_763_700_000.0


def promoted(model: str = declared.MODEL, experiment: str = declared.NAME) -> tuple[Store, str]:
    """Write a promoted run with a signed certificate into the store; its entries are ten seconds apart, from `AT` on."""
    store = session().store
    with store.write() as connection:
        exposures.adopt(connection, model, "1", actor="tests", at=AT)
        begun = runs.create(
            connection, key=f"k-{model}", spec=declared.experiment(model=model, name=experiment).frozen(), spec_digest="d",
            version="2", champion="1", actor="Ada", reason="a test", airflow={}, at=AT + 10,
        )  # fmt: skip
        exposures.raise_to(connection, begun.run_id, 1, 10.0, 60.0, at=AT + 20)
        runs.set_state(connection, begun.run_id, RunState.PROMOTING, AT + 30)
        before = exposures.find(connection, model)
        assert before is not None
        served = exposures.promote(connection, begun.run_id, at=AT + 30)
        body = {
            "champion": "2",
            "before": "1",
            "generation": served.generation,
            "lease_before": before.lease_expires_at,
        }
        ledger.append(
            connection, at=AT + 30, actor="Ada", action="champion.promoted", model=model, run_id=begun.run_id,
            reason="won", body=body,
        )  # fmt: skip
        runs.end(connection, begun, RunState.PROMOTED, ending="promoted", actor="Ada", at=AT + 30)
        promotion = {
            "run_id": begun.run_id, "model": model, "version": "2", "before": "1", "promoted_at": AT + 30, "issued_at": AT + 40,
        }  # fmt: skip
        parts = {
            "promotion": promotion, "spec": {"digest": "d"}, "files": {"promoted": "f"}, "approvals": [],
            "verdicts": [{"step": "compare", "outcome": "PASS", "at": AT + 25, "digest": "e" * 64, "moments": None}],
            "ledger": history.proof_of_run(connection, begun.run_id),
        }  # fmt: skip
        text = certificate.issue(parts, signing.private_key(SIGNING_KEY))
        certificates.save(connection, begun.run_id, text, model=model, actor="Ada", signed=True, at=AT + 40)
    exposures.publish_flags(store, session().settings)
    return store, begun.run_id
