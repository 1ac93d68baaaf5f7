"""A ledger in a file: one JSON object a line, whole or a part of it, to be checked by whoever has nothing else.

The first line says what was asked for and where the chain begins and ends. Entries that were not asked for stand between the
others as the digests of their contents, so that the chain can be followed from its beginning to its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from understudy.errors import RecordUnreadable
from understudy.record.chain import Anchor, Broken, Entry, Head, Walk, canonical

__all__ = ["FORMAT", "lines", "proof", "verify_lines", "walk_proof"]

FORMAT = "understudy-ledger/1"
_SKIPPED_AT_ONCE = 500
_FIRST = {"format", "exported_at", "asked", "after", "head"}


def lines(
    marked: Iterable[tuple[Entry, bool]],
    asked: Mapping[str, Any],
    after: Head,
    head: Head,
    exported_at: float,
) -> Iterator[str]:
    """Yield the lines of a file.

    Args:
        marked: Every entry after ``after``, up to the head, with whether it was asked for.
        asked: What was asked for, for whoever reads the file.
        after: The entry before the first one.
        head: The newest entry.
        exported_at: Unix seconds.
    """
    top = {"format": FORMAT, "exported_at": exported_at, "asked": dict(asked)}
    yield canonical(top | {"after": dict(after.__dict__), "head": dict(head.__dict__)})
    yield from map(canonical, proof(marked))


def proof(marked: Iterable[tuple[Entry, bool]]) -> Iterator[dict[str, Any]]:
    """Yield marked entries whole, as ``entry``; of those between them the digests of their contents, as ``skipped``."""
    skipped: list[str] = []
    for entry, whole in marked:
        if skipped and (whole or len(skipped) == _SKIPPED_AT_ONCE):
            yield {"skipped": skipped}
            skipped = []
        if whole:
            yield {"entry": dict(entry.__dict__)}
        else:
            skipped.append(entry.content)
    if skipped:
        yield {"skipped": skipped}


def walk_proof(walk: Walk, parts: Iterable[Any]) -> Iterator[Entry]:
    """Follow a chain through what `proof` yielded; yield the entries shown whole, and stop where it breaks.

    Raises:
        RecordUnreadable: A part is neither an entry nor skipped ones.
    """
    for part in parts:
        if isinstance(part, dict) and set(part) == {"skipped"} and isinstance(part["skipped"], list):
            if not all(walk.skip(str(content)) for content in part["skipped"]):
                return
            continue
        try:
            entry = Entry(**part["entry"])
            about = (entry.seq, entry.at, entry.actor, entry.action, entry.model, entry.run_id, entry.reason)
            body = canonical(entry.body)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise RecordUnreadable(
                f"What follows entry {walk.head.seq} is neither an entry of a ledger nor the digests of some that are left out. "
                "The record was altered; take a copy that was not."
            ) from error
        if not walk.step(about, body, entry.previous, entry.digest):
            return
        yield entry


def verify_lines(text: Iterable[str], anchors: Iterable[Anchor] = ()) -> tuple[Mapping[str, Any], Walk, int]:
    """Walk the chain of a file, line by line.

    Args:
        text: Its lines.
        anchors: Heads that were kept elsewhere.

    Returns:
        Its first line, the walk with what is wrong, and how many entries are shown whole.

    Raises:
        RecordUnreadable: It is no exported ledger, or a line of it is not what it was.
    """
    parts = _parsed(text)
    top, after, head = _first(next(parts, None))
    walk = Walk(after)
    walk.expect([Anchor("the first line of the file", head), *anchors])
    shown = sum(1 for _ in walk_proof(walk, parts))
    if walk.broken is None and walk.end() and walk.head.seq > head.seq:
        words = (
            f"The file goes on to entry {walk.head.seq}, and its first line says that {head.seq} is the last."
        )
        walk.broken = Broken(head.seq + 1, "head", words)
    return top, walk, shown


def _first(top: Any) -> tuple[Mapping[str, Any], Head, Head]:
    try:
        after, head = Head(**top["after"]), Head(**top["head"])
        numbered = isinstance(after.seq, int) and isinstance(head.seq, int)
        if top["format"] == FORMAT and numbered and set(top) == _FIRST and isinstance(top["asked"], dict):
            return top, after, head
    except (KeyError, TypeError):
        pass
    raise RecordUnreadable(
        f"The first line is not that of an exported ledger ({FORMAT}). Export it with `understudy ledger export`."
    )


def _parsed(text: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(text, 1):
        try:
            found = json.loads(line)
            again = canonical(found)
        except (ValueError, RecursionError) as error:
            raise RecordUnreadable(
                f"Line {number} is no JSON: it was altered, or the file was cut off in its middle. Take a copy that was not."
            ) from error
        if again != line.rstrip("\n"):
            raise RecordUnreadable(
                f"Line {number} is not written as Understudy writes it: it was altered. Take a copy that was not."
            )
        yield found
