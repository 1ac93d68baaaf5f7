"""A certificate is checked with a public key and nothing else, and whatever was changed in it has a name."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.record.conftest import Parts
from understudy.errors import RecordUnreadable
from understudy.record import certificate
from understudy.record.chain import Head

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()


def problems(text: str) -> list[str]:
    return [problem.what for problem in certificate.verify(text, PUBLIC)]


def rewritten(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Change a certificate's data and write it as Understudy does."""
    found = json.loads(text)
    change(found)
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_what_was_issued_verifies_with_the_signers_key_and_no_other(parts: Parts) -> None:
    text = certificate.issue(parts(), KEY)
    assert problems(text) == []
    other = Ed25519PrivateKey.generate().public_key()
    assert [problem.what for problem in certificate.verify(text, other)] == [
        "signature.public_key", "signature.value",
    ]  # fmt: skip
    assert [problem.what for problem in certificate.verify(text, None)] == ["signature"]


def test_an_unsigned_one_says_so_and_no_key_vouches_for_it(parts: Parts) -> None:
    text = certificate.issue(parts(), None)
    assert json.loads(text)["signature"] is None
    assert certificate.verify(text, None) == []
    assert problems(text) == ["signature"]


def test_issuing_the_same_again_gives_the_same_file(parts: Parts) -> None:
    assert certificate.issue(parts(), KEY) == certificate.issue(parts(), KEY)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], set[str]]] = {
    "a version": (lambda c: c["parts"]["promotion"].update(version="3"), {"promotion.version", "ledger.chain"}),
    "a name": (lambda c: c["parts"]["promotion"].update(actor="Zoe"), {"promotion.actor"}),
    "the spec": (lambda c: c["parts"]["spec"].update(digest="6" * 64), {"spec.digest"}),
    "a verdict": (lambda c: c["parts"]["verdicts"][1].update(outcome="FAIL"), {"verdicts[1]"}),
    "moments": (lambda c: c["parts"]["verdicts"][1]["moments"].update(upto=4), {"verdicts[1]"}),
    "a verdict less": (lambda c: c["parts"]["verdicts"].pop(), {"verdicts[1]"}),
    "an approval more": (lambda c: c["parts"]["approvals"].append({"by": "me"}), {"approvals", "approvals[0]"}),
    "a part more": (lambda c: c["parts"].update(note="good"), {"note"}),
    "a part less": (lambda c: c["parts"].pop("files"), {"files.promoted", "files.registered"}),
    "an entry": (
        lambda c: c["parts"]["ledger"]["chain"][0]["entry"].update(reason="x"), {"ledger.chain"},
    ),
    "the head": (lambda c: c["parts"]["ledger"]["head"].update(seq=13), {"ledger.head", "ledger.chain"}),
    "a digest": (lambda c: c["digests"].update({"spec.digest": "0" * 64}), {"spec.digest", "signature.value"}),
    "the signature": (
        lambda c: c["signature"].update(value=base64.b64encode(bytes(64)).decode()), {"signature.value"},
    ),
    "the algorithm": (lambda c: c["signature"].update(algorithm="RSA"), {"signature.algorithm"}),
    "the signer": (lambda c: c["signature"].update(public_key="A" * 44), {"signature.public_key"}),
    "no signature": (lambda c: c.update(signature=None), {"signature"}),
    "a signature that is none": (lambda c: c.update(signature=5), {"signature"}),
    "parts that are none": (lambda c: c.update(parts=5), {"parts", "ledger"}),
    "digests that are none": (lambda c: c.update(digests=[]), {"parts", "signature.value"}),
}  # fmt: skip


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_what_was_changed_is_named(
    parts: Parts, change: Callable[[dict[str, Any]], Any], named: set[str]
) -> None:
    text = rewritten(certificate.issue(parts(), KEY), change)
    assert set(problems(text)) == named


def test_who_changes_a_part_and_its_digest_too_is_found_by_the_signature(parts: Parts) -> None:
    def forge(found: dict[str, Any]) -> None:
        found["parts"]["promotion"]["actor"] = "somebody else"
        found["digests"]["promotion.actor"] = certificate.digest_of("somebody else")

    assert problems(rewritten(certificate.issue(parts(), KEY), forge)) == ["signature.value"]


def test_every_byte_that_is_changed_is_found_and_named(parts: Parts) -> None:
    whole = certificate.issue(parts(), KEY).encode()
    for place in range(len(whole)):
        for bit in (1, 32):
            changed = bytearray(whole)
            changed[place] ^= bit
            try:
                found = problems(changed.decode())
            except (RecordUnreadable, UnicodeDecodeError):
                continue
            assert found, (place, bit, whole[max(place - 30, 0) : place + 10])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t + "\n",
        lambda t: t[:-1],
        lambda t: t.replace("{", "{ ", 1),
        lambda t: t.replace("\n", "\r\n"),
    ],
)
def test_a_space_too_many_is_named_by_its_line(parts: Parts, change: Callable[[str], str]) -> None:
    assert problems(change(certificate.issue(parts(), KEY))) == ["text"]


def test_the_last_letter_of_the_signature_has_one_way_of_being_written(parts: Parts) -> None:
    text = certificate.issue(parts(), KEY)
    value = json.loads(text)["signature"]["value"]
    letters = string.ascii_letters + string.digits + "+/"
    twins = [value[:-3] + letter + "==" for letter in letters if letter != value[-3]]
    same = [twin for twin in twins if base64.b64decode(twin) == base64.b64decode(value)]
    assert same
    for twin in same:
        assert problems(text.replace(value, twin)) == ["signature.value"]


@pytest.mark.parametrize("version", ["9", None])
def test_a_ledger_that_does_not_say_so_does_not_certify_a_promotion(
    parts: Parts, version: str | None
) -> None:
    told = parts()["promotion"] | {"version": version}
    assert problems(certificate.issue(parts(promotion=told), KEY)) == ["ledger.chain"]


@pytest.mark.parametrize(
    "proof", [None, {}, {"after": 1, "head": 2, "chain": 3}, {"after": {}, "head": {}, "chain": []}]
)
def test_a_certificate_without_a_proof_is_none(parts: Parts, proof: Any) -> None:
    assert problems(certificate.issue(parts(ledger=proof), KEY)) == ["ledger"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "{", "[" * 100_000, '{"format": "understudy-certificate/1"}']
)
def test_what_is_no_certificate_is_an_error_with_the_fix(text: str) -> None:
    with pytest.raises(RecordUnreadable, match=r"certificate\.json|Take a copy|take a copy"):
        certificate.verify(text, PUBLIC)


def test_a_certificate_remembers_the_head_of_the_ledger(parts: Parts) -> None:
    anchor = certificate.head_of(certificate.read(certificate.issue(parts(), None)))
    assert anchor.head == Head(**parts()["ledger"]["head"])
    assert anchor.at == 1_700_000_020.0
    assert "r2" in anchor.where
