"""A backup is made while others write, restores into either engine, and puts nothing of the past back into force."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import declared
from tests.store.conftest import ENGINES, Clock, Databases, past_the_triggers
from understudy.errors import BackupInvalid, LedgerBroken, StoreError, StoreNotEmpty
from understudy.exposure import Exposure
from understudy.record.chain import Head
from understudy.settings import Settings
from understudy.store import Store, certificates, exposures, ledger, moments, records, recovery, runs, schema
from understudy.store.backup import Summary, back_up, inspect, tables
from understudy.store.database import NEWEST
from understudy.store.drills import Drilled
from understudy.store.drills import record as record_drill
from understudy.store.feature_sets import FeatureSet, register
from understudy.store.readiness import Readiness, record
from understudy.store.recovery import STRIDE, Seen
from understudy.verdicts import Outcome, Verdict

MODEL = "delay"
UGLY = "quotes ' \" \\ and\nlines, \t tabs, ü, 漢, 🙂"


def fill(store: Store) -> runs.Run:
    """Write something into every table, ugly values among it; a run is exposed at the end."""
    with store.write() as connection:
        at = store.clock()
        exposures.adopt(connection, MODEL, "1", actor=UGLY, at=at)
        run = runs.create(
            connection, key="k", spec=declared.experiment(model=MODEL).frozen(), spec_digest="d" * 64, version="2",
            champion="1", actor="tests", reason=UGLY, airflow={"run_id": "manual", "deep": [1, 2.5, None, {"b": 1, "a": 2}]},
            at=at,
        )  # fmt: skip
        exposures.raise_to(connection, run.run_id, 1, 5.0, 30.0, rings=[("origin=JFK", 50.0)], at=at)
        for number in range(30):
            verdict = Verdict(Outcome.PASS, "r", UGLY, {"tiny": 5e-324, "share": 0.1 + number, "zero": -0.0})
            evidence = None if number % 2 else {"z": 1, "a": [number]}
            records.record_verdict(
                connection, run.run_id, "look", verdict, at=at + number / 3, evidence=evidence
            )
        for seq in range(1, 4):
            body = bytes(range(256)) * seq
            moments.append(
                connection,
                moments.StoredIncrement(run.run_id, seq, at, {}, {}, body, None if seq < 3 else b"\0sum"),
            )
        records.save_rollback_point(
            connection, run.run_id, MODEL, "1", {"files": {"a": "b"}}, "e" * 64, at=at
        )
        columns = (("wind", "double"), ("hour", "long"))
        register(connection, FeatureSet(MODEL, "first", columns, "a" * 64, "c" * 64), actor="a", at=at)
        record(connection, Readiness(run.run_id, MODEL, "1", False, UGLY, (UGLY,), 0.1, at))
        records.accept_starts(connection, {f"{MODEL}:2": "alias", "Z:1": "a", "a:1": "b", "É:1": "c"}, at=at)
        drill = Drilled("d", MODEL, "1", "slow", False, UGLY, {"told": UGLY, "cost": None}, at)
        record_drill(connection, [drill], actor="a", reason=UGLY)
        certificates.save(connection, "old-run", "text " + UGLY, model=MODEL, actor="a", signed=False, at=at)
    return run


def rows(store: Store) -> dict[str, list[Any]]:
    with store.read() as connection:
        found = {}
        for table in tables(connection):
            keys = list(table.primary_key)
            read = connection.execute(sa.select(table)).all()
            found[table.name] = sorted(map(repr, (tuple(row) for row in read))) if keys else []
        return found


Empty = Callable[[str], Store]


@pytest.fixture
def empty(database: Databases, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives a store without tables."""
    opened = []

    def make(engine: str) -> Store:
        monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "other"))
        monkeypatch.setenv("UNDERSTUDY_STORE_URL", database(engine))
        opened.append(Store.as_found(Settings.from_env(), clock))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def restore(store: Store, path: Path, **seen: Seen) -> recovery.Restored:
    return recovery.restore(store, path, seen, actor="tests")


