"""The head of the ledger as others remember it: a file that only goes forward, certificates, and files that were handed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.store.conftest import Start, past_the_triggers
from tests.store.test_exposures import _raise
from understudy.errors import BackupInvalid, RecordUnreadable
from understudy.record import certificate
from understudy.record.chain import Head
from understudy.settings import Settings
from understudy.store import Store, certificates, exposures, heads, history, ledger
from understudy.store.backup import back_up


def write(store: Store) -> Head:
    with store.write() as connection:
        ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
        found = ledger.head(connection)
    assert found is not None
    return found


def examined(store: Store, settings: Settings) -> ledger.Examination:
    with store.read() as connection:
        return ledger.examine(connection, heads.kept_here(connection, settings.ledger_head_path))


def test_whoever_publishes_the_flags_keeps_the_head_beside_them(
    store: Store, start: Start, installation: Settings
) -> None:
    _raise(store, start())
    exposures.publish_flags(store, installation)
    with store.read() as connection:
        head = ledger.head(connection)
    assert head is not None
    assert json.loads(installation.ledger_head_path.read_text()) == head.__dict__
    assert examined(store, installation).broken is None


def test_a_database_that_was_put_back_in_secret_is_found_out_and_publishing_does_not_hide_it(
    store: Store, start: Start, installation: Settings
) -> None:
    run = start()
    with store.read() as connection:
        before = ledger.head(connection)
    assert before is not None
    _raise(store, run)
    exposures.publish_flags(store, installation)
    past_the_triggers(
        store,
        "DELETE FROM ledger WHERE seq > :seq",
        "UPDATE ledger_head SET seq = :seq, digest = :digest",
        seq=before.seq,
        digest=before.digest,
    )
    with store.read() as connection:
        assert ledger.verify(connection) is None
    exposures.publish_flags(store, installation)
    found = examined(store, installation).broken
    assert found is not None
    assert (found.seq, found.kind) == (before.seq + 1, "tail cut")
    assert str(installation.ledger_head_path) in found.sentence


def test_a_kept_head_only_goes_forward(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    first, second = write(store), write(store)
    for head in (second, first, None, Head(second.seq, "another")):
        heads.keep(path, head)
        assert json.loads(path.read_text()) == second.__dict__


@pytest.mark.parametrize("content", ["", "torn", "[]", '{"seq": "x", "digest": "y"}', '{"seq": 5}'])
def test_a_kept_head_that_cannot_be_read_is_named_and_does_not_stop_publishing(
    store: Store, start: Start, installation: Settings, content: str
) -> None:
    _raise(store, start())
    installation.ledger_head_path.parent.mkdir(parents=True, exist_ok=True)
    installation.ledger_head_path.write_text(content)
    exposures.publish_flags(store, installation)
    assert installation.flags_path.exists()
    with pytest.raises(RecordUnreadable, match="altered"):
        examined(store, installation)


def test_a_certificate_in_the_store_remembers_too(store: Store, start: Start, installation: Settings) -> None:
    run = start()
    with store.write() as connection:
        parts = {
            "promotion": {"run_id": run.run_id, "issued_at": 5.0},
            "ledger": history.proof_of_run(connection, run.run_id),
        }
        text = certificate.issue(parts, None)
        saved = certificates.save(
            connection, run.run_id, text, model=run.model, actor="a", signed=False, at=5.0
        )
        assert certificates.find(connection, run.run_id) == saved
        (last,) = ledger.entries(connection, newest=1)
    assert (last.action, last.body["digest"]) == ("certificate.issued", saved.digest)
    assert examined(store, installation).broken is None
    with store.read() as connection:
        first = ledger.entries(connection)[0]
    past_the_triggers(
        store,
        "DELETE FROM ledger WHERE seq > 1",
        "UPDATE ledger_head SET seq = 1, digest = :digest",
        digest=first.digest,
    )
    found = examined(store, installation).broken
    assert found is not None
    assert found.kind == "tail cut"
    assert run.run_id in found.sentence


def test_a_certificate_a_backup_and_an_export_say_which_head_they_know(
    store: Store, start: Start, tmp_path: Path
) -> None:
    run = start()
    with store.read() as connection:
        head = ledger.head(connection)
        promotion = {"run_id": run.run_id, "issued_at": 5.0}
        proof = history.proof_of_run(connection, run.run_id)
        text = certificate.issue({"promotion": promotion, "ledger": proof}, None)
        lines = list(history.export(connection, 7.0, run_id=run.run_id))
    (tmp_path / "certificate.json").write_text(text)
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    back_up(store, tmp_path / "backup")
    for name in ("certificate.json", "ledger.jsonl", "backup"):
        assert heads.of_file(tmp_path / name).head == head


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x1f\x8bnot gzip", b"\xff\xfe", b"{}", b'{"format":"understudy-ledger/1"}']
)
def test_a_file_that_is_no_part_of_the_record_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises((RecordUnreadable, BackupInvalid)):
        heads.of_file(tmp_path / "file")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordUnreadable, match="cannot be read"):
        heads.of_file(tmp_path / "nothing")
