"""What must still happen outside: kept until somebody has done it, on every kind of database."""

from __future__ import annotations

import pytest

from understudy.store import Store, ledger, outbox


def test_an_errand_is_pending_until_it_is_done_and_is_done_once(either: Store) -> None:
    with either.write() as connection:
        outbox.put(connection, "tell", {"whom": "ops"}, at=1.5)
        outbox.put(connection, "other", {}, at=2.0)
        outbox.put(connection, "tell", {"whom": "billing"}, at=3.0)
    with either.read() as connection:
        found = outbox.pending(connection, "tell")
    assert [(errand.body["whom"], errand.at) for errand in found] == [("ops", 1.5), ("billing", 3.0)]
    with either.write() as connection:
        assert outbox.mark_done(connection, found[0], at=4.0)
        assert not outbox.mark_done(connection, found[0], at=5.0)
        assert outbox.pending(connection, "tell") == found[1:]


def test_an_errand_of_a_transaction_that_failed_was_never_noted(either: Store) -> None:
    def torn() -> None:
        with either.write() as connection:
            outbox.put(connection, "tell", {}, at=1.0)
            raise KeyError

    with pytest.raises(KeyError):
        torn()
    with either.read() as connection:
        assert outbox.pending(connection, "tell") == []


def test_entries_of_some_actions_are_found_in_order(either: Store) -> None:
    with either.write() as connection:
        for number, action in enumerate(("a", "b", "c", "b")):
            ledger.append(connection, at=float(number), actor="t", action=action, reason="r")
    with either.read() as connection:
        assert [entry.seq for entry in ledger.entries(connection, actions=("b", "a"))] == [1, 2, 4]
        assert [entry.seq for entry in ledger.entries(connection, actions=("b",), newest=1)] == [4]
        assert ledger.entries(connection, actions=()) == []