@pytest.mark.parametrize("target", ENGINES)
def test_what_was_backed_up_comes_back_in_either_engine_to_the_last_byte(
    either: Store, empty: Empty, tmp_path: Path, target: str
) -> None:
    fill(either)
    before = rows(either)
    summary = back_up(either, tmp_path / "backup")
    assert summary.rows == {name: len(found) for name, found in before.items()}
    assert min(summary.rows.values()) > 0
    store = empty(target)
    restored = restore(store, tmp_path / "backup")
    after = rows(store)
    settled = {"exposures", "runs", "ledger", "outbox"}
    assert {name: after[name] for name in before if name not in settled} == {
        name: before[name] for name in before if name not in settled
    }
    with either.read() as one, store.read() as other:
        entries = ledger.entries(one)
        assert ledger.entries(other)[: len(entries)] == entries
        assert ledger.verify(other) is None
        assert ledger.head(other) == restored.head
    # A backup of the restored store says what it says in the other engine too.
    assert back_up(store, tmp_path / "again").rows["verdicts"] == 30


@pytest.mark.parametrize("target", ENGINES)
def test_a_restored_store_counts_on_where_the_other_stopped(
    either: Store, empty: Empty, tmp_path: Path, target: str
) -> None:
    run = fill(either)
    back_up(either, tmp_path / "backup")
    store = empty(target)
    restore(store, tmp_path / "backup")
    with store.write() as connection:
        records.record_verdict(connection, run.run_id, "look", Verdict(Outcome.PASS, "r", "s"), at=1.0)
        exposures.adopt(connection, "another", "1", actor="a", at=1.0)
        highest = connection.execute(sa.select(sa.func.max(schema.verdicts.c.id))).scalar()
        assert ledger.verify(connection) is None
    assert highest == 31
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
        connection.execute(sa.text("DELETE FROM ledger"))


def test_an_empty_store_can_be_backed_up_and_put_back(either: Store, empty: Empty, tmp_path: Path) -> None:
    back_up(either, tmp_path / "backup")
    restored = restore(empty("sqlite"), tmp_path / "backup")
    assert (restored.exposures, restored.ended, restored.head.seq) == ((), (), 1)


def test_others_write_on_while_a_backup_is_made_and_it_is_of_one_moment(
    either: Store, tmp_path: Path
) -> None:
    fill(either)
    ended = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not ended.is_set():
                with either.write() as connection:
                    ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
                    connection.execute(
                        schema.outbox.insert().values(kind="pair", body={}, at=ledger.head(connection).seq)  # type: ignore[union-attr]
                    )
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    made: list[Summary] = []
    try:
        while len(made) < 3 or made[-1].head.seq == made[0].head.seq:
            made.append(back_up(either, tmp_path / "backup"))
    finally:
        ended.set()
        thread.join()
    assert failures == []
    for summary in made:
        # Each pair is one transaction: a backup that saw half of one would count otherwise.
        assert (
            summary.rows["ledger"] - summary.rows["outbox"] == made[0].rows["ledger"] - made[0].rows["outbox"]
        )
        assert summary.rows["ledger"] == summary.head.seq


