"""Keys as people hand them over; whatever is wrong with one, the message does not repeat it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from understudy.errors import BadParameter, SettingMissing
from understudy.record import signing

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
RAW = base64.b64encode(SEED).decode()
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
LOCKED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
OTHER = ec.generate_private_key(ec.SECP256R1())
OTHER_PEM = OTHER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
OTHER_PUBLIC = OTHER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("text", [RAW, f"  {RAW}\n", PEM, f"\n{PEM}"])
def test_a_private_key_is_pem_or_its_seed_in_base64(text: str) -> None:
    found = signing.private_key(text)
    assert found is not None
    assert found.private_bytes_raw() == SEED


@pytest.mark.parametrize("text", ["", "  \n"])
def test_without_a_key_nothing_is_signed(text: str) -> None:
    assert signing.private_key(text) is None


@pytest.mark.parametrize(
    "text", ["short", RAW[:-4], RAW * 2, LOCKED, OTHER_PEM, PUBLIC_PEM, PEM[:60], "ü" * 44]
)
def test_a_key_that_cannot_sign_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SettingMissing, match="openssl genpkey") as caught:
        signing.private_key(text)
    assert not any(line in str(caught.value) for line in text.split() if len(line) > 5 and "-" not in line)


def test_a_public_key_is_pem_base64_or_a_file_with_either(tmp_path: Path) -> None:
    shown = signing.shown(KEY.public_key())
    (tmp_path / "raw").write_text(shown + "\n")
    (tmp_path / "pem").write_text(PUBLIC_PEM)
    for given in (shown, PUBLIC_PEM, str(tmp_path / "raw"), str(tmp_path / "pem")):
        assert signing.shown(signing.public_key(given)) == shown


@pytest.mark.parametrize("text", ["", "nothing", "/no/such/file", PEM, OTHER_PUBLIC, "a" * 5000, "\0"])
def test_a_public_key_that_is_none_is_refused_with_the_fix(text: str) -> None:
    with pytest.raises(BadParameter, match="certificate key"):
        signing.public_key(text)
