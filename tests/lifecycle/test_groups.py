"""Gaps between groups offline: with intervals, for each version, or not known."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.lifecycle.groups import gaps


def rows(
    size: int, share_right: tuple[float, float], seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return answers, labels and groups; in each group that share of the decisions is right."""
    rng = np.random.default_rng(seed)
    group = np.repeat(["A", "B"], size)
    labels = rng.integers(0, 2, 2 * size).astype(float)
    right = rng.random(2 * size) < np.repeat(share_right, size)
    return np.where(right, labels, 1 - labels) * 0.8 + 0.1, labels, group


def test_a_gap_has_an_interval_that_holds_the_truth() -> None:
    answers, labels, group = rows(4000, (0.9, 0.7))
    found = gaps({"challenger": answers}, labels, {"origin": group}, 0.05)["origin"]["challenger"]["right"]
    assert found["lower"] < 0.2 < found["upper"]
    assert found["gap"] == pytest.approx(0.2, abs=0.03)


def test_groups_that_do_not_differ_reach_down_to_no_gap() -> None:
    answers, labels, group = rows(400, (0.8, 0.8))
    found = gaps({"challenger": answers}, labels, {"origin": group}, 0.05)["origin"]["challenger"]
    assert found["right"]["lower"] == 0.0
    assert found["positive"]["upper"] < 0.2


def test_answers_that_are_no_numbers_do_not_count_and_a_group_of_them_is_not_known() -> None:
    answers, labels, group = rows(50, (0.8, 0.8))
    answers[group == "B"] = np.nan
    found = gaps({"challenger": answers}, labels, {"origin": group}, 0.05)["origin"]["challenger"]["right"]
    assert (found["gap"], found["lower"], found["upper"]) == (None, None, None)


def test_one_group_and_a_column_of_very_many_have_no_gap_to_tell() -> None:
    answers, labels, _ = rows(500, (0.8, 0.8))
    columns = {"one": np.repeat("A", 1000), "many": np.arange(1000).astype(str)}
    assert gaps({"challenger": answers}, labels, columns, 0.05) == {}
