"""The published document: written in one step, read strictly, torn or foreign ones refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import exposure as room
from understudy.errors import FlagDocumentError
from understudy.exposure import Exposure, document, publish, read_flag

LIVE = 2_000_000_000
EXPOSED = Exposure("flight-delay", 7, "1", "2", "flight_delay-v2-1", 2, 5.0, LIVE)


def test_what_was_published_is_read_back(tmp_path: Path) -> None:
    known = [
        EXPOSED,
        Exposure("other", 3, "12", mirror=True),
        replace(EXPOSED, model="zero", percent=0.0),
        replace(EXPOSED, model="zone", contained=("origin=JFK", 'carrier="A"=B, ü')),
        replace(EXPOSED, model="ring", percent=0.0, rings=(("origin=JFK", 12.5), ('carrier="A"=B, ü', 50.0))),
        replace(EXPOSED, model="lease", lease_seconds=20.5),
    ]
    path = tmp_path / "new" / "flags.json"
    publish(path, known)
    assert [read_flag(path, exposure.model) for exposure in known] == known
    assert read_flag(path, "nobody's") is None


def test_metadata_holds_only_what_flagd_allows_there() -> None:
    full = replace(EXPOSED, contained=("b=2", "a=1"), rings=(("origin=JFK", 50.0),))
    metadata = document([full])["flags"]["flight-delay"]["metadata"]
    assert all(isinstance(value, (str, int, float, bool)) for value in metadata.values())
    assert json.loads(metadata["contained"]) == ["a=1", "b=2"]
    assert json.loads(metadata["rings"]) == [["origin=JFK", 50.0]]
    assert {"contained", "rings"}.isdisjoint(document([EXPOSED])["flags"]["flight-delay"]["metadata"])


VALID = document([EXPOSED])


def _spoiled(**metadata: object) -> str:
    spoiled = json.loads(json.dumps(VALID))
    spoiled["flags"]["flight-delay"]["metadata"] |= metadata
    return json.dumps(spoiled)


INVALID = {
    "empty": "",
    "torn": json.dumps(VALID)[:-40],
    "no object": "[]",
    "null": "null",
    "without flags": "{}",
    "flags as a list": '{"flags": [1]}',
    "a flag without metadata": '{"flags": {"flight-delay": {}}}',
    "a flag that is null": '{"flags": {"flight-delay": null}}',
    "metadata as text": '{"flags": {"flight-delay": {"metadata": "x"}}}',
    "no generation": '{"flags": {"flight-delay": {"metadata": {"champion": "1"}}}}',
    "generation is null": _spoiled(generation=None),
    "generation is a word": _spoiled(generation="seven"),
    "generation is endless": _spoiled(generation=float("inf")),
    "generation is not a number": _spoiled(generation=float("nan")),
    "champion is null": _spoiled(champion=None),
    "champion is a number": _spoiled(champion=1),
    "champion is empty": _spoiled(champion=""),
    "challenger is a number": _spoiled(challenger=2),
    "percent is null": _spoiled(percent=None),
    "lease is a list": _spoiled(lease_expires_at=[1]),
    "contained is a list and no text": _spoiled(contained=["origin=JFK"]),
    "contained is null": _spoiled(contained=None),
    "contained is torn": _spoiled(contained='["origin=JFK"'),
    "contained is one text": _spoiled(contained='"origin=JFK"'),
    "contained is no list of texts": _spoiled(contained="[1]"),
    "contained is no list of cohorts": _spoiled(contained='["JFK"]'),
    "generation is below zero": _spoiled(generation=-1),
    "generation is not whole": _spoiled(generation=7.5),
    "generation is text": _spoiled(generation="7"),
    "stage is true": _spoiled(stage=True),
    "percent is above 100": _spoiled(percent=100.1),
    "percent is not a number": _spoiled(percent=float("nan")),
    "percent is endless": _spoiled(percent=float("inf")),
    "mirror is text": _spoiled(mirror="false"),
    "lease is no second": _spoiled(lease_expires_at=0.5),
    "no length of the lease": _spoiled(lease_seconds=None),
    "a lease of years": _spoiled(lease_seconds=1e9),
    "rings are a list and no text": _spoiled(rings=[["origin=JFK", 5]]),
    "rings are torn": _spoiled(rings='[["origin=JFK", 5'),
    "rings are no pairs": _spoiled(rings='[["origin=JFK"]]'),
    "a ring is no cohort": _spoiled(rings='[["JFK", 5]]'),
    "a ring has no value": _spoiled(rings='[["origin=", 5]]'),
    "a ring is too wide": _spoiled(rings='[["origin=JFK", 51]]'),
    "a ring's percent is text": _spoiled(rings='[["origin=JFK", "5"]]'),
    "a ring's percent is no number": _spoiled(rings='[["origin=JFK", NaN]]'),
    "nested without end": "[" * 100_000,
    "flags nested without end": '{"flags": {"flight-delay": ' + "[" * 100_000,
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_a_torn_or_foreign_document_is_refused_with_the_fix(tmp_path: Path, text: str) -> None:
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(FlagDocumentError, match="understudy doctor"):
        read_flag(tmp_path / "flags.json", "flight-delay")


def test_the_flag_of_another_model_may_be_broken(tmp_path: Path) -> None:
    spoiled = json.loads(_spoiled(generation=None)) | {"more": 1}
    spoiled["flags"]["other"] = document([replace(EXPOSED, model="other")])["flags"]["other"]
    (tmp_path / "flags.json").write_text(json.dumps(spoiled))
    assert read_flag(tmp_path / "flags.json", "other") == replace(EXPOSED, model="other")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


NO_DOCUMENTS: dict[str, Callable[[Path], object]] = {
    "bytes that are no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe that nobody writes to": _pipe,
    "a link to an endless device": _endless,
    "a link to nothing": _dangling,
    "a link to itself": _loop,
    "a file of a terabyte": _huge,
}


@pytest.mark.parametrize("make", NO_DOCUMENTS.values(), ids=NO_DOCUMENTS.keys())
def test_what_is_no_document_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "flags.json")
    with pytest.raises(FlagDocumentError, match="understudy doctor"):
        read_flag(tmp_path / "flags.json", "flight-delay")


def test_a_link_to_a_document_is_as_good_as_the_document(tmp_path: Path) -> None:
    publish(tmp_path / "real.json", [EXPOSED])
    (tmp_path / "flags.json").symlink_to(tmp_path / "real.json")
    assert read_flag(tmp_path / "flags.json", "flight-delay") == EXPOSED


@pytest.mark.parametrize("where", ["dump", "chmod", "replace"])
def test_a_publisher_that_dies_half_way_leaves_the_old_document(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flags.json"
    publish(path, [EXPOSED])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target: Any = {"dump": room.json, "chmod": Path, "replace": Path}[where]
    monkeypatch.setattr(target, where, die)
    with pytest.raises(KeyboardInterrupt):
        publish(path, [replace(EXPOSED, generation=8)])
    monkeypatch.undo()
    assert read_flag(path, "flight-delay") == EXPOSED
    assert [found.name for found in tmp_path.iterdir()] == ["flags.json"]


def test_a_document_is_seen_while_the_disk_is_slow_to_sync_and_publishing_ends_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flags.json"
    publish(path, [EXPOSED])
    seen: list[Exposure | None] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(read_flag(path, "flight-delay")))
    publish(path, [replace(EXPOSED, generation=8)])
    assert seen == [replace(EXPOSED, generation=8)]


@settings(max_examples=25)
@given(exposures=st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True))
def test_models_left_out_disappear_from_the_document(
    exposures: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flags") / "flags.json"
    publish(path, [replace(EXPOSED, model=f"m{number}") for number in range(1, 6)])
    publish(path, [replace(EXPOSED, model=f"m{number}") for number in exposures])
    left = [number for number in range(1, 6) if read_flag(path, f"m{number}")]
    assert left == sorted(exposures)
