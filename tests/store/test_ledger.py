"""The chain: it grows in one line, refuses changes, and names what got past the refusal."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import sqlalchemy as sa

from understudy.store import Store, ledger

ENTRIES = 6


@pytest.fixture
def chain(store: Store) -> Store:
    for number in range(1, ENTRIES + 1):
        with store.write() as connection:
            ledger.append(
                connection,
                at=1_700_000_000 + number,
                actor="Zoë",
                action="test.done",
                model="delay" if number % 2 else None,
                run_id=f"run-{number}",
                reason='quotes " and \n lines',
                body={
                    "number": number,
                    "share": 0.1 + number,
                    "none": None,
                    "deep": {"b": [1, 2.5], "a": "ü"},
                },
            )
    return store


def test_entries_come_back_in_order_and_the_chain_holds(chain: Store) -> None:
    with chain.read() as connection:
        found = ledger.entries(connection)
        assert ledger.verify(connection) is None
        assert [entry.seq for entry in ledger.entries(connection, model="delay")] == [1, 3, 5]
        assert [entry.seq for entry in ledger.entries(connection, run_id="run-4")] == [4]
    assert [entry.seq for entry in found] == list(range(1, ENTRIES + 1))
    assert found[0].previous == ledger.GENESIS
    assert all(later.previous == earlier.digest for earlier, later in pairwise(found))


def test_an_empty_ledger_is_sound(store: Store) -> None:
    with store.read() as connection:
        assert ledger.verify(connection) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET reason = 'nothing happened' WHERE seq = 2",
        "UPDATE ledger SET digest = digest",
        "DELETE FROM ledger WHERE seq = 6",
        "DELETE FROM ledger",
    ],
)
def test_the_database_refuses_to_change_the_past(chain: Store, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), chain.write() as connection:
        connection.execute(sa.text(statement))
    with chain.read() as connection:
        assert len(ledger.entries(connection)) == ENTRIES
        assert ledger.verify(connection) is None


TAMPERED = {
    "an altered reason": ("UPDATE ledger SET reason = 'x' WHERE seq = 3", 3),
    "an altered actor": ("UPDATE ledger SET actor = 'x' WHERE seq = 1", 1),
    "an altered time": ("UPDATE ledger SET at = at + 1 WHERE seq = 6", 6),
    "an altered body": ("""UPDATE ledger SET body = '{"number": 9}' WHERE seq = 4""", 4),
    "an altered model": ("UPDATE ledger SET model = NULL WHERE seq = 5", 5),
    "an altered digest": ("UPDATE ledger SET digest = 'f' WHERE seq = 2", 2),
    "a removed entry": ("DELETE FROM ledger WHERE seq = 4", 4),
    "a removed first entry": ("DELETE FROM ledger WHERE seq = 1", 1),
    "a moved entry": ("UPDATE ledger SET seq = 10 WHERE seq = 2", 2),
}


@pytest.mark.parametrize(("statement", "broken"), TAMPERED.values(), ids=TAMPERED.keys())
def test_verify_names_the_first_entry_that_does_not_fit(chain: Store, statement: str, broken: int) -> None:
    _without_triggers(chain, statement)
    with chain.read() as connection:
        assert ledger.verify(connection) == broken


def test_an_entry_put_in_between_is_named(chain: Store) -> None:
    with chain.read() as connection:
        third = ledger.entries(connection)[2]
    forged = dict(third.__dict__) | {"reason": "forged", "digest": "e" * 64}
    _without_triggers(
        chain,
        "UPDATE ledger SET seq = seq + 100 WHERE seq > 2",
        "UPDATE ledger SET seq = seq - 99 WHERE seq > 100",
        "INSERT INTO ledger VALUES (:seq, :at, :actor, :action, :model, :run_id, :reason, :body, :previous, :digest)",
        **forged | {"body": json.dumps(dict(third.body))},
    )
    with chain.read() as connection:
        assert ledger.verify(connection) == 3


def test_an_entry_that_was_written_again_with_a_fitting_digest_breaks_the_next_one(chain: Store) -> None:
    with chain.read() as connection:
        row = dict(ledger.entries(connection)[1].__dict__)
    row["reason"] = "somebody knows the algorithm"
    del row["digest"]
    _without_triggers(
        chain,
        "UPDATE ledger SET reason = :reason, digest = :digest WHERE seq = 2",
        reason=row["reason"],
        digest=ledger._digest(row),
    )
    with chain.read() as connection:
        assert ledger.verify(connection) == 3


def _without_triggers(store: Store, *statements: str, **values: object) -> None:
    """Change the past as somebody could who owns the database file."""
    with store.write() as connection:
        for verb in ("update", "delete"):
            connection.execute(sa.text(f"DROP TRIGGER ledger_refuses_{verb}"))
        for statement in statements:
            connection.execute(sa.text(statement), values if ":" in statement.replace('":', "") else {})
