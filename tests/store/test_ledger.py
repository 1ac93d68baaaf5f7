"""The chain: it grows in one line, refuses changes, and names what got past the refusal. All of it on both engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import sqlalchemy as sa

from tests.store.conftest import past_the_triggers
from understudy.errors import LedgerBroken, StoreError
from understudy.record.chain import Anchor, Head, content_digest, link
from understudy.store import Store, ledger

ENTRIES = 6
on_sqlite = pytest.mark.parametrize("either", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("either", ["postgresql"], indirect=True)


@pytest.fixture
def chain(either: Store) -> Store:
    for number in range(1, ENTRIES + 1):
        with either.write() as connection:
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
    return either


def test_entries_come_back_in_order_and_the_chain_holds(chain: Store) -> None:
    with chain.read() as connection:
        found = ledger.entries(connection)
        assert ledger.verify(connection) is None
        assert ledger.head(connection) == Head(ENTRIES, found[-1].digest)
        assert [entry.seq for entry in ledger.entries(connection, model="delay")] == [1, 3, 5]
        assert [entry.seq for entry in ledger.entries(connection, run_id="run-4")] == [4]
    assert [entry.seq for entry in found] == list(range(1, ENTRIES + 1))
    assert found[0].previous == ledger.GENESIS
    assert all(later.previous == earlier.digest for earlier, later in pairwise(found))


def test_an_empty_ledger_is_sound(either: Store) -> None:
    with either.read() as connection:
        assert ledger.verify(connection) is None
        assert ledger.head(connection) == Head(0, ledger.GENESIS)


def test_particulars_that_json_writes_in_another_way_are_sound_too(either: Store) -> None:
    with either.write() as connection:
        body = {
            "numbered": {10: "ten", 2: "two"},
            "tuple": (1, 2),
            "small": 1e-300,
            "zero": -0.0,
            "big": 2**70,
        }
        entry = ledger.append(connection, at=5, actor="a", action="b", reason="c", body=body)
    with either.read() as connection:
        assert ledger.verify(connection) is None
        assert ledger.entries(connection) == [entry]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET reason = 'nothing happened' WHERE seq = 2",
        "UPDATE ledger SET digest = digest",
        "DELETE FROM ledger WHERE seq = 6",
        "DELETE FROM ledger",
        "INSERT INTO ledger SELECT 7, at, actor, action, model, run_id, reason, body, previous, 'f' FROM ledger WHERE seq = 6",
        "INSERT INTO ledger SELECT 8, at, actor, action, model, run_id, reason, body, digest, 'f' FROM ledger WHERE seq = 6",
        "UPDATE ledger_head SET seq = 4",
        "UPDATE ledger_head SET digest = 'f'",
        "UPDATE ledger_head SET seq = 7, digest = 'f'",
        "DELETE FROM ledger_head",
        "INSERT INTO ledger_head VALUES (9, 'f')",
    ],
)
def test_the_database_refuses_to_change_the_past(chain: Store, statement: str) -> None:
    refused = pytest.raises(sa.exc.DBAPIError, match=r"append-only|does not continue|only moves forward")
    with refused, chain.write() as connection:
        connection.execute(sa.text(statement))
    with chain.read() as connection:
        assert len(ledger.entries(connection)) == ENTRIES
        assert ledger.verify(connection) is None


@on_postgresql
@pytest.mark.parametrize("table", ["ledger", "ledger_head", "certificates", "moments"])
def test_postgresql_refuses_to_empty_what_is_append_only(chain: Store, table: str) -> None:
    refused = pytest.raises(sa.exc.DBAPIError, match=r"append-only|only moves forward")
    with refused, chain.write() as connection:
        connection.execute(sa.text(f"TRUNCATE {table}"))


@on_sqlite
@pytest.mark.parametrize("seq", [2, 6, 7])
def test_sqlite_does_not_let_an_insert_replace_an_older_entry(chain: Store, seq: int) -> None:
    with chain.read() as connection:
        known = ledger.entries(connection)
    replacing = (
        "INSERT OR REPLACE INTO ledger SELECT :seq, at, actor, action, model, run_id, 'forged', body, :previous, :digest "
        "FROM ledger WHERE seq = 1"
    )
    values = {"seq": seq, "previous": known[min(seq, 7) - 2].digest, "digest": known[1].digest}
    with pytest.raises(sa.exc.DBAPIError, match="does not continue"), chain.write() as connection:
        connection.execute(sa.text(replacing), values)
    with chain.read() as connection:
        assert ledger.entries(connection) == known


TAMPERED = {
    "an altered reason": ("UPDATE ledger SET reason = 'x' WHERE seq = 3", 3, "altered"),
    "an altered actor": ("UPDATE ledger SET actor = 'x' WHERE seq = 1", 1, "altered"),
    "an altered time": ("UPDATE ledger SET at = at + 1 WHERE seq = 6", 6, "altered"),
    "an altered body": ("""UPDATE ledger SET body = '{"number": 9}' WHERE seq = 4""", 4, "altered"),
    "a body with a space more": (
        """UPDATE ledger SET body = '{"deep":{"a":"ü","b":[1,2.5]},"none":null,"number":4, "share":4.1}' WHERE seq = 4""",
        4,
        "altered",
    ),
    "an altered model": ("UPDATE ledger SET model = NULL WHERE seq = 5", 5, "altered"),
    "an altered digest": ("UPDATE ledger SET digest = 'f' WHERE seq = 2", 2, "altered"),
    "an altered predecessor": ("UPDATE ledger SET previous = 'f' WHERE seq = 2", 2, "altered"),
    "a removed entry": ("DELETE FROM ledger WHERE seq = 4", 4, "missing"),
    "two removed entries": ("DELETE FROM ledger WHERE seq IN (3, 4)", 3, "missing"),
    "a removed first entry": ("DELETE FROM ledger WHERE seq = 1", 1, "missing"),
    "a moved entry": ("UPDATE ledger SET seq = 10 WHERE seq = 2", 2, "missing"),
    "an entry before the first": ("UPDATE ledger SET seq = 0 WHERE seq = 2", 1, "out of place"),
    "a cut tail": ("DELETE FROM ledger WHERE seq > 4", 5, "tail cut"),
    "a cut last entry": ("DELETE FROM ledger WHERE seq = 6", 6, "tail cut"),
    "an emptied ledger": ("DELETE FROM ledger", 1, "tail cut"),
    "a head set back": ("UPDATE ledger_head SET seq = 4", 6, "head"),
    "a head of another digest": ("UPDATE ledger_head SET digest = 'f'", 6, "head"),
    "a removed head": ("DELETE FROM ledger_head", 6, "head"),
}


@pytest.mark.parametrize(("statement", "broken", "kind"), TAMPERED.values(), ids=TAMPERED.keys())
def test_verify_names_the_first_entry_that_is_wrong_and_what_is_wrong_with_it(
    chain: Store, statement: str, broken: int, kind: str
) -> None:
    past_the_triggers(chain, statement.replace(":", r"\:"))
    with chain.read() as connection:
        found = ledger.verify(connection)
    assert found is not None
    assert (found.seq, found.kind) == (broken, kind)
    assert "entry" in found.sentence.lower() or "head" in found.sentence


NO_PARTICULARS = [
    ("sqlite", "torn"), ("sqlite", '{"number":NaN}'), ("sqlite", "[" * 5000), ("sqlite", "null"), ("postgresql", "null"),
    ("sqlite", '{"half":"\\ud800"}'), ("postgresql", '{"half":"\\ud800"}'),
]  # fmt: skip


@pytest.mark.parametrize(("either", "body"), NO_PARTICULARS, indirect=["either"])
def test_particulars_that_are_none_any_more_are_an_altered_entry_and_no_failure(
    chain: Store, body: str
) -> None:
    past_the_triggers(chain, "UPDATE ledger SET body = :body WHERE seq = 3", body=body)
    with chain.read() as connection:
        found = ledger.verify(connection)
    assert found is not None
    assert (found.seq, found.kind) == (3, "altered")


def test_an_entry_put_in_between_is_named(chain: Store) -> None:
    past_the_triggers(
        chain,
        "UPDATE ledger SET seq = seq + 100 WHERE seq > 2",
        "UPDATE ledger SET seq = seq - 99 WHERE seq > 100",
        "INSERT INTO ledger SELECT 3, at, actor, action, model, run_id, 'forged', body, digest, 'e' FROM ledger WHERE seq = 2",
    )
    with chain.read() as connection:
        found = ledger.verify(connection)
    assert found is not None
    assert (found.seq, found.kind) == (3, "altered")


def _written_anew(store: Store, seq: int, reason: str) -> str:
    """Change an entry as somebody does who knows the rule of its digest; return the digest."""
    with store.read() as connection:
        entry = ledger.entries(connection)[seq - 1]
    about = (entry.seq, entry.at, entry.actor, entry.action, entry.model, entry.run_id, reason)
    body = json.dumps(dict(entry.body), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = link(entry.previous, content_digest(about, body))
    past_the_triggers(
        store,
        "UPDATE ledger SET reason = :reason, digest = :digest WHERE seq = :seq",
        reason=reason,
        digest=digest,
        seq=seq,
    )
    return digest


def test_an_entry_that_was_written_again_with_a_fitting_digest_breaks_the_next_one(chain: Store) -> None:
    _written_anew(chain, 2, "somebody knows the algorithm")
    with chain.read() as connection:
        found = ledger.verify(connection)
    assert found is not None
    assert (found.seq, found.kind) == (3, "out of place")


def test_a_last_entry_written_again_with_its_head_is_only_seen_by_who_knew_it_before(chain: Store) -> None:
    with chain.read() as connection:
        before = ledger.head(connection)
    assert before is not None
    digest = _written_anew(chain, ENTRIES, "forged")
    past_the_triggers(chain, "UPDATE ledger_head SET digest = :digest", digest=digest)
    with chain.read() as connection:
        assert ledger.verify(connection) is None
        found = ledger.examine(connection, [Anchor("the certificate", before)]).broken
    assert found is not None
    assert (found.seq, found.kind) == (ENTRIES, "altered")
    assert "the certificate" in found.sentence


def test_a_tail_that_was_cut_with_its_head_is_only_seen_by_who_knew_it_before(chain: Store) -> None:
    with chain.read() as connection:
        before, fourth = ledger.head(connection), ledger.entries(connection)[3]
    assert before is not None
    past_the_triggers(
        chain,
        "DELETE FROM ledger WHERE seq > 4",
        "UPDATE ledger_head SET seq = 4, digest = :digest",
        digest=fourth.digest,
    )
    with chain.read() as connection:
        assert ledger.verify(connection) is None
        found = ledger.examine(connection, [Anchor("a backup", before)]).broken
    assert found is not None
    assert (found.seq, found.kind) == (5, "tail cut")
    assert "a backup" in found.sentence


def test_what_was_lost_by_putting_the_store_back_is_told_apart_from_what_was_cut_off(chain: Store) -> None:
    with chain.write() as connection:
        ledger.append(connection, at=2_000_000_000, actor="a", action="store.restored", reason="r")
    remembered = [
        Anchor("known before", Head(9, "f" * 64), at=1_999_999_999.0),
        Anchor("known before too", Head(7, "f" * 64), at=1_999_999_999.0),
    ]
    with chain.read() as connection:
        found = ledger.examine(connection, remembered)
        assert (found.broken, len(found.lost)) == (None, 2)
        later = ledger.examine(connection, [Anchor("known after", Head(9, "f" * 64), at=2_000_000_001.0)])
        earlier = ledger.examine(connection, [Anchor("in the backup", Head(5, "f" * 64), at=1_999_999_999.0)])
    assert later.broken is not None
    assert later.broken.kind == "tail cut"
    assert earlier.broken is not None
    assert (earlier.broken.seq, earlier.broken.kind) == (5, "altered")


def test_without_a_head_nothing_is_appended_and_the_fix_is_named(chain: Store) -> None:
    past_the_triggers(chain, "DELETE FROM ledger_head")
    with pytest.raises(LedgerBroken, match="store restore"), chain.write() as connection:
        ledger.append(connection, at=1.0, actor="a", action="b", reason="c")


def test_after_a_cut_the_chain_goes_on_from_its_head_so_that_the_gap_stays_visible(chain: Store) -> None:
    past_the_triggers(chain, "DELETE FROM ledger WHERE seq > 4")
    reopened = Store(chain.engine, chain.clock)
    with reopened.write() as connection:
        assert ledger.append(connection, at=1.0, actor="a", action="b", reason="c").seq == ENTRIES + 1
    with reopened.read() as connection:
        found = ledger.verify(connection)
    assert found is not None
    assert (found.seq, found.kind) == (5, "missing")


WRITERS, EACH = 6, 25

_WRITER = f"""
import sys
from understudy.settings import Settings
from understudy.store import Store, ledger
store = Store.open(Settings.from_env())
for number in range({EACH}):
    with store.write() as connection:
        ledger.append(connection, at=store.clock(), actor=sys.argv[1], action="raced", reason="r", body={{"number": number}})
