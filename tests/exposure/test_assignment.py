"""Who is exposed: golden units, growth, rings, containment, the lease, and exposures that cannot be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.exposure import (
    CHALLENGER,
    CONTROL,
    LONGEST_LEASE,
    TOTAL_WEIGHT,
    UNEXPOSED,
    Exposure,
    assign,
    document,
    reach,
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


@pytest.mark.parametrize("changes", [{"challenger": None}, {"percent": 0.0}, {"lease_expires_at": None}])
def test_an_exposure_that_lacks_a_part_exposes_nobody(changes: dict[str, Any]) -> None:
    partial = replace(EXPOSED, **changes)
    assert not partial.exposed
    assert assign(partial, "N7500AA", 0.0) == UNEXPOSED
    assert document([partial])["flags"]["flight-delay"]["targeting"] == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"percent": float("nan")}, "percent from 0 to 100"),
        ({"percent": float("inf")}, "percent from 0 to 100"),
        ({"percent": -1.0}, "percent from 0 to 100"),
        ({"percent": 101.0}, "percent from 0 to 100"),
        ({"lease_seconds": LONGEST_LEASE + 1}, "longer than 86400 s"),
        ({"lease_seconds": float("nan")}, "longer than 86400 s"),
        ({"rings": (("JFK", 5.0),)}, "column=value"),
        ({"rings": (("origin=", 5.0),)}, "no ring"),
        ({"rings": (("origin=JFK", 50.001),)}, "no ring"),
        ({"rings": (("origin=JFK", 0.0),)}, "no ring"),
        ({"rings": (("origin=JFK", float("nan")),)}, "no ring"),
    ],
)
def test_an_exposure_with_a_number_out_of_range_cannot_be(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(EXPOSED, **changes)


RING = replace(EXPOSED, percent=0.0, rings=(("origin=JFK", 50.0),))
RING_PERCENTS = st.floats(0.001, 50)
JFK, LGA = {"origin": "JFK"}, {"origin": "LGA"}


@given(unit=UNITS, percent=RING_PERCENTS)
def test_a_ring_stage_exposes_the_ring_like_a_stage_and_nobody_else(unit: str, percent: float) -> None:
    ring = replace(RING, rings=(("origin=JFK", percent),))
    assert assign(ring, unit, 0.0, JFK) == assign(replace(EXPOSED, percent=percent), unit, 0.0)
    for outside in (LGA, {"origin": ""}, {"origin": "jfk"}, {"carrier": "JFK"}, {}):
        assert assign(ring, unit, 0.0, outside) == UNEXPOSED


@given(unit=UNITS, steps=st.lists(st.tuples(PERCENTS, RING_PERCENTS), min_size=2, max_size=2))
def test_nobody_who_was_exposed_leaves_while_stages_and_rings_grow(
    unit: str, steps: list[tuple[float, float]]
) -> None:
    (first, last), (ring, wider) = (sorted(pair) for pair in zip(*steps, strict=True))
    before = replace(EXPOSED, percent=first, rings=(("origin=JFK", ring),))
    after = replace(EXPOSED, percent=last, rings=(("origin=JFK", wider), ("origin=EWR", ring)))
    assert after.keeps(before)
    for cohorts in (JFK, LGA, {}):
        if assign(before, unit, 0.0, cohorts) == CHALLENGER:
            assert assign(after, unit, 0.0, cohorts) == CHALLENGER
        if last <= 50 and assign(before, unit, 0.0, cohorts) == CONTROL:
            assert assign(after, unit, 0.0, cohorts) == CONTROL


@given(percent=st.floats(0, 50), ring=RING_PERCENTS)
def test_challenger_and_control_are_equally_wide_inside_and_outside_of_a_ring(
    percent: float, ring: float
) -> None:
    exposed = replace(EXPOSED, percent=percent, rings=(("origin=JFK", ring),))
    for cohorts, share in ((JFK, max(percent, ring)), (LGA, percent)):
        challenger, _, control = weights(exposed.percent_of(cohorts))
        assert challenger == control == round(share * 1000)


def test_a_unit_of_several_rings_gets_the_largest_percent() -> None:
    rings = (("origin=JFK", 10.0), ("carrier=AA", 30.0), ("origin=LGA", 20.0), ("origin=LGA", 5.0))
    exposed = replace(EXPOSED, rings=rings)
    assert exposed.percent_of(JFK | {"carrier": "AA"}) == exposed.percent_of(LGA | {"carrier": "AA"}) == 30.0
    assert (exposed.percent_of(JFK), exposed.percent_of(LGA), exposed.percent_of({})) == (10.0, 20.0, 5.0)


def test_a_ring_that_everybody_has_caught_up_with_is_a_ring_no_more() -> None:
    wide = replace(EXPOSED, percent=50.0, rings=(("origin=JFK", 50.0), ("origin=LGA", 1.0)))
    assert wide.rings == ()
    assert wide == replace(EXPOSED, percent=50.0)


def test_a_contained_cohort_gets_the_champion_in_a_ring_too() -> None:
    contained = replace(RING, rings=(("origin=JFK", 50.0), ("origin=LGA", 50.0)), contained=("origin=JFK",))
    arms = {
        name: Counter(assign(contained, str(n), 0.0, one) for n in range(200)) for name, one in BOTH.items()
    }
    assert arms["JFK"] == {UNEXPOSED: 200}
    assert arms["LGA"].keys() == {CHALLENGER, CONTROL}


BOTH = {"JFK": JFK, "LGA": LGA}
GROWN = replace(RING, percent=5.0, rings=(("origin=EWR", 10.0), ("origin=JFK", 50.0)))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"percent": 5.001}, True),
        ({"percent": 60.0, "rings": ()}, True),
        ({"generation": 9, "stage": 3, "lease_expires_at": 9}, True),
        ({"percent": 4.9}, False),
        ({"percent": 20.0, "rings": ()}, False),
        ({"rings": (("origin=JFK", 50.0),)}, False),
        ({"rings": (("origin=EWR", 9.0), ("origin=JFK", 50.0))}, False),
        ({"contained": ("origin=LGA",)}, False),
        ({"challenger": "3"}, False),
        ({"challenger": None}, False),
        ({"lease_expires_at": None}, False),
    ],
)
def test_an_exposure_keeps_another_only_if_nobody_would_leave(changes: dict[str, Any], kept: bool) -> None:
    assert replace(GROWN, **changes).keeps(GROWN) is kept


def test_an_ended_exposure_exposes_nobody_at_the_same_generation() -> None:
    ended = replace(GROWN, contained=("origin=LGA",)).ended()
    assert not ended.exposed
    assert (ended.generation, ended.champion, ended.challenger) == (7, "1", "2")
    assert (ended.run_id, ended.stage, ended.percent, ended.rings) == (None, 0, 0.0, ())


@pytest.mark.parametrize(
    ("percent", "rings", "words"),
    [
        (0.0, (), "nobody"),
        (5.0, (), "5 % of units"),
        (0.0, (("origin=JFK", 50.0),), "50 % of origin=JFK"),
        (0.5, (("a=1", 10.0), ("b=2", 2.5)), "0.5 % of units, 10 % of a=1, 2.5 % of b=2"),
    ],
)
def test_whom_an_exposure_reaches_can_be_said(
    percent: float, rings: tuple[tuple[str, float], ...], words: str
) -> None:
    assert reach(percent, rings) == words
