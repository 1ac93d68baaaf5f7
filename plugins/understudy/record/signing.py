"""Ed25519 keys as people hand them over: PEM, or the 32 raw bytes in base64."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import BadParameter, SettingMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["ALGORITHM", "private_key", "public_key", "shown"]

ALGORITHM = "Ed25519"
_RAW_BYTES = 32


def private_key(text: str) -> Ed25519PrivateKey | None:
    """Return the key that certificates are signed with; None where there is none.

    Args:
        text: Unencrypted PEM (PKCS 8), or the seed's 32 bytes in base64.

    Raises:
        SettingMissing: It is no such key. The message does not repeat it.
    """
    if not text.strip():
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if not text.lstrip().startswith("-----BEGIN"):
            return Ed25519PrivateKey.from_private_bytes(_raw(text))
        found = load_pem_private_key(text.encode(), password=None)
        if isinstance(found, Ed25519PrivateKey):
            return found
        why = "it is a key of another algorithm"
    except TypeError:
        why = "it is encrypted"
    except Exception:  # whatever the parser says could quote the key
        why = "it cannot be read"
    raise SettingMissing(
        f"UNDERSTUDY_SIGNING_KEY is no key to sign with: {why}. It must be an Ed25519 private key, as unencrypted PEM or as the "
        "base64 of its 32 bytes; `openssl genpkey -algorithm ed25519` makes one. Without the variable certificates are "
        "unsigned."
    )


def public_key(text: str) -> Ed25519PublicKey:
    """Return the key that signatures are checked with.

    Args:
        text: PEM, the 32 bytes in base64, or the path of a file that holds either.

    Raises:
        BadParameter: It is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        given = text if text.lstrip().startswith("-----BEGIN") else _content(text)
        if not given.lstrip().startswith("-----BEGIN"):
            return Ed25519PublicKey.from_public_bytes(_raw(given))
        found = load_pem_public_key(given.encode())
        if isinstance(found, Ed25519PublicKey):
            return found
        why = "it is a key of another algorithm"
    except Exception:  # a private key given by mistake must not be quoted
        why = "it cannot be read"
    raise BadParameter(
        f"The given key cannot check a signature: {why}. It must be an Ed25519 public key: PEM, the base64 of its 32 bytes, or a "
        "file with one of them. `understudy certificate key` prints that of the key in UNDERSTUDY_SIGNING_KEY."
    )


def shown(key: Ed25519PublicKey) -> str:
    """Return a public key as the base64 of its 32 bytes."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def _content(text: str) -> str:
    try:
        path = Path(text)
        return path.read_text() if path.is_file() else text
    except (OSError, ValueError):
        return text


def _raw(text: str) -> bytes:
    raw = base64.b64decode("".join(text.split()), validate=True)
    if len(raw) != _RAW_BYTES:
        raise binascii.Error("not 32 bytes")
    return raw
