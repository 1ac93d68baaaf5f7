"""Increments in the store: numbered without gaps, never changed, and the first writer wins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from understudy.errors import StoreError
from understudy.store import Store, moments
from understudy.store.moments import StoredIncrement


def increment(seq: int, run_id: str = "r", **changes: object) -> StoredIncrement:
    made = StoredIncrement(
        run_id, seq, 10.0 + seq, {"offsets": {"requests/w-0.jsonl": seq}}, {"duplicates": seq}, b"\x00\xff"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def put(store: Store, *increments: StoredIncrement) -> list[bool]:
    with store.write() as connection:
        return [moments.append(connection, item) for item in increments]


def test_what_was_put_comes_back_in_order_and_run_by_run(store: Store) -> None:
    assert put(store, increment(1), increment(1, "other"), increment(2), increment(3)) == [True] * 4
    with store.read() as connection:
        assert moments.load(connection, "r") == [increment(1), increment(2), increment(3)]
        assert moments.load(connection, "r", after=1, upto=2) == [increment(2)]
        assert moments.load(connection, "nobody") == []
        assert [moments.latest_seq(connection, run) for run in ("r", "other", "nobody")] == [3, 1, 0]


def test_the_second_writer_of_a_number_changes_nothing(store: Store) -> None:
    assert put(store, increment(1)) == [True]
    assert put(store, increment(1, body=b"mine")) == [False]
    with store.read() as connection:
        assert moments.load(connection, "r") == [increment(1)]


def test_a_gap_is_refused_when_writing_and_noticed_when_reading(store: Store) -> None:
    with pytest.raises(ValueError, match="cannot follow 0"):
        put(store, increment(2))
    put(store, increment(1))
    with store.read() as connection, pytest.raises(StoreError, match="1 are stored"):
        moments.load(connection, "r", upto=2)


@pytest.mark.parametrize("change", ["UPDATE moments SET at = 0", "DELETE FROM moments"])
def test_stored_moments_refuse_every_change(store: Store, change: str) -> None:
    put(store, increment(1))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
        connection.execute(sa.text(change))


def test_the_newest_summary_is_found_without_reading_the_others(store: Store) -> None:
    put(
        store,
        increment(1),
        increment(2, summary=b"two"),
        increment(3),
        increment(4, summary=b"four"),
        increment(5),
    )
    with store.read() as connection:
        found = [moments.newest_summary(connection, "r", upto) for upto in (None, 3, 1)]
        assert [None if item is None else (item.seq, item.summary) for item in found] == [
            (4, b"four"),
            (2, b"two"),
            None,
        ]
        assert {item.summary for item in moments.load(connection, "r")} == {None}
