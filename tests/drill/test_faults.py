"""What is planted costs what it is meant to cost, whatever the champion is like."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.drill.faults import TUNED, Plant, loss, lost, mixed_up, spoilt, tune
from understudy.spec import Scenario

ROWS = 4000
EVERYBODY = np.zeros(ROWS, dtype=bool)


def champion(skill: float, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated answers of a champion with some skill, and true outcomes."""
    rng = np.random.default_rng(4)
    logit = np.log(base / (1 - base)) + skill * rng.normal(size=ROWS)
    answers = 1 / (1 + np.exp(-logit))
    return answers, (rng.uniform(size=ROWS) < answers).astype(float)


@pytest.mark.parametrize("base", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("skill", [0.2, 2.0])
@pytest.mark.parametrize("kind", ["brier", "log_loss"])
@pytest.mark.parametrize("scenario", sorted(TUNED - {Scenario.SMALL_HARM}))
def test_a_planted_fault_costs_more_than_the_margin(
    scenario: Scenario, kind: str, skill: float, base: float
) -> None:
    answers, labels = champion(skill, base)
    cohort = np.arange(ROWS) % 2 == 0
    # What a stale feature and features out of sync come to: the answers of other rows.
    given = (
        np.roll(answers, 1)
        if scenario in (Scenario.STALE_FEATURE, Scenario.TRAINING_OUT_OF_SYNC)
        else answers
    )

    def answered(plant: Plant) -> tuple[np.ndarray, np.ndarray]:
        return (answers, EVERYBODY) if plant.scenario is Scenario.HEALTHY else (given, cohort)

    plant, cost = tune(Plant(scenario), answered, labels, kind, margin=0.01)
    assert cost >= 0.03
    assert cost == pytest.approx(lost(kind, spoilt(plant, given, cohort), answers, labels))


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02])
def test_the_small_harm_is_just_beyond_the_margin(margin: float) -> None:
    answers, labels = champion(1.0, 0.2)
    _, cost = tune(Plant(Scenario.SMALL_HARM), lambda plant: (answers, EVERYBODY), labels, "brier", margin)
    assert margin < cost < 3 * margin


def test_where_nothing_costs_enough_the_costliest_is_planted() -> None:
    answers, labels = np.full(ROWS, 0.5), np.arange(ROWS) % 2.0
    plant, cost = tune(Plant(Scenario.FLIPPED_SIGN), lambda plant: (answers, EVERYBODY), labels, "brier", 0.9)
    assert cost < 0.9
    assert np.isfinite(spoilt(plant, answers, EVERYBODY)).all()


def test_shuffling_leaves_the_other_cohorts_alone() -> None:
    answers, _ = champion(1.0, 0.3)
    cohort = np.arange(ROWS) < 100
    bad = spoilt(Plant(Scenario.SHUFFLED_COHORT, centre=-1.0), answers, cohort)
    assert (bad[~cohort] == answers[~cohort]).all()
    assert sorted(bad[cohort]) == pytest.approx(sorted(answers[cohort]))
    assert (bad[cohort] != answers[cohort]).any()


def test_a_stale_feature_stands_still_and_the_others_do_not() -> None:
    columns = {"hour": np.arange(5.0), "carrier": np.asarray(list("ABCDE"), dtype=object)}
    found = mixed_up(Plant(Scenario.STALE_FEATURE, columns=("carrier",)), columns)
    assert list(found["carrier"]) == ["A"] * 5
    assert list(found["hour"]) == [0, 1, 2, 3, 4]


def test_out_of_sync_every_row_has_the_features_of_the_row_before() -> None:
    found = mixed_up(Plant(Scenario.TRAINING_OUT_OF_SYNC), {"hour": np.arange(4)})
    assert list(found["hour"]) == [3, 0, 1, 2]


def test_values_that_nobody_handles_become_no_number_in_a_quarter_of_the_answers() -> None:
    bad = spoilt(Plant(Scenario.NULL_HANDLING), np.full(400, 0.3), EVERYBODY)
    assert np.isnan(bad).mean() == 0.25


def test_a_fault_survives_the_file_that_it_is_told_in() -> None:
    plant = Plant(Scenario.SLOW, 2.0, -1.5, ("hour",), 0.4)
    assert Plant.from_dict(plant.to_dict()) == plant


def test_accuracy_is_lost_by_answers_on_the_other_side_of_a_half() -> None:
    assert loss("accuracy", np.asarray([0.9, 0.1]), np.asarray([1.0, 1.0])) == 0.5
