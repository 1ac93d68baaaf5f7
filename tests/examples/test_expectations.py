from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
import pytest
from great_expectations import ExpectationSuite

from examples.flights.feeds import FAULT_FROM
from examples.flights.flights import FEATURES, Flights

SUITES = Path(__file__).resolve().parents[2] / "expectations"
Check = Callable[[str, pd.DataFrame], set[tuple[str, str | None]]]


@pytest.fixture(scope="module")
def failed() -> Check:
    """Return what fails on a frame, as (type, column); every declared expectation must be loaded and evaluated."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batches = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )

    def check(name: str, frame: pd.DataFrame) -> set[tuple[str, str | None]]:
        declared: dict[str, Any] = json.loads((SUITES / f"{name}.json").read_text())
        suite = ExpectationSuite(**declared)
        assert len(suite.expectations) == len(declared["expectations"]) > 0
        result = batches.get_batch(batch_parameters={"dataframe": frame}).validate(
            suite, result_format="BOOLEAN_ONLY"
        )
        assert len(result.results) == len(declared["expectations"])
        bad = [r.expectation_config for r in result.results if not r.success]
        return {(config.type, config.kwargs.get("column")) for config in bad}

    return check


@pytest.fixture(scope="module")
def requests(flights: Flights) -> pd.DataFrame:
    """Features of 5,000 logged requests of mid April, with the planted fault in them."""
    traffic = flights.read("traffic")
    return (
        traffic.loc[traffic["scheduled_at"] > FAULT_FROM, list(FEATURES)].head(5_000).reset_index(drop=True)
    )


@pytest.mark.parametrize("name", ["flights_training", "flights_requests"])
def test_suites_are_plain_json_with_a_row_count(name: str) -> None:
    suite = json.loads((SUITES / f"{name}.json").read_text())
    assert suite["name"] == name
    assert {tuple(sorted(e)) for e in suite["expectations"]} == {("kwargs", "meta", "severity", "type")}
    assert "expect_table_row_count_to_be_between" in {e["type"] for e in suite["expectations"]}


@pytest.mark.parametrize("part", ["reference", "holdout"])
def test_labelled_data_passes(part: str, flights: Flights, failed: Check) -> None:
    assert failed("flights_training", flights.read(part)) == set()


def test_requests_pass_before_and_after_the_planted_fault(flights: Flights, failed: Check) -> None:
    traffic = flights.read("traffic")
    for month in (4, 6, 7, 10):
        assert (
            failed("flights_requests", traffic.loc[traffic["month"] == month, list(FEATURES)].head(3_000))
            == set()
        )


def broken(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    """Return a copy with one mistake an engineer could make."""
    bad = frame.copy()
    match how:
        case "empty":
            return bad.iloc[0:0]
        case "column gone":
            return bad.drop(columns="visib")
        case "airport gone":
            return bad[bad["origin"] != "LGA"]
        case "unknown airport":
            bad.loc[bad.index[3], "origin"] = "PHL"
        case "celsius":
            bad["temp"] = (bad["temp"] - 32) * 5 / 9 - 5
        case "kilometres":
            bad["distance"] = bad["distance"] * 1.609
        case "percent":
            bad["carrier_late_rate"] = bad["carrier_late_rate"] * 100
        case "weather lost":
            bad["visib"] = np.nan
        case "feed lost":
            bad["live_delay"] = np.nan
    return bad


MISTAKES = {
    "empty": ("expect_table_row_count_to_be_between", None),
    "column gone": ("expect_table_columns_to_match_set", None),
    "airport gone": ("expect_column_distinct_values_to_equal_set", "origin"),
    "unknown airport": ("expect_column_values_to_be_in_set", "origin"),
    "celsius": ("expect_column_mean_to_be_between", "temp"),
    "kilometres": ("expect_column_mean_to_be_between", "distance"),
    "percent": ("expect_column_values_to_be_between", "carrier_late_rate"),
    "weather lost": ("expect_column_values_to_not_be_null", "visib"),
    "feed lost": ("expect_column_values_to_not_be_null", "live_delay"),
}


@pytest.mark.parametrize("how", MISTAKES)
def test_broken_requests_fail_where_they_are_broken(how: str, requests: pd.DataFrame, failed: Check) -> None:
    assert MISTAKES[how] in failed("flights_requests", broken(requests, how))


@pytest.mark.parametrize("how", MISTAKES)
def test_broken_training_data_fails_where_it_is_broken(how: str, flights: Flights, failed: Check) -> None:
    assert MISTAKES[how] in failed("flights_training", broken(flights.read("holdout"), how))


def test_bad_labels_and_repeats_fail_in_training_data(flights: Flights, failed: Check) -> None:
    holdout = flights.read("holdout")
    assert ("expect_column_mean_to_be_between", "delayed") in failed(
        "flights_training", holdout.assign(delayed=0.0)
    )
    assert ("expect_column_values_to_not_be_null", "delayed") in failed(
        "flights_training", holdout.assign(delayed=np.nan)
    )
    twice = pd.concat([holdout, holdout.head(1)], ignore_index=True)
    assert ("expect_column_values_to_be_unique", "flight_id") in failed("flights_training", twice)
    early = holdout.assign(landed_at=holdout["scheduled_at"] - 1.0)
    assert ("expect_column_pair_values_a_to_be_greater_than_b", None) in failed("flights_training", early)
