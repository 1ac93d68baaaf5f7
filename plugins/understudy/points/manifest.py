"""The manifest of a rollback point: named parts, a digest of each and one of all, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.record.certificate import digest_of
from understudy.record.chain import canonical

__all__ = ["COPIED", "FORMAT", "PARTS", "Difference", "compare", "digest_of", "resealed", "seal"]

FORMAT = "understudy-point/1"
PARTS = ("model", "signature", "feature_set", "snapshot", "flags", "suites", "spec", "code", "probe")
"""The parts of a rollback point, in the order in which they are shown."""

COPIED = ("feature_set", "snapshot", "flags", "suites", "spec", "probe")
"""The parts whose digests are those of copies; the others describe what is kept elsewhere."""

_DIGEST = "digest"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was recorded.

    Attributes:
        part: The part of the manifest.
        item: What in it: a file, a column, a suite.
        recorded: What the manifest says, as text.
        found: What there is, as text.
    """

    part: str
    item: str
    recorded: str
    found: str

    def __str__(self) -> str:
        item = f", {self.item}" if self.item else ""
        return f"{self.part}{item}: recorded {_short(self.recorded)}, found {_short(self.found)}"


def seal(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a manifest of parts, each with the SHA-256 of its canonical JSON.

    Args:
        parts: JSON-safe facts of every part of `PARTS`, by name.

    Returns:
        ``format`` and ``parts``. The digest of a point is `digest_of` this.
    """
    sealed = {name: {**parts[name], _DIGEST: digest_of(dict(parts[name]))} for name in PARTS}
    return {"format": FORMAT, "parts": sealed}


def resealed(manifest: Mapping[str, Any]) -> list[Difference]:
    """Return the parts of a manifest that do not hash to the digest they carry, and those that are missing or unknown."""
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("parts"), Mapping):
        return [Difference("manifest", "format", FORMAT, str(manifest.get("format") or _NOTHING))]
    found, parts = [], manifest["parts"]
    for name in (*PARTS, *(name for name in parts if name not in PARTS)):
        part = parts.get(name)
        if name not in PARTS or not isinstance(part, Mapping):
            found.append(Difference("manifest", name, *_presence(name in PARTS)))
            continue
        facts = {key: value for key, value in part.items() if key != _DIGEST}
        if digest_of(facts) != part.get(_DIGEST):
            found.append(Difference(name, "manifest", str(part.get(_DIGEST, _NOTHING)), digest_of(facts)))
    return found


def compare(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between the parts of two manifests, or of a manifest and what there is now.

    Args:
        recorded: Facts by part.
        found: Facts by part; parts that nobody looked at are left out.
    """
    differences = []
    for name in (name for name in PARTS if name in recorded and name in found):
        before, after = dict(_items(recorded[name])), dict(_items(found[name]))
        for item in sorted({*before, *after}):
            was, now = before.get(item, _NOTHING), after.get(item, _NOTHING)
            if was != now:
                differences.append(Difference(name, item, was, now))
    return differences


def _items(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if key == _DIGEST and not above:
            continue
        if isinstance(value, Mapping):
            yield from _items(value, f"{above}{key} ")
        else:
            yield f"{above}{key}", _told(value)


def _told(value: Any) -> str:
    if value is None:
        return _NOTHING
    return value if isinstance(value, str) else canonical(value)


def _presence(expected: bool) -> tuple[str, str]:
    return ("a part", _NOTHING) if expected else (_NOTHING, "a part")


def _short(text: str) -> str:
    """Shorten digests, so that a sentence can be read; anything else is told as it is."""
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
