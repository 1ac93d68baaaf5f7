"""A promotion certificate: what was promoted, on which verdicts, by whom and with which proof, in one file.

Every item of it has a digest, the digests are signed, and the file is written in exactly one way; so whoever checks it can name
what was changed, down to a space.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import RecordUnreadable
from understudy.record.chain import Anchor, Entry, Head, Walk, canonical
from understudy.record.exported import walk_proof
from understudy.record.signing import ALGORITHM, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["FORMAT", "Problem", "digest_of", "head_of", "issue", "read", "verify"]

FORMAT = "understudy-certificate/1"
_KEYS = {"format", "parts", "digests", "signature"}
_SIGNATURE_KEYS = {"algorithm", "public_key", "value"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a certificate.

    Attributes:
        what: The item: a path such as ``verdicts[2]``, ``signature`` or ``text``.
        sentence: What is wrong with it.
    """

    what: str
    sentence: str


def issue(parts: Mapping[str, Any], key: Ed25519PrivateKey | None) -> str:
    """Return the text of a certificate.

    Args:
        parts: What it certifies, JSON-safe.
        key: Signs it; without one it is unsigned, and says so.
    """
    digests = dict(_digests(parts))
    signature = None
    if key is not None:
        value = base64.b64encode(key.sign(_signed(digests))).decode()
        signature = {"algorithm": ALGORITHM, "public_key": shown(key.public_key()), "value": value}
    return _written({"format": FORMAT, "parts": dict(parts), "digests": digests, "signature": signature})


def read(text: str) -> Mapping[str, Any]:
    """Return a certificate as data, unchecked.

    Raises:
        RecordUnreadable: It is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise RecordUnreadable(
            f"This is no certificate: it cannot be read as JSON{where}. It was altered or cut off; take a copy that was not."
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or set(found) != _KEYS:
        raise RecordUnreadable(
            f"This is no certificate: it must be a JSON object of format {FORMAT} with {', '.join(sorted(_KEYS))}. Take the file "
            "`certificate.json` of a promoted run."
        )
    return found


def verify(text: str, key: Ed25519PublicKey | None) -> list[Problem]:
    """Check a certificate with nothing but itself and a public key.

    Args:
        text: Its text.
        key: Who must have signed it; None holds only for one that is unsigned, and then nobody vouches for it.

    Returns:
        Everything that is wrong; nothing if it is what was issued.

    Raises:
        RecordUnreadable: It is no certificate.
    """
    found = read(text)
    return [
        *_changed(found["parts"], found["digests"]),
        *_signature_problems(found["signature"], found["digests"], key),
        *_chain_problems(found["parts"]),
        *_text_problems(text, found),
    ]


def head_of(found: Mapping[str, Any]) -> Anchor:
    """Return the head of the ledger that a certificate knows.

    Raises:
        RecordUnreadable: It knows none.
    """
    try:
        promotion, head = found["parts"]["promotion"], found["parts"]["ledger"]["head"]
        where = f"the certificate of run {promotion['run_id']}"
        return Anchor(where, Head(int(head["seq"]), str(head["digest"])), float(promotion["issued_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RecordUnreadable(
            "The certificate names no head of the ledger: it was altered. Take a copy that was not."
        ) from error


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def _digests(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, part in parts.items():
        if isinstance(part, dict) and part:
            yield from ((f"{name}.{key}", digest_of(value)) for key, value in part.items())
        elif isinstance(part, list) and part:
            yield from ((f"{name}[{index}]", digest_of(value)) for index, value in enumerate(part))
        else:
            yield name, digest_of(part)


def _signed(digests: Mapping[str, str]) -> bytes:
    return canonical({"format": FORMAT, "digests": digests}).encode("utf-8", "surrogatepass")


def _written(certificate: Mapping[str, Any]) -> str:
    return json.dumps(certificate, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _changed(parts: Any, digests: Any) -> Iterator[Problem]:
    if not isinstance(parts, dict) or not isinstance(digests, dict):
        yield Problem("parts", "The parts or their digests are no JSON objects.")
        return
    found = dict(_digests(parts))
    for what in sorted(set(found) | set(digests)):
        if what not in found:
            yield Problem(what, f"{what} was taken out.")
        elif what not in digests:
            yield Problem(what, f"{what} was put in.")
        elif found[what] != digests[what]:
            yield Problem(what, f"{what} was changed: it does not give its digest.")


def _signature_problems(signature: Any, digests: Any, key: Ed25519PublicKey | None) -> Iterator[Problem]:
    if signature is None:
        if key is not None:
            yield Problem("signature", "It is not signed, so the given key says nothing about it.")
        return
    if not isinstance(signature, dict) or set(signature) != _SIGNATURE_KEYS:
        yield Problem("signature", "The signature is not written as Understudy writes it.")
        return
    if signature["algorithm"] != ALGORITHM:
        yield Problem("signature.algorithm", f"The signature must be of {ALGORITHM}.")
    if key is None:
        yield Problem("signature", "It is signed, and no public key was given to check that with.")
        return
    if signature["public_key"] != shown(key):
        yield Problem("signature.public_key", "It names another key than the given one as its signer's.")
    if not _signs(signature["value"], _signed(digests), key):
        yield Problem(
            "signature.value",
            "The given key did not sign these digests: they, or the signature, were changed.",
        )


def _signs(value: Any, signed: bytes, key: Ed25519PublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        raw = base64.b64decode(value, validate=True)
        key.verify(raw, signed)
    except (InvalidSignature, binascii.Error, TypeError, ValueError):
        return False
    # The last letter has bits that say nothing: only one way of writing them is the one that was issued.
    return bool(base64.b64encode(raw).decode() == value)


def _chain_problems(parts: Any) -> Iterator[Problem]:
    """Follow the ledger's proof to the head, and find in it that this very version was promoted by this very run."""
    try:
        ledger, promotion = parts["ledger"], parts["promotion"]
        walk = Walk(Head(**ledger["after"]))
        walk.expect([Anchor("the certificate", Head(**ledger["head"]))])
        shown_whole = list(walk_proof(walk, ledger["chain"]))
        version, run_id = promotion["version"], promotion["run_id"]
    except (KeyError, TypeError, RecordUnreadable):
        yield Problem(
            "ledger", "The ledger's proof cannot be followed: it is not written as Understudy writes it."
        )
        return
    if walk.broken is not None or not walk.end():
        yield Problem("ledger.chain", walk.broken.sentence if walk.broken else "The chain does not end.")
    elif not any(_promotes(entry, version, run_id) for entry in shown_whole):
        words = f"No entry of the ledger's proof says that run {run_id} promoted version {version}."
        yield Problem("ledger.chain", words)


def _promotes(entry: Entry, version: Any, run_id: Any) -> bool:
    return (
        entry.action == "champion.promoted"
        and entry.run_id == run_id
        and entry.body.get("champion") == version
    )


def _text_problems(text: str, found: Mapping[str, Any]) -> Iterator[Problem]:
    """Name the first line that says the same in other letters, such as one with a space more."""
    try:
        lines = _written(found).splitlines(keepends=True)
    except ValueError:
        yield Problem("text", "It holds a number that JSON has no text for.")
        return
    given = text.splitlines(keepends=True)
    for number, (line, own) in enumerate(zip(given, lines, strict=False), 1):
        if line != own:
            yield Problem("text", f"Line {number} is not written as Understudy writes it.")
            return
    if len(given) != len(lines):
        yield Problem("text", f"Line {min(len(given), len(lines)) + 1} is one too many, or missing.")