"""


@pytest.mark.parametrize(
    ("either", "level"),
    [("sqlite", None), ("postgresql", "read committed"), ("postgresql", "serializable")],
    indirect=["either"],
)
def test_many_processes_that_write_at_once_make_one_chain_and_lose_nothing(
    either: Store, level: str | None
) -> None:
    if level is not None:
        with either.write() as connection:  # whatever the server's default is
            name = either.engine.url.database
            connection.execute(
                sa.text(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
            )
        either.engine.dispose()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, f"writer-{number}"],
            env=os.environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    outputs = [process.communicate(timeout=180)[1] for process in started]
    assert [process.returncode for process in started] == [0] * WRITERS, "\n".join(outputs)
    with either.read() as connection:
        found = ledger.entries(connection)
        assert ledger.verify(connection) is None
    assert len(found) == WRITERS * EACH
    for number in range(WRITERS):
        own = [entry.body["number"] for entry in found if entry.actor == f"writer-{number}"]
        assert own == list(range(EACH))


@on_postgresql
def test_a_writer_that_does_not_take_the_lock_cannot_fork_the_chain(either: Store) -> None:
    with either.engine.connect() as connection, connection.begin():
        ledger.append(connection, at=1.0, actor="first", action="b", reason="c")
        # It sees the head of before, waits for the first one's row, and then finds that it is no longer the head.
        other = (
            "import sys; import sqlalchemy as sa\n"
            "from understudy.store import ledger\n"
            "with sa.create_engine(sys.argv[1]).begin() as connection:\n"
            "    connection.execute(sa.text('SELECT 1'))\n"
            "    ledger.append(connection, at=2.0, actor='second', action='b', reason='c')\n"
        )
        url = either.engine.url.render_as_string(hide_password=False)
        process = subprocess.Popen([sys.executable, "-c", other, url], stderr=subprocess.PIPE, text=True)
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        _await_lock(either, waits, process)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "does not continue" in told or "duplicate key" in told
    with either.read() as connection:
        assert [entry.actor for entry in ledger.entries(connection)] == ["first"]
        assert ledger.verify(connection) is None


def _await_lock(store: Store, waits: sa.TextClause, process: subprocess.Popen[str]) -> None:
    from tests.servers import wait_until

    def waiting() -> bool:
        if process.poll() is not None:
            raise StoreError(f"the second writer ended: {process.stderr.read() if process.stderr else ''}")
        with store.read() as connection:
            return bool(connection.execute(waits).scalar())

    wait_until(waiting, "the second writer waits")
