"""Evidence as data: digest, round trip, and the interval of every cell."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.looks import intervals
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import Evidence, Quality, StageUnits, split_test
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split


def cell(rate: tuple[float, float], units: int = 500, kind: str = "error_rate", cohort: str = "all") -> Cell:
    rng = np.random.default_rng(1)
    d = np.full((units, 1), 4.0)
    arms = [ArmMoments.from_units(rng.binomial(4, r, (units, 1)), d) for r in rate]
    return Cell("m", kind, cohort, *arms)


def evidence(*cells: Cell) -> Evidence:
    quality = Quality(stages=(StageUnits(1, 5, 6, 0.5, 0.5, 0),), splits=(Split((1,), (5, 6), (0.5, 0.5)),))
    return Evidence("flight-delay", "r-v2-1", 12.5, Cells.stack(cells), quality)


def test_it_survives_its_dictionary_with_the_same_digest() -> None:
    found = evidence(cell((0.1, 0.2)), cell((0.1, 0.2), cohort="origin=JFK"))
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = Evidence.from_dict(stored)
    assert again.to_dict() == found.to_dict()
    assert intervals(again, 0.01, 1000) == intervals(found, 0.01, 1000)


def test_a_changed_number_is_noticed() -> None:
    stored = evidence(cell((0.1, 0.2))).to_dict()
    stored["cells"][0]["control"]["sum_n"][0] += 1
    with pytest.raises(ValueError, match="digest"):
        Evidence.from_dict(stored)


def test_the_digest_forgets_the_time_of_the_look_and_the_state_of_the_files_only() -> None:
    found = evidence(cell((0.1, 0.2)))
    torn = replace(found.quality, torn_lines=3, invalid_lines=1)
    assert replace(found, looked_at=99.0, quality=torn).digest == found.digest
    assert replace(found, quality=replace(found.quality, duplicates=1)).digest != found.digest


def test_each_cell_gets_its_own_budget_and_one_without_is_undetermined() -> None:
    both = evidence(cell((0.1, 0.2)), cell((0.1, 0.2), cohort="origin=JFK"))
    found = intervals(both, {("m", "all"): 0.01}, 1000)
    assert found["m", "all"].alpha == 0.01
    assert (found["m", "all"].lower or 0) > 0
    assert found["m", "origin=JFK"].reason == "no_alpha"


def test_a_rate_that_never_happened_is_bounded_by_the_number_of_units() -> None:
    found = intervals(evidence(cell((0, 0), 600)), 0.01, 1000)["m", "all"]
    assert (found.determined, found.estimate, found.reason) == (True, 0.0, "never_happened")
    assert found.upper == pytest.approx(1 - 0.005 ** (1 / 600))
    few = intervals(evidence(cell((0, 0), 5)), 0.01, 1000)["m", "all"]
    assert (few.upper or 0) > 0.6


def test_a_rate_that_is_one_in_one_arm_and_zero_in_the_other_is_bounded_by_the_units_of_both() -> None:
    worse = intervals(evidence(cell((0, 1), 60)), 0.01, 1000)["m", "all"]
    assert (worse.determined, worse.estimate, worse.reason) == (True, 1.0, "without_exception")
    slack = 1 - 0.0025 ** (1 / 60)
    assert (worse.lower, worse.upper) == pytest.approx((1 - 2 * slack, 1.0))
    better = intervals(evidence(cell((1, 0), 60)), 0.01, 1000)["m", "all"]
    assert (better.lower, better.upper) == pytest.approx((-1.0, 2 * slack - 1))
    few = intervals(evidence(cell((0, 1), 4)), 0.01, 1000)["m", "all"]
    assert (few.lower or 0) < 0


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.3, 0.7), (0.1, 0.9), (0.6, 0.8)])
def test_looking_at_every_pair_of_units_rarely_misses_while_the_arms_are_constant(
    rates: tuple[float, float],
) -> None:
    rng = np.random.default_rng(7)
    alpha, runs, looks, missed = 0.2, 2000, 12, 0
    for _ in range(runs):
        drawn = [rng.binomial(1, rate, (looks, 1)) for rate in rates]
        for seen in range(2, looks + 1):
            arms = [ArmMoments.from_units(values[:seen], np.ones((seen, 1))) for values in drawn]
            found = intervals(evidence(Cell("m", "error_rate", "all", *arms)), alpha, 1000)["m", "all"]
            if found.reason is None or found.lower is None or found.upper is None:
                break  # not constant any more, or already from the start
            if found.lower > rates[1] - rates[0]:
                missed += 1
                break
    assert missed / runs < alpha / 2


def test_a_rate_that_always_happens_and_a_constant_loss_are_undetermined() -> None:
    for constant in (cell((1, 1)), cell((0, 0), kind="brier")):
        assert intervals(evidence(constant), 0.01, 1000)["m", "all"].reason == "zero_variance"


def test_no_events_are_undetermined() -> None:
    nothing = ArmMoments.from_units(np.zeros((0, 1)), np.zeros((0, 1)))
    found = intervals(evidence(Cell("m", "error_rate", "all", nothing, nothing)), 0.01, 1000)["m", "all"]
    assert (found.determined, found.reason) == (False, "too_few_units")
    assert intervals(evidence(), 0.01, 1000) == {}


def test_the_split_is_tested_from_the_evidence() -> None:
    assert not split_test(evidence(), 0.01).alarm
    skewed = replace(evidence().quality, splits=(Split((1,), (5, 600), (0.5, 0.5)),))
    assert split_test(replace(evidence(), quality=skewed), 0.01).alarm
