"""Any OpenFeature SDK gives the arm that the gateway gives: flagd's own evaluator, and golden vectors for 100,000 units."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from understudy.exposure import (
    CHALLENGER,
    CONTROL,
    UNEXPOSED,
    Exposure,
    assign,
    document,
    read_flag,
)

MODEL = "flight-delay"
EXPOSED = Exposure(MODEL, 7, "1", "2", "flight_delay-v2-1", 2, 5.0, 2_000_000_000)

# Answered by flagd's own evaluator when they were made. They may never change: a change would move units that are exposed
# now, and would part us from every OpenFeature SDK. Other implementations may be held against the same file.
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
SCENARIOS = {scenario["name"]: scenario for scenario in GOLDEN["scenarios"]}
UNITS = [f"N{number:05d}" for number in range(100_000)]
SIGNS = GOLDEN["signs"]


def context(number: int) -> dict[str, Any]:
    found: dict[str, Any] = GOLDEN["contexts"][number % len(GOLDEN["contexts"])]
    return found


def texts(attributes: dict[str, Any]) -> dict[str, str]:
    """Return what counts as a cohort: text, and nothing else."""
    return {name: value for name, value in attributes.items() if isinstance(value, str)}


def golden_exposure(scenario: dict[str, Any], tmp_path: Path) -> Exposure:
    (tmp_path / "flags.json").write_text(json.dumps({"flags": {MODEL: scenario["flag"]}}))
    found = read_flag(tmp_path / "flags.json", MODEL)
    assert found is not None
    return found


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_golden_units_get_their_arms_from_us(scenario: dict[str, Any], tmp_path: Path) -> None:
    exposed, now = golden_exposure(scenario, tmp_path), scenario["now"]
    cohorts = [texts(attributes) for attributes in GOLDEN["contexts"]]
    kinds = len(cohorts)
    arms = "".join(SIGNS[assign(exposed, unit, now, cohorts[n % kinds])] for n, unit in enumerate(UNITS))
    assert arms[:240] == scenario["first"]
    assert dict(Counter(arms)) == scenario["counts"]
    assert hashlib.sha256(arms.encode()).hexdigest() == scenario["sha256"]
    for unit, sign in scenario["strange"].items():
        assert SIGNS[assign(exposed, unit, now, {"origin": "JFK"})] == sign


@pytest.mark.parametrize("place", range(len(SCENARIOS)), ids=SCENARIOS.keys())
def test_golden_units_get_their_arms_from_flagd_itself(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = GOLDEN["scenarios"][place]
    exposed = golden_exposure(scenario, tmp_path)
    assert document([exposed])["flags"][MODEL] == scenario["flag"]
    _at(scenario["now"], monkeypatch)
    core = _flagd(exposed)
    # Every unit is asked about in the scenario that has everything, and in one of the others: all would take a minute.
    step = 1 if scenario["name"] == "two rings, one of them contained" else len(SCENARIOS)
    for number in range(place % step, len(UNITS), step):
        theirs = _answer(core, MODEL, UNITS[number], context(number))
        assert theirs == assign(exposed, UNITS[number], scenario["now"], texts(context(number)))
    for unit, sign in scenario["strange"].items():
        assert SIGNS[_answer(core, MODEL, unit, {"origin": "JFK"})] == sign


def _at(now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop flagd's clock."""
    targeting = sys.modules["openfeature.contrib.tools.flagd.core.targeting.targeting"]
    monkeypatch.setattr(targeting, "time", SimpleNamespace(time=lambda: float(now)))


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


RINGS = replace(
    EXPOSED,
    percent=5.0,
    lease_expires_at=4_000_000_000,
    rings=(("origin=JFK", 50.0), ("carrier=AA", 20.0), ("origin=7", 50.0), ("origin=True", 50.0)),
)


@pytest.mark.parametrize("percent", [0.0, 5.0, 60.0])
@pytest.mark.parametrize(
    "cohorts",
    [
        {},
        {"origin": "JFK"},
        {"carrier": "AA"},
        {"origin": "JFK", "carrier": "AA"},
        {"origin": "LGA", "hour": "7"},
    ],
    ids=str,
)
def test_flagd_itself_splits_rings_and_everybody_else_as_we_do(
    cohorts: dict[str, str], percent: float
) -> None:
    ours, theirs = _ours_and_flagds(replace(RINGS, percent=percent), 500, cohorts)
    assert ours == theirs


@pytest.mark.parametrize(
    "value", [None, "", 7, 7.0, True, ["JFK"], [], {"code": "JFK"}, [["JFK"]]], ids=lambda value: repr(value)
)
def test_flagd_itself_finds_whoever_does_not_say_his_cohort_in_no_ring(value: Any) -> None:
    alone = replace(RINGS, percent=0.0)
    assert _flagds_arm(alone, "N7500AA", {"origin": "JFK"}) == CHALLENGER
    assert _flagds_arm(alone, "N7500AA", {"origin": value}) == UNEXPOSED
    assert _flagds_arm(RINGS, "N100AA", {"origin": value}) == UNEXPOSED


@given(
    rings=st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0.001, 50)), value=st.text(max_size=8)
)
def test_flagd_itself_reads_any_ring_as_we_do(rings: dict[str, float], value: str) -> None:
    ringed = replace(RINGS, rings=tuple((f"origin={text}", percent) for text, percent in rings.items()))
    for unit in ("N7500AA", "N1580AA", "N988AA", "N359AA"):
        ours = assign(ringed, unit, time.time(), {"origin": value})
        assert ours == _flagds_arm(ringed, unit, {"origin": value})


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
