"""A ledger in a file: whoever has nothing else sees whether it is whole, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.record.conftest import Chain
from understudy.errors import RecordUnreadable
from understudy.record.chain import GENESIS, Anchor, Entry, Head
from understudy.record.exported import lines, verify_lines

ZERO = Head(0, GENESIS)


def exported(ledger: Chain, wanted: Callable[[Entry], bool], first: int = 1) -> list[str]:
    after = ZERO if first == 1 else Head(first - 1, ledger[first - 2].digest)
    head = Head(ledger[-1].seq, ledger[-1].digest)
    marked = ((entry, wanted(entry)) for entry in ledger[first - 1 :])
    return [line + "\n" for line in lines(marked, {"run": None}, after, head, 1_700_000_100.0)]


def of_r2(entry: Entry) -> bool:
    return entry.run_id == "r2"


def everything(entry: Entry) -> bool:
    return True


@pytest.mark.parametrize(("wanted", "first", "shown"), [(everything, 1, 12), (of_r2, 5, 4), (of_r2, 1, 4)])
def test_what_was_exported_verifies_up_to_the_head(
    ledger: Chain, wanted: Callable[[Entry], bool], first: int, shown: int
) -> None:
    top, walk, entries = verify_lines(exported(ledger, wanted, first))
    assert (walk.broken, walk.head, entries) == (None, Head(12, ledger[-1].digest), shown)
    assert top["exported_at"] == 1_700_000_100.0


def test_entries_that_were_not_asked_for_are_not_told(ledger: Chain) -> None:
    text = "".join(exported(ledger, of_r2))
    assert "r3" not in text
    assert '"skipped"' in text


def test_an_empty_ledger_is_a_first_line_and_verifies() -> None:
    (only,) = lines([], {}, ZERO, ZERO, 1.0)
    _, walk, entries = verify_lines([only])
    assert (walk.broken, entries) == (None, 0)


def _edit(line: str, change: Callable[[dict[str, Any]], None]) -> str:
    found = json.loads(line)
    change(found)
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def test_an_altered_entry_is_named(ledger: Chain) -> None:
    text = exported(ledger, everything)
    text[7] = _edit(text[7], lambda found: found["entry"].update(reason="nothing happened"))
    _, walk, _ = verify_lines(text)
    assert walk.broken is not None
    assert (walk.broken.seq, walk.broken.kind) == (7, "altered")


@pytest.mark.parametrize(
    ("change", "seq", "kind"),
    [
        (lambda text: text.pop(4), 4, "missing"),
        (lambda text: text.insert(4, text[3]), 4, "out of place"),
        (lambda text: text.pop(), 12, "tail cut"),
        (lambda text: text.__delitem__(slice(1, None)), 1, "tail cut"),
        (lambda text: text.append(text[-1]), 13, "out of place"),
    ],
    ids=[
        "a line less",
        "a line twice",
        "the last line cut off",
        "all but the first cut off",
        "the last line twice",
    ],
)
def test_lines_that_are_missing_or_too_many_are_named(
    ledger: Chain, change: Callable[[list[str]], None], seq: int, kind: str
) -> None:
    text = exported(ledger, everything)
    change(text)
    _, walk, _ = verify_lines(text)
    assert walk.broken is not None
    assert (walk.broken.seq, walk.broken.kind) == (seq, kind)


def test_an_altered_digest_of_what_is_left_out_breaks_the_chain_at_the_next_entry(ledger: Chain) -> None:
    text = exported(ledger, of_r2)
    text[1] = _edit(text[1], lambda found: found["skipped"].__setitem__(0, "0" * 64))
    _, walk, _ = verify_lines(text)
    assert walk.broken is not None
    assert (walk.broken.seq, walk.broken.kind) == (5, "out of place")


def test_more_entries_than_the_first_line_says_are_named(ledger: Chain) -> None:
    text = exported(ledger, everything)
    text[0] = _edit(text[0], lambda found: found.update(head={"seq": 11, "digest": ledger[10].digest}))
    _, walk, _ = verify_lines(text)
    assert walk.broken is not None
    assert (walk.broken.seq, walk.broken.kind) == (12, "head")


def test_a_whole_file_of_another_ledger_is_seen_by_who_knew_the_right_one(ledger: Chain) -> None:
    known = Anchor("a certificate", Head(9, "e" * 64))
    _, walk, _ = verify_lines(exported(ledger, everything), [known])
    assert walk.broken is not None
    assert walk.broken.seq == 9
    assert "a certificate" in walk.broken.sentence


@pytest.mark.parametrize(
    "text",
    [
        [], ["\n"], ["{}\n"], ["[]\n"], ["not JSON\n"], ['{"format":"something/1"}\n'],
        ['{"after":{"digest":"","seq":"0"},"format":"understudy-ledger/1","head":{"digest":"","seq":0}}\n'],
        ["[" * 100_000],
    ],
)  # fmt: skip
def test_what_is_no_exported_ledger_is_an_error_with_the_fix(text: list[str]) -> None:
    with pytest.raises(RecordUnreadable, match=r"ledger export|Take a copy"):
        verify_lines(text)


@pytest.mark.parametrize(
    "line", ["{}\n", '{"entry":{}}\n', '{"entry":5}\n', '{"skipped":5}\n', "5\n", '{"entry"\n']
)
def test_a_line_that_is_no_entry_is_an_error(ledger: Chain, line: str) -> None:
    text = exported(ledger, everything)
    text[3] = line
    with pytest.raises(RecordUnreadable):
        verify_lines(text)


def test_every_byte_that_is_changed_is_found(ledger: Chain) -> None:
    whole = "".join(exported(ledger, of_r2)).encode()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        try:
            told, walk, _ = verify_lines(changed.decode("utf-8", "replace").splitlines(keepends=True))
        except RecordUnreadable:
            continue
        # What was asked for, and when, is for people; nothing else may differ.
        assert walk.broken is not None or (told["asked"], told["exported_at"]) != (
            {"run": None},
            1_700_000_100.0,
        ), place
