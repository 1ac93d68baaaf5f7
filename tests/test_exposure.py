"""The flag document: golden vectors, agreement with flagd itself, growth, leases, torn documents, atomic writes."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from understudy import exposure as room
from understudy.errors import FlagDocumentError
from understudy.exposure import (
    CHALLENGER,
    CONTROL,
    TOTAL_WEIGHT,
    UNEXPOSED,
    Exposure,
    assign,
    document,
    publish,
    read_document,
    weights,
)

LIVE = 2_000_000_000
EXPOSED = Exposure("flight-delay", 7, "1", "2", "flight_delay-v2-1", 2, 5.0, LIVE)
SIGNS = {CHALLENGER: "c", CONTROL: "=", UNEXPOSED: "."}

# One letter per percent of (1, 5, 25, 50, 60, 100): c challenger, = control, . unexposed. These may never change: a
# change would move units that are exposed now, and would part us from every OpenFeature SDK.
GOLDEN = [
    ("N7500AA", "cccccc"),
    ("N8092AA", "cccccc"),
    ("N1580AA", ".ccccc"),
    ("N1876AA", ".ccccc"),
    ("N100AA", "..cccc"),
    ("N359AA", "..cccc"),
    ("N396AA", "..cccc"),
    ("N470AA", "...ccc"),
    ("N507AA", "...ccc"),
    ("N581AA", "...ccc"),
    ("N137AA", "...=cc"),
    ("N174AA", "...==c"),
    ("N211AA", "...==c"),
    ("N285AA", "..===c"),
    ("N1691AA", ".====="),
    ("N2764AA", ".====="),
    ("N988AA", "======"),
    ("Zürich-7", "..cccc"),
    ("机体 42", "...ccc"),
    (" ", "cccccc"),
    ("None", "...ccc"),
]
WEIGHTS = [
    (0.001, (1, 99_998, 1)),
    (1, (1_000, 98_000, 1_000)),
    (5, (5_000, 90_000, 5_000)),
    (25, (25_000, 50_000, 25_000)),
    (33.333, (33_333, 33_334, 33_333)),
    (50, (50_000, 0, 50_000)),
    (60, (60_000, 0, 40_000)),
    (95, (95_000, 0, 5_000)),
    (97, (95_000, 0, 5_000)),
    (100, (95_000, 0, 5_000)),
]


@pytest.mark.parametrize(("unit", "arms"), GOLDEN)
def test_golden_units_keep_their_arms(unit: str, arms: str) -> None:
    found = "".join(
        SIGNS[assign(replace(EXPOSED, percent=percent), unit, 0.0)] for percent in (1, 5, 25, 50, 60, 100)
    )
    assert found == arms


@pytest.mark.parametrize(("percent", "expected"), WEIGHTS)
def test_weights_are_pinned_and_always_sum_to_the_same_total(
    percent: float, expected: tuple[int, int, int]
) -> None:
    assert weights(percent) == expected
    assert sum(expected) == TOTAL_WEIGHT


@pytest.mark.parametrize("percent", [0.5, 5.0, 25.0, 50.0, 60.0, 100.0])
def test_flagd_itself_gives_every_unit_the_same_arm(percent: float) -> None:
    exposed = replace(EXPOSED, percent=percent, lease_expires_at=int(time.time()) + 3600)
    ours, theirs = _ours_and_flagds(exposed, 5000)
    assert ours == theirs
    assert {CHALLENGER, CONTROL} <= set(ours)


def test_flagd_itself_sends_everybody_to_the_champion_past_the_lease() -> None:
    lapsed = replace(EXPOSED, percent=50.0, lease_expires_at=int(time.time()) - 1)
    ours, theirs = _ours_and_flagds(lapsed, 200)
    assert set(ours) == set(theirs) == {UNEXPOSED}


JFK_AND_AA = replace(
    EXPOSED,
    percent=60.0,
    lease_expires_at=4_000_000_000,
    contained=("origin=JFK", "origin=EWR", "carrier=AA"),
)
CONTEXTS: list[tuple[dict[str, str], bool]] = [
    ({"origin": "LGA", "carrier": "UA"}, True),
    ({"origin": "LGA", "carrier": "UA", "hour": "7"}, True),
    ({"origin": "jfk", "carrier": "A"}, True),
    ({"origin": "JFK", "carrier": "UA"}, False),
    ({"origin": "EWR", "carrier": "UA"}, False),
    ({"origin": "LGA", "carrier": "AA"}, False),
    ({"origin": "LGA"}, False),
    ({"carrier": "UA"}, False),
    ({"origin": "", "carrier": "UA"}, False),
    ({}, False),
]


@pytest.mark.parametrize(("cohorts", "free"), CONTEXTS)
def test_flagd_itself_sends_contained_cohorts_and_whoever_does_not_name_his_to_the_champion(
    cohorts: dict[str, str], free: bool
) -> None:
    ours, theirs = _ours_and_flagds(JFK_AND_AA, 500, cohorts)
    assert ours == theirs
    untouched, _ = _ours_and_flagds(replace(JFK_AND_AA, contained=()), 500)
    assert ours == (untouched if free else [UNEXPOSED] * 500)


@pytest.mark.parametrize(
    "value", [None, 7, 7.0, True, ["LGA"], [], {"code": "LGA"}, [["LGA"]]], ids=lambda value: repr(value)
)
def test_flagd_itself_sends_a_cohort_that_is_no_text_to_the_champion(value: Any) -> None:
    contained = replace(JFK_AND_AA, percent=100.0, contained=("origin=JFK", "origin=7", "origin=True"))
    assert _flagds_arm(contained, "N7500AA", {"origin": "LGA"}) == CHALLENGER
    assert _flagds_arm(contained, "N7500AA", {"origin": value}) == UNEXPOSED


def test_flagd_itself_cannot_look_up_a_column_with_a_dot_and_so_exposes_nobody() -> None:
    contained = replace(JFK_AND_AA, percent=100.0, contained=("flight.origin=JFK",))
    assert _flagds_arm(contained, "N7500AA", {"flight.origin": "LGA"}) == UNEXPOSED


@given(contained=st.lists(st.text(max_size=8), max_size=4), value=st.text(max_size=8))
def test_flagd_itself_reads_any_text_as_we_do(contained: list[str], value: str) -> None:
    exposed = replace(JFK_AND_AA, percent=100.0, contained=tuple(f"origin={text}" for text in contained))
    ours = assign(exposed, "N7500AA", time.time(), {"origin": value})
    assert ours == _flagds_arm(exposed, "N7500AA", {"origin": value})
    assert (ours == CHALLENGER) is (not contained or (value != "" and value not in contained))


def test_flagd_itself_answers_with_the_champion_when_nobody_is_exposed() -> None:
    _, theirs = _ours_and_flagds(Exposure("flight-delay", 1, "1"), 10)
    assert set(theirs) == {UNEXPOSED}


def _ours_and_flagds(
    exposed: Exposure, count: int, cohorts: dict[str, str] | None = None
) -> tuple[list[str], list[str]]:
    core = _flagd(exposed)
    units = [f"N{number:05d}" for number in range(count)]
    ours = [assign(exposed, unit, time.time(), cohorts or {}) for unit in units]
    return ours, [_answer(core, exposed.model, unit, cohorts or {}) for unit in units]


def _flagds_arm(exposed: Exposure, unit: str, attributes: dict[str, Any]) -> str:
    return _answer(_flagd(exposed), exposed.model, unit, attributes)


def _flagd(exposed: Exposure) -> FlagdCore:
    core = FlagdCore()
    core.set_flags(json.dumps(document([exposed])))
    return core


def _answer(core: FlagdCore, model: str, unit: str, attributes: dict[str, Any]) -> str:
    answer = core.resolve_string_value(
        model, "none", EvaluationContext(targeting_key=unit, attributes=attributes)
    )
    assert answer.value == {CHALLENGER: "2", CONTROL: "1", UNEXPOSED: "1"}[str(answer.variant)]
    return str(answer.variant)


UNITS = st.text(min_size=1, max_size=40)
PERCENTS = st.floats(0.001, 100)


@given(unit=UNITS, first=PERCENTS, second=PERCENTS)
def test_a_unit_that_was_exposed_stays_exposed_while_the_stages_grow(
    unit: str, first: float, second: float
) -> None:
    low, high = sorted((first, second))
    if assign(replace(EXPOSED, percent=low), unit, 0.0) == CHALLENGER:
        assert assign(replace(EXPOSED, percent=high), unit, 0.0) == CHALLENGER


@given(unit=UNITS, first=PERCENTS, second=PERCENTS)
def test_a_control_unit_stays_control_up_to_half(unit: str, first: float, second: float) -> None:
    low, high = sorted((first / 2, second / 2))
    if assign(replace(EXPOSED, percent=low), unit, 0.0) == CONTROL:
        assert assign(replace(EXPOSED, percent=high), unit, 0.0) == CONTROL


@given(unit=UNITS, percent=PERCENTS)
def test_containing_a_cohort_leaves_everybody_else_in_his_arm(unit: str, percent: float) -> None:
    before = replace(EXPOSED, percent=percent)
    contained = replace(before, contained=("origin=JFK",))
    assert assign(contained, unit, 0.0, {"origin": "LGA"}) == assign(before, unit, 0.0)
    for elsewhere in ({"origin": "JFK"}, {"origin": ""}, {"carrier": "AA"}, {}):
        assert assign(contained, unit, 0.0, elsewhere) == UNEXPOSED


def test_contained_cohorts_are_kept_sorted_and_once() -> None:
    contained = replace(EXPOSED, contained=("b=2", "a=1", "b=2", "a==", "a="))
    assert contained.contained == ("a=", "a=1", "a==", "b=2")
    assert contained == replace(EXPOSED, contained=("a==", "b=2", "a=", "a=1"))


@pytest.mark.parametrize("cohort", ["", "JFK", "=JFK", "all"])
def test_a_cohort_without_a_column_is_refused(cohort: str) -> None:
    with pytest.raises(ValueError, match="column=value"):
        replace(EXPOSED, contained=("origin=JFK", cohort))


@given(percent=PERCENTS)
def test_control_is_as_large_as_the_challenger_up_to_half_and_never_below_the_holdback(
    percent: float,
) -> None:
    challenger, unexposed, control = weights(percent)
    assert min(challenger, unexposed, control) >= 0
    assert challenger + unexposed + control == TOTAL_WEIGHT
    if percent <= 50:
        assert challenger == control
    else:
        assert control >= 5_000


def test_at_full_exposure_five_percent_of_units_stay_on_the_champion() -> None:
    full = replace(EXPOSED, percent=100.0)
    counts = Counter(assign(full, f"unit-{number}", 0.0) for number in range(20_000))
    assert counts[UNEXPOSED] == 0
    # Four standard errors around the holdback of 1,000 units.
    assert abs(counts[CONTROL] - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_the_model_name_salts_the_hash_so_that_models_expose_different_units() -> None:
    half = replace(EXPOSED, percent=50.0)
    other = replace(half, model="other")
    same = sum(assign(half, str(n), 0.0) == assign(other, str(n), 0.0) for n in range(4000))
    assert abs(same - 2000) < 4 * 1000**0.5


@pytest.mark.parametrize("unit", [None, ""])
def test_without_a_unit_nobody_is_exposed(unit: str | None) -> None:
    assert assign(replace(EXPOSED, percent=100.0), unit, 0.0) == UNEXPOSED


@pytest.mark.parametrize("unit", ["\ud800", "N\udcff1", "\x00", "x" * 100_000])
def test_strange_units_get_an_arm_and_take_nothing_down(unit: str) -> None:
    assert assign(replace(EXPOSED, percent=100.0), unit, 0.0) in (CHALLENGER, CONTROL)


@pytest.mark.parametrize(
    ("now", "live"), [(LIVE - 1, True), (LIVE - 0.001, True), (LIVE, False), (LIVE + 0.5, False)]
)
def test_the_lease_ends_at_its_very_second(now: float, live: bool) -> None:
    assert EXPOSED.live(now) is live
    assert (assign(replace(EXPOSED, percent=100.0), "N7500AA", now) == CHALLENGER) is live


@pytest.mark.parametrize(
    "changes",
    [{"challenger": None}, {"percent": 0.0}, {"percent": float("nan")}, {"lease_expires_at": None}],
)
def test_an_exposure_that_lacks_a_part_exposes_nobody(changes: dict[str, Any]) -> None:
    partial = replace(EXPOSED, **changes)
    assert not partial.exposed
    assert assign(partial, "N7500AA", 0.0) == UNEXPOSED
    assert document([partial])["flags"]["flight-delay"]["targeting"] == {}


def test_what_was_published_is_read_back(tmp_path: Path) -> None:
    known = [
        EXPOSED,
        Exposure("other", 3, "12", mirror=True),
        replace(EXPOSED, model="zero", percent=0.0),
        replace(EXPOSED, model="zone", contained=("origin=JFK", 'carrier="A"=B, ü')),
    ]
    publish(tmp_path / "new" / "flags.json", known)
    assert list(read_document(tmp_path / "new" / "flags.json").values()) == known


def test_a_document_of_before_there_was_containment_contains_nothing(tmp_path: Path) -> None:
    assert "contained" not in document([EXPOSED])["flags"]["flight-delay"]["metadata"]
    publish(tmp_path / "flags.json", [EXPOSED])
    assert read_document(tmp_path / "flags.json")["flight-delay"].contained == ()


def test_metadata_holds_only_what_flagd_allows_there() -> None:
    metadata = document([JFK_AND_AA])["flags"]["flight-delay"]["metadata"]
    assert all(isinstance(value, (str, int, float, bool)) for value in metadata.values())
    assert json.loads(metadata["contained"]) == ["carrier=AA", "origin=EWR", "origin=JFK"]


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
    "a flag without metadata": '{"flags": {"m": {}}}',
    "a flag that is null": '{"flags": {"m": null}}',
    "metadata as text": '{"flags": {"m": {"metadata": "x"}}}',
    "no generation": '{"flags": {"m": {"metadata": {"champion": "1"}}}}',
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
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_a_torn_or_foreign_document_is_refused_with_the_fix(tmp_path: Path, text: str) -> None:
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(FlagDocumentError, match="understudy doctor"):
        read_document(tmp_path / "flags.json")


def test_bytes_that_are_no_text_and_missing_files_are_refused_alike(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "flags.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(FlagDocumentError):
            read_document(path)


@pytest.mark.parametrize("where", ["dump", "fsync", "replace"])
def test_a_publisher_that_dies_half_way_leaves_the_old_document(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flags.json"
    publish(path, [EXPOSED])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target: Any = {"dump": room.json, "fsync": os, "replace": Path}[where]
    monkeypatch.setattr(target, where, die)
    with pytest.raises(KeyboardInterrupt):
        publish(path, [replace(EXPOSED, generation=8)])
    monkeypatch.undo()
    assert read_document(path) == {"flight-delay": EXPOSED}
    assert [found.name for found in tmp_path.iterdir()] == ["flags.json"]


@settings(max_examples=25)
@given(exposures=st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True))
def test_models_left_out_disappear_from_the_document(
    exposures: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flags") / "flags.json"
    publish(path, [replace(EXPOSED, model=f"m{number}") for number in range(1, 6)])
    publish(path, [replace(EXPOSED, model=f"m{number}") for number in exposures])
    assert set(read_document(path)) == {f"m{number}" for number in exposures}
