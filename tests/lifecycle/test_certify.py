"""A promotion leaves a certificate: in MLflow, in the store, in the ledger; and MLflow remembers the ledger's head."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.commands import answered
from tests.lifecycle.conftest import STEPS_BEFORE_EXPOSURE, World
from tests.lifecycle.test_reproduce import climbed
from tests.lifecycle.test_steps import artifacts, begun
from tests.store.conftest import past_the_triggers
from understudy import lifecycle
from understudy.errors import SettingMissing
from understudy.record import certificate
from understudy.store import certificates, ledger, schema
from understudy.store.runs import RunState
from understudy.tracking import LEDGER_HEAD

SEED = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_SIGNING_KEY", raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_SIGNING_KEY", base64.b64encode(SEED).decode())


def promoted(world: World) -> tuple[str, dict[str, Any]]:
    run_id = begun(world)
    world.record(run_id, *(step for step in STEPS_BEFORE_EXPOSURE if step != "preregister"))
    lifecycle.raise_exposure(run_id, 1)
    world.record(run_id, "compare")
    return run_id, lifecycle.promote(run_id)


def test_the_certificate_of_a_promotion_verifies_with_the_signers_key(world: World, key: None) -> None:
    run_id, answer = promoted(world)
    text = artifacts(world, answer)["certificate.json"]
    assert certificate.verify(text, PUBLIC) == []
    told = certificate.read(text)["parts"]
    run = world.run(run_id)
    assert (told["promotion"]["model"], told["promotion"]["version"], told["promotion"]["before"]) == (
        world.model, "2", "1",
    )  # fmt: skip
    assert told["spec"] == {"digest": run.spec_digest}
    assert told["files"]["registered"] == told["files"]["promoted"]
    assert len(told["files"]["promoted"]) == 64
    assert told["way_back"]["version"] == "1"
    assert told["approvals"] == []
    assert {"preregister", "compare"} <= {verdict["step"] for verdict in told["verdicts"]}
    with world.store.read() as connection:
        kept = certificates.find(connection, run_id)
        entries = ledger.entries(connection, run_id=run_id)
        assert ledger.verify(connection) is None
    assert kept is not None
    assert kept.text == text
    (issued,) = [entry for entry in entries if entry.action == "certificate.issued"]
    assert issued.body["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert issued.body["signed"] is True


def test_without_a_key_the_certificate_is_written_and_says_that_nobody_signed_it(world: World) -> None:
    _, answer = promoted(world)
    text = artifacts(world, answer)["certificate.json"]
    assert json.loads(text)["signature"] is None
    assert certificate.verify(text, None) == []
    assert [problem.what for problem in certificate.verify(text, PUBLIC)] == ["signature"]


def test_a_promotion_that_is_repeated_has_one_certificate(world: World, key: None) -> None:
    run_id, answer = promoted(world)
    world.clock.now += 100
    again = lifecycle.promote(run_id)
    assert artifacts(world, again)["certificate.json"] == artifacts(world, answer)["certificate.json"]
    assert world.actions().count("certificate.issued") == 1


@pytest.mark.parametrize("text", ["nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_key_that_cannot_sign_is_told_before_anything_moves(
    world: World, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    run_id = world.exposed_run()
    world.record(run_id, "compare")
    monkeypatch.setenv("UNDERSTUDY_SIGNING_KEY", text)
    with pytest.raises(SettingMissing, match="UNDERSTUDY_SIGNING_KEY") as caught:
        lifecycle.promote(run_id)
    assert text not in str(caught.value)
    assert (world.alias(), world.run(run_id).state) == ("1", RunState.EXPOSED)


def test_each_verdict_names_the_stored_moments_it_was_made_from(world: World) -> None:
    run_id = climbed(world)
    world.record(run_id, "compare")
    answer = lifecycle.promote(run_id)
    text = artifacts(world, answer)["certificate.json"] if answer["mlflow_url"] else None
    with world.store.read() as connection:
        kept = certificates.find(connection, run_id)
        bodies = connection.execute(
            sa.select(schema.moments.c.body)
            .where(schema.moments.c.run_id == run_id)
            .order_by(schema.moments.c.seq)
        ).scalars()
        stored = [bytes(body) for body in bodies]
    assert kept is not None
    assert text in (None, kept.text)
    told = certificate.read(kept.text)["parts"]["verdicts"]
    looked = next(item for item in told if item["moments"] is not None)
    upto = looked["moments"]["upto"]
    assert looked["moments"]["stored"] == hashlib.sha256(b"".join(stored[:upto])).hexdigest()
    assert looked["moments"]["evidence"]


def test_mlflow_remembers_the_head_of_the_ledger_at_every_step_and_finds_a_cut_tail(world: World) -> None:
    run_id, _ = promoted(world)
    sound = answered("ledger", "verify", "--mlflow")
    assert sound["first_broken"] is None
    assert sound["held_against"] >= 4  # the file, the certificate, and two steps in MLflow
    with world.store.read() as connection:
        third = ledger.entries(connection)[2]
    past_the_triggers(
        world.store,
        "DELETE FROM ledger WHERE seq > 3",
        "UPDATE ledger_head SET seq = 3, digest = :digest",
        "DELETE FROM certificates",
        digest=third.digest,
    )
    world.settings.ledger_head_path.unlink()
    assert answered("ledger", "verify")["first_broken"] is None
    found = answered("ledger", "verify", "--mlflow", code=1)
    assert found["kind"] == "tail cut"
    assert str(world.run(run_id).mlflow_run_id) in found["sentence"]


def test_a_head_in_mlflow_that_was_altered_is_an_error_that_names_the_run(world: World) -> None:
    run_id, answer = promoted(world)
    world.client.set_tag(answer["mlflow_url"].rpartition("/")[2], LEDGER_HEAD, "nonsense:1")
    found = answered("ledger", "verify", "--mlflow", code=1)["error"]
    assert found["code"] == "RECORD_UNREADABLE"
    assert str(world.run(run_id).mlflow_run_id) in found["message"]


def test_a_certificate_from_mlflow_needs_neither_store_nor_network(
    world: World, key: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from understudy.cli import app

    _, answer = promoted(world)
    (tmp_path / "certificate.json").write_text(artifacts(world, answer)["certificate.json"])
    public = CliRunner().invoke(app, ["certificate", "key"]).stdout.strip()
    for name in ("MLFLOW_TRACKING_URI", "UNDERSTUDY_SIGNING_KEY", "UNDERSTUDY_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", "unknown://nowhere")
    command = ["certificate", "verify", str(tmp_path / "certificate.json"), "--key", public]
    found = CliRunner().invoke(app, command)
    assert (found.exit_code, found.stderr) == (0, "")
