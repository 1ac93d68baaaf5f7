"""The pictures of a report: they show what was seen, and nothing when nothing was."""

from __future__ import annotations

import re

import pytest

from understudy.lifecycle import charts
from understudy.store.records import RecordedVerdict
from understudy.verdicts import Outcome, Verdict


def looked(number: int, harm: float, stage: int = 1, *, determined: bool = True) -> RecordedVerdict:
    numbers = {"estimate": harm, "lower": harm - 0.05, "upper": harm + 0.05, "determined": determined}
    part = Verdict(Outcome.PASS, "no_harm_proven", "", numbers, "brier", "all")
    whole = Verdict(Outcome.PASS, "held", "", parts=(part,))
    return RecordedVerdict("r", f"stage_{stage}", stage, "HOLD", whole, {"digest": ""}, 1000.0 + number)


def test_the_harm_chart_names_the_metric_its_stages_and_draws_the_margin() -> None:
    looks = [looked(number, -0.01, 1 + number // 10) for number in range(20)]
    drawn = charts.harm_over_time(looks, "brier", 0.02)
    assert drawn.startswith("<svg")
    assert "harm in brier" in drawn
    assert {"stage 1", "stage 2"} <= set(re.findall(r"stage \d", drawn))
    assert drawn.count("#b3261e") > charts.harm_over_time(looks, "brier").count("#b3261e")


@pytest.mark.parametrize("looks", [[], [looked(1, 0.0, determined=False)]], ids=["no look", "undetermined"])
def test_without_an_interval_there_is_no_picture(looks: list[RecordedVerdict]) -> None:
    assert charts.harm_over_time(looks, "brier", 0.02) == ""


def test_a_picture_of_days_of_looks_stays_small_and_ends_with_the_last_look() -> None:
    looks = [looked(number, 0.0) for number in range(5000)]
    kept = charts._thinned(looks)
    assert len(kept) <= 300
    assert kept[-1] is looks[-1]


def test_offline_and_online_are_drawn_only_where_both_are_known() -> None:
    sides = ("offline", "offline_lower", "offline_upper", "online", "online_lower", "online_upper")
    known = dict(zip(sides, (-0.02, -0.03, -0.01, -0.015, -0.04, 0.01), strict=True))
    assert "origin=JFK" in charts.offline_and_online({"origin=JFK": known})
    assert charts.offline_and_online({"origin=JFK": dict.fromkeys(sides)}) == ""
