"""A chain in memory, and a promotion that it proves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from understudy.record.chain import GENESIS, Entry, Head, canonical, content_digest, link
from understudy.record.exported import proof

Chain = list[Entry]


def chained(said: list[dict[str, Any]]) -> Chain:
    """Put entries behind each other."""
    found: Chain = []
    for seq, fields in enumerate(said, 1):
        told = {
            "at": 1_700_000_000.5 + seq,
            "actor": "Zoë",
            "model": None,
            "run_id": None,
            "reason": "r",
            "body": {},
        } | fields
        about = tuple(
            ({"seq": seq} | told)[name]
            for name in ("seq", "at", "actor", "action", "model", "run_id", "reason")
        )
        previous = found[-1].digest if found else GENESIS
        digest = link(previous, content_digest(about, canonical(told["body"])))
        found.append(Entry(*about, told["body"], previous, digest))
    return found


@pytest.fixture
def ledger() -> Chain:
    """Twelve entries of two models; run r2 of model a is promoted."""
    body = {"champion": "2", "before": "1", "generation": 7}
    return chained(
        [
            {"action": "champion.adopted", "model": "a", "body": {"champion": "1"}},
            {"action": "champion.adopted", "model": "b", "body": {"champion": "4"}},
            {"action": "run.started", "model": "a", "run_id": "r1"},
            {"action": "run.failed", "model": "a", "run_id": "r1"},
            {"action": "run.started", "model": "a", "run_id": "r2"},
            {"action": "run.started", "model": "b", "run_id": "r3"},
            {"action": "exposure.raised", "model": "a", "run_id": "r2"},
            {"action": "run.failed", "model": "b", "run_id": "r3"},
            {"action": "champion.promoted", "model": "a", "run_id": "r2", "body": body},
            {"action": "run.promoted", "model": "a", "run_id": "r2"},
            {"action": "run.started", "model": "b", "run_id": "r4"},
            {"action": "run.failed", "model": "b", "run_id": "r4"},
        ]
    )


Parts = Callable[..., dict[str, Any]]


@pytest.fixture
def parts(ledger: Chain) -> Parts:
    """Return a function that gives the parts of r2's certificate, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        after, head = ledger[3], ledger[-1]
        chain = list(proof((entry, entry.run_id == "r2") for entry in ledger[4:]))
        return {
            "promotion": {
                "run_id": "r2", "experiment": "delay", "model": "a", "version": "2", "before": "1", "actor": "Zoë",
                "reason": "better", "promoted_at": 1_700_000_009.5, "issued_at": 1_700_000_020.0,
            },
            "spec": {"digest": "5" * 64},
            "files": {"registered": "f" * 64, "promoted": "f" * 64},
            "way_back": {},
            "verdicts": [
                {"step": "evaluate", "outcome": "PASS", "at": 1.5, "digest": "1" * 64, "moments": None},
                {"step": "stage_1", "outcome": "PASS", "at": 2.5, "digest": "2" * 64, "moments": {"upto": 3, "stored": "3" * 64}},
            ],
            "approvals": [],
            "ledger": {
                "after": Head(after.seq, after.digest).__dict__,
                "head": Head(head.seq, head.digest).__dict__,
                "chain": chain,
            },
        } | changes  # fmt: skip

    return make
