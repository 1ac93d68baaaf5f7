"""The chain that entries of the ledger form, and walking along it.

An entry's content has a digest of its own, and the entry's digest is that of its predecessor's and of this one. So a part of
the chain can be proven without showing all of it: an entry that is left out is stood for by the digest of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "GENESIS",
    "RESTORED",
    "Anchor",
    "Broken",
    "Entry",
    "Head",
    "Kind",
    "Walk",
    "canonical",
    "content_digest",
    "link",
]

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""

RESTORED = "store.restored"
"""The action of the entry that follows the last one of a backup: what came after it before is lost, and that is on record."""

Kind = Literal["altered", "missing", "out of place", "tail cut", "head"]
_encoded = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True)
class Head:
    """The newest entry of a ledger: it stands for everything before it too."""

    seq: int
    digest: str

    def to_text(self) -> str:
        """Return it in one word, as MLflow keeps it."""
        return f"{self.seq}:{self.digest}"

    @classmethod
    def from_text(cls, text: str) -> Head:
        """Read what :meth:`to_text` wrote.

        Raises:
            ValueError: It is something else.
        """
        seq, _, digest = text.partition(":")
        return cls(int(seq), digest)


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        seq: Its number, from 1 without gaps.
        at: Unix seconds.
        actor: Who did it.
        action: What was done, as a short stable word.
        model: The model concerned.
        run_id: The run concerned.
        reason: Why.
        body: JSON-safe particulars.
        previous: Digest of the entry before.
        digest: Digest of ``previous`` and of this entry's content, SHA-256 in hex digits.
    """

    seq: int
    at: float
    actor: str
    action: str
    model: str | None
    run_id: str | None
    reason: str
    body: Mapping[str, Any]
    previous: str
    digest: str

    @property
    def content(self) -> str:
        """Digest of what the entry says, without its place in the chain."""
        about = (self.seq, self.at, self.actor, self.action, self.model, self.run_id, self.reason)
        return content_digest(about, canonical(self.body))


@dataclass(frozen=True)
class Broken:
    """The first place where a ledger is not what it was.

    Attributes:
        seq: Number of the entry.
        kind: What is wrong with it.
        sentence: The same in words.
    """

    seq: int
    kind: Kind
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Anchor:
    """A head that was kept elsewhere: the entry of that number must have that digest.

    Attributes:
        where: Who keeps it, for people.
        head: What was kept.
        at: When it was kept, Unix seconds, if that is known.
    """

    where: str
    head: Head
    at: float | None = None


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, Unicode as it is.

    Raises:
        ValueError: It holds a number that JSON has no text for, or is nested without end.
        TypeError: It is no JSON.
    """
    return _encoded(value)


def content_digest(about: tuple[Any, ...], body: str) -> str:
    """Return the digest of an entry's content.

    Args:
        about: ``seq, at, actor, action, model, run_id, reason``.
        body: The canonical text of its particulars.
    """
    # A half character can be written in JSON; it must not end the walk.
    return hashlib.sha256((_encoded(about) + body).encode("utf-8", "surrogatepass")).hexdigest()


def link(previous: str, content: str) -> str:
    """Return the digest of an entry from its predecessor's and from that of its content."""
    return hashlib.sha256((previous + content).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Walk:
    """Goes along a chain and stops at the first entry that does not belong there.

    Attributes:
        head: Where the walk has come to; it begins before the first entry.
        broken: What stopped it, if anything did.
        lost: Heads kept elsewhere whose entries were lost when the store was put back from a backup.
    """

    head: Head = Head(0, GENESIS)
    broken: Broken | None = None
    lost: list[Anchor] = field(default_factory=list)
    _anchors: dict[int, list[Anchor]] = field(default_factory=dict)
    _restored_at: list[float] = field(default_factory=list)

    def expect(self, anchors: Iterable[Anchor]) -> None:
        """Hold entries against heads that were kept elsewhere, when the walk comes to them."""
        for anchor in anchors:
            if anchor.head.seq > self.head.seq:
                self._anchors.setdefault(anchor.head.seq, []).append(anchor)

    def step(self, about: tuple[Any, ...], body: str, previous: str, digest: str) -> bool:
        """Go on to an entry; return False at one that does not belong there.

        Args:
            about: ``seq, at, actor, action, model, run_id, reason``.
            body: The text of its particulars, as stored.
            previous: The predecessor it names.
            digest: Its digest.
        """
        seq, expected = about[0], self.head.seq + 1
        if seq != expected:
            return self._stop(*_wrong_number(seq, expected))
        try:
            whole = link(previous, content_digest(about, body)) == digest
        except (ValueError, TypeError, AttributeError):
            whole = False
        if not whole:
            return self._stop(
                seq, "altered", f"Entry {seq} was altered: what it says does not give its digest."
            )
        if previous != self.head.digest:
            words = f"Entry {seq} names another predecessor: entry {seq - 1} was written anew, or this one was put in."
            return self._stop(seq, "out of place", words)
        if about[3] == RESTORED:
            self._restored_at.append(about[1])
        return self._arrive(Head(seq, digest))

    def skip(self, content: str) -> bool:
        """Go past an entry of which only the digest of its content is known."""
        return self._arrive(Head(self.head.seq + 1, link(self.head.digest, content)))

    def end(self) -> bool:
        """Say that no entry follows; return False if somebody knows of one."""
        for seq, anchors in sorted(self._anchors.items()):
            for anchor in anchors:
                if not self._excused(anchor):
                    words = f"Entry {self.head.seq} is the last, and {anchor.where} knows entry {seq}: the end was cut off."
                    return self._stop(self.head.seq + 1, "tail cut", words)
        return True

    def _arrive(self, head: Head) -> bool:
        self.head = head
        for anchor in self._anchors.pop(head.seq, ()) if self._anchors else ():
            if anchor.head.digest != head.digest and not self._excused(anchor):
                words = f"Entry {head.seq} is not the one that {anchor.where} knows: it, or one before it, was written anew."
                return self._stop(head.seq, "altered", words)
        return True

    def _excused(self, anchor: Anchor) -> bool:
        """Tell whether what somebody remembers was lost by putting the store back, which the walk has come past."""
        excused = anchor.at is not None and any(anchor.at <= at for at in self._restored_at)
        if excused:
            self.lost.append(anchor)
        return excused

    def _stop(self, seq: int, kind: Kind, sentence: str) -> bool:
        self.broken = Broken(seq, kind, sentence)
        return False


def _wrong_number(seq: Any, expected: int) -> tuple[int, Kind, str]:
    if isinstance(seq, int) and seq > expected:
        last = f" to {seq - 1}" if seq - 1 > expected else ""
        return expected, "missing", f"Entry {expected}{last} is missing: entry {seq} follows {expected - 1}."
    return expected, "out of place", f"Entry {seq} stands where entry {expected} belongs."