def test_a_backup_replaces_the_one_before_and_leaves_nothing_beside_it(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    first = back_up(store, folder / "backup")
    fill(store)
    second = back_up(store, folder / "backup")
    assert inspect(folder / "backup") == second != first
    assert [path.name for path in folder.iterdir()] == ["backup"]
    assert (folder / "backup").stat().st_mode & 0o077 == 0


def test_a_store_whose_ledger_is_broken_is_not_backed_up_and_the_last_backup_stays(
    either: Store, tmp_path: Path
) -> None:
    fill(either)
    before = back_up(either, tmp_path / "backup")
    past_the_triggers(either, "UPDATE ledger SET actor = 'x' WHERE seq = 2")
    with pytest.raises(LedgerBroken, match="Entry 2 was altered"):
        back_up(either, tmp_path / "backup")
    assert inspect(tmp_path / "backup") == before
    assert not list(tmp_path.glob("backup*.new"))


def test_a_place_that_cannot_be_written_is_an_error_with_the_fix(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        back_up(store, tmp_path / "file" / "backup")


@pytest.fixture
def whole(store: Store, tmp_path: Path) -> bytes:
    """The lines of a backup."""
    fill(store)
    back_up(store, tmp_path / "whole")
    return gzip.decompress((tmp_path / "whole").read_bytes())


def test_a_backup_that_is_cut_off_anywhere_is_refused_and_nothing_of_it_is_put_back(
    store: Store, whole: bytes, empty: Empty, tmp_path: Path
) -> None:
    packed, target = (tmp_path / "whole").read_bytes(), empty("sqlite")
    for length in [*range(0, len(packed), len(packed) // 40), len(packed) - 1]:
        (tmp_path / "torn").write_bytes(packed[:length])
        with pytest.raises(BackupInvalid, match="torn"):
            restore(target, tmp_path / "torn")
    lines = whole.splitlines(keepends=True)
    for count in range(len(lines)):
        (tmp_path / "torn").write_bytes(gzip.compress(b"".join(lines[:count])))
        with pytest.raises(BackupInvalid):
            inspect(tmp_path / "torn")
    assert sa.inspect(target.engine).get_table_names() == []


def test_a_backup_in_which_anything_is_altered_is_refused(whole: bytes, tmp_path: Path) -> None:
    lines = whole.splitlines(keepends=True)
    for number, line in enumerate(lines):
        changed = [*lines[:number], line[:-2] + bytes([line[-2] ^ 1]) + b"\n", *lines[number + 1 :]]
        (tmp_path / "altered").write_bytes(gzip.compress(b"".join(changed), 1))
        with pytest.raises(BackupInvalid):
            inspect(tmp_path / "altered")
        without = [*lines[:number], *lines[number + 1 :]]
        (tmp_path / "altered").write_bytes(gzip.compress(b"".join(without), 1))
        with pytest.raises(BackupInvalid):
            inspect(tmp_path / "altered")


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x1f\x8b", gzip.compress(b""), gzip.compress(b"{}\n"), gzip.compress(b"[" * 9999)],
)
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BackupInvalid, match="no whole backup"):
        inspect(tmp_path / "file")
    with pytest.raises(BackupInvalid):
        inspect(tmp_path / "nothing")


def test_a_backup_of_a_newer_version_is_refused(whole: bytes, empty: Empty, tmp_path: Path) -> None:
    import hashlib
    import json

    lines = whole.replace(f'"schema":"{NEWEST}"'.encode(), b'"schema":"0999"', 1).splitlines(keepends=True)[
        :-1
    ]
    end = json.dumps({"end": hashlib.sha256(b"".join(lines)).hexdigest()}, separators=(",", ":"))
    (tmp_path / "newer").write_bytes(gzip.compress(b"".join(lines) + end.encode() + b"\n"))
    with pytest.raises(BackupInvalid, match=r"0999.*newer version"):
        restore(empty("sqlite"), tmp_path / "newer")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_store_that_holds_anything_is_left_alone(
    store: Store, empty: Empty, tmp_path: Path, engine: str
) -> None:
    back_up(store, tmp_path / "backup")
    target = empty(engine)
    restore(target, tmp_path / "backup")
    before = rows(target)
    with pytest.raises(StoreNotEmpty, match="ledger"):
        restore(target, tmp_path / "backup")
    assert rows(target) == before


def test_an_empty_store_that_was_opened_before_takes_a_backup(
    store: Store, empty: Empty, tmp_path: Path
) -> None:
    fill(store)
    back_up(store, tmp_path / "backup")
    target = empty("sqlite")
    Store.open(Settings.from_env()).close()
    assert restore(target, tmp_path / "backup").ended


def test_a_database_of_somebody_else_is_left_alone(store: Store, empty: Empty, tmp_path: Path) -> None:
    back_up(store, tmp_path / "backup")
    target = empty("sqlite")
    with target.write() as connection:
        connection.execute(sa.text("CREATE TABLE runs (theirs TEXT)"))
    with pytest.raises(StoreNotEmpty, match="somebody else"):
        restore(target, tmp_path / "backup")


# --- what comes into force afterwards


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_is_exposed_afterwards_and_runs_that_were_on_have_ended(
    store: Store, empty: Empty, tmp_path: Path, engine: str
) -> None:
    run = fill(store)
    with store.read() as connection:
        exposed = exposures.find(connection, MODEL)
    assert exposed is not None
    assert exposed.live(store.clock())
    back_up(store, tmp_path / "backup")
    target = empty(engine)
    restored = restore(target, tmp_path / "backup")
    assert restored.ended == (run.run_id,)
    assert restored.exposures == (Exposure(MODEL, exposed.generation + STRIDE, "1"),)
    with target.read() as connection:
        assert exposures.every(connection) == list(restored.exposures)
        assert runs.active(connection, MODEL) is None
        ended = runs.get(connection, run.run_id)
        actions = [entry.action for entry in ledger.entries(connection)][-3:]
    assert (ended.state, actions) == (
        runs.RunState.FAILED,
        ["store.restored", "run.failed", "exposure.reset"],
    )


def test_whoever_saw_the_highest_generation_says_which_champion_serves(
    store: Store, empty: Empty, tmp_path: Path
) -> None:
    fill(store)
    back_up(store, tmp_path / "backup")
    seen = {MODEL: Seen(40, "7", "the flag document"), "new": Seen(3, "5", "a gateway")}
    restored = recovery.restore(empty("sqlite"), tmp_path / "backup", seen, actor="tests")
    assert restored.exposures == (
        Exposure(MODEL, 40 + STRIDE, "7"),
        Exposure("new", 3 + STRIDE, "5"),
    )
    assert restored.moved == {MODEL: "the flag document"}


def test_a_generation_older_than_the_backups_says_nothing(store: Store, empty: Empty, tmp_path: Path) -> None:
    fill(store)
    back_up(store, tmp_path / "backup")
    seen = {MODEL: Seen(1, "7", "an old document")}
    restored = recovery.restore(empty("sqlite"), tmp_path / "backup", seen, actor="tests")
    assert [exposure.champion for exposure in restored.exposures] == ["1"]
    assert restored.moved == {}


def test_the_time_between_backup_and_restore_is_said_to_be_lost(
    store: Store, empty: Empty, clock: Clock, tmp_path: Path
) -> None:
    from understudy.store import history

    fill(store)
    made = back_up(store, tmp_path / "backup")
    clock.now += 1000
    target = empty("sqlite")
    restore(target, tmp_path / "backup")
    with target.read() as connection:
        before = history.as_of(connection, MODEL, made.made_at)
        between = history.as_of(connection, MODEL, made.made_at + 500)
        after = history.as_of(connection, MODEL, clock())
    assert before.lost_since is None
    assert (between.lost_since, between.version_for("u", {})) == (made.made_at, None)
    assert "lost when the store was put back" in between.sentence()
    assert (after.lost_since, after.sentence()) == (None, "Version 1 served everybody.")


def test_heads_from_after_the_backup_are_known_to_be_lost_and_not_taken_for_a_cut(
    store: Store, empty: Empty, clock: Clock, tmp_path: Path
) -> None:
    fill(store)
    back_up(store, tmp_path / "backup")
    clock.now += 10
    with store.write() as connection:
        ledger.append(connection, at=clock(), actor="a", action="b", reason="c")
    later = back_up(store, tmp_path / "later")
    clock.now += 10
    target = empty("sqlite")
    restored = restore(target, tmp_path / "backup")
    assert isinstance(restored.head, Head)
    with target.read() as connection:
        found = ledger.examine(connection, [later.anchor(tmp_path / "later")])
    assert (found.broken, len(found.lost)) == (None, 1)
