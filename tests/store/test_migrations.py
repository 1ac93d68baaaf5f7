"""A ledger of before: it is chained anew, and whether it had been whole goes on record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store.conftest import ENGINES, Databases
from understudy.settings import Settings
from understudy.store import Store, ledger
from understudy.store.database import upgrade

NAMES = ("seq", "at", "actor", "action", "model", "run_id", "reason", "body", "previous", "digest")


def old_entries(count: int) -> Iterator[dict[str, Any]]:
    """Give entries as they were chained before contents had digests of their own."""
    previous = "0" * 64
    for seq in range(1, count + 1):
        about = (
            seq,
            1.5 + seq,
            "Zoë",
            "test.done",
            "m" if seq % 2 else None,
            None,
            "r",
            {"b": [seq, 0.1], "a": "ü"},
            previous,
        )
        entry = dict(zip(NAMES, about, strict=False))
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(text.encode()).hexdigest()
        yield entry | {"digest": previous, "body": json.dumps(entry["body"])}


@pytest.fixture(params=ENGINES)
def old(request: pytest.FixtureRequest, database: Databases, installation: Settings) -> Settings:
    settings = replace(installation, store_url=database(request.param))
    store = Store.as_found(settings)
    with store.write() as connection:
        upgrade(connection, "0005")
    store.close()
    return settings


def insert(settings: Settings, *entries: dict[str, Any]) -> None:
    store = Store.as_found(settings)
    with store.write() as connection:
        values = ", ".join(f":{name}" for name in NAMES)
        for entry in entries:
            connection.execute(sa.text(f"INSERT INTO ledger VALUES ({values})"), entry)
    store.close()


def upgraded(settings: Settings) -> list[ledger.Entry]:
    store = Store.open(settings)
    with store.read() as connection:
        assert ledger.verify(connection) is None
        found = ledger.entries(connection)
    store.close()
    return found


def test_entries_of_before_say_what_they_said_and_the_chain_holds(old: Settings) -> None:
    entries = list(old_entries(5))
    insert(old, *entries)
    found = upgraded(old)
    assert [entry.action for entry in found] == ["test.done"] * 5 + ["ledger.chained_anew"]
    for entry, before in zip(found, entries, strict=False):
        kept = {name: before[name] for name in NAMES[:7]}
        assert {name: getattr(entry, name) for name in NAMES[:7]} == kept
        assert entry.body == json.loads(before["body"])
    assert found[-1].body == {"head_before": entries[-1]["digest"], "first_broken_before": None}


def test_a_ledger_that_was_broken_before_is_said_to_have_been(old: Settings) -> None:
    entries = list(old_entries(5))
    insert(old, *entries[:2], entries[2] | {"actor": "forged"}, *entries[3:])
    assert upgraded(old)[-1].body["first_broken_before"] == 3


def test_an_empty_ledger_stays_empty(old: Settings) -> None:
    assert upgraded(old) == []


def test_upgrading_again_changes_nothing(old: Settings, tmp_path: Path) -> None:
    insert(old, *old_entries(3))
    first = upgraded(old)
    assert upgraded(old) == first
