"""Commands about certificates: nothing is trusted that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import answered, run
from tests.promoted import SIGNING_KEY, promoted
from understudy.record import certificate, signing
from understudy.store import runs


def public() -> str:
    key = signing.private_key(SIGNING_KEY)
    assert key is not None
    return signing.shown(key.public_key())


@pytest.fixture
def file(home: Path) -> Path:
    """The certificate of a promoted run, as it is printed."""
    _, run_id = promoted()
    (home / "certificate.json").write_bytes(run("certificate", "show", run_id, "--json").stdout_bytes)
    return home / "certificate.json"


def test_a_certificate_is_shown_to_people_and_as_the_very_file(file: Path) -> None:
    run_id = json.loads(file.read_text())["parts"]["promotion"]["run_id"]
    told = run("certificate", "show", run_id).stdout
    assert "Version 2 of delay was promoted over 1 at 2025-11-21T04:40:30.000Z" in told
    assert f"signed by: {public()}" in told
    assert "compare" in told


def test_the_signers_key_is_what_makes_it_valid(file: Path) -> None:
    assert answered("certificate", "verify", str(file), "--key", public())["valid"]
    assert (
        "what was issued, signed by the given key"
        in run("certificate", "verify", str(file), "--key", public()).stdout
    )
    for missing in ((), ("--allow-unsigned",)):
        assert (
            answered("certificate", "verify", str(file), *missing, code=1)["error"]["code"] == "BAD_PARAMETER"
        )
    other = "A" * 43 + "="
    found = answered("certificate", "verify", str(file), "--key", other, code=1)
    assert [problem["what"] for problem in found["problems"]] == ["signature.public_key", "signature.value"]


def test_an_unsigned_one_is_only_accepted_when_somebody_says_so_and_never_with_a_key(file: Path) -> None:
    file.write_text(certificate.issue(json.loads(file.read_text())["parts"], None))
    assert answered("certificate", "verify", str(file), code=1)["error"]["code"] == "BAD_PARAMETER"
    assert answered("certificate", "verify", str(file), "--allow-unsigned") == {
        "valid": True, "signed": False, "problems": [],
    }  # fmt: skip
    assert "signed by nobody" in run("certificate", "verify", str(file), "--allow-unsigned").stdout
    assert not answered("certificate", "verify", str(file), "--allow-unsigned", "--key", public(), code=1)[
        "valid"
    ]


def test_what_was_changed_is_named(file: Path) -> None:
    file.write_text(file.read_text().replace('"before": "1"', '"before": "7"'))
    told = run("certificate", "verify", str(file), "--key", public())
    assert told.exit_code == 1
    assert "promotion.before was changed" in told.stderr


def test_line_ends_of_another_system_are_a_change_too(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    found = answered("certificate", "verify", str(file), "--key", public(), code=1)
    assert [problem["what"] for problem in found["problems"]] == ["text"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", None])
def test_what_is_no_certificate_is_an_error(home: Path, content: bytes | None) -> None:
    if content is not None:
        (home / "file").write_bytes(content)
    found = answered("certificate", "verify", str(home / "file"), "--key", public(), code=1)
    assert found["error"]["code"] == "RECORD_UNREADABLE"


def test_a_run_without_a_certificate_says_where_it_stands(home: Path) -> None:
    assert answered("certificate", "show", "nobody", code=1)["error"]["code"] == "NO_SUCH_RUN"
    store, run_id = promoted()
    from tests.store.conftest import past_the_triggers

    past_the_triggers(store, "DELETE FROM certificates")
    found = answered("certificate", "show", run_id, code=1)["error"]
    assert found["code"] == "NO_SUCH_ID"
    assert runs.RunState.PROMOTED.value in found["message"]


def test_the_public_key_is_that_of_the_signing_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_SIGNING_KEY", raising=False)
    assert answered("certificate", "key", code=1)["error"]["code"] == "SETTING_MISSING"
    monkeypatch.setenv("UNDERSTUDY_SIGNING_KEY", SIGNING_KEY)
    assert (
        run("certificate", "key").stdout.strip() == public() == answered("certificate", "key")["public_key"]
    )
    monkeypatch.setenv("UNDERSTUDY_SIGNING_KEY", "nonsense")
    found = answered("certificate", "key", code=1)["error"]
    assert (found["code"], "nonsense" in found["message"]) == ("SETTING_MISSING", False)
