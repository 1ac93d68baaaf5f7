"""The door to Great Expectations: everything is counted, nothing passes by silence, and no user's value gets out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.errors import SuiteInvalid
from understudy.expectations import CheckResult, check, load_suite
from understudy.verdicts import Outcome

SECRET = "SECRET-N12345"
ROWS = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}, "severity": "critical"}


def expectation(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


Hold = Callable[..., CheckResult]


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    """Return a function that writes a suite and holds a frame against it."""

    def against(frame: pd.DataFrame, *expectations: dict[str, Any]) -> CheckResult:
        suite = {"name": "suite", "expectations": [ROWS, *expectations]}
        (tmp_path / "suite.json").write_text(json.dumps(suite))
        return check(tmp_path, "suite", frame, "requests")

    return against


def frame(**changes: Any) -> pd.DataFrame:
    columns = {"hour": [1.0, 2.0, 3.0], "origin": ["JFK", "LGA", SECRET]}
    return pd.DataFrame(columns | changes)


UNUSABLE: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{nope", "is not a suite"),
    "no text": (b"\xff\xfe", "is not a suite"),
    "a list": ("[]", "is not a suite"),
    "null": ("null", "is not a suite"),
    "without expectations": ('{"name": "suite"}', "is not a suite"),
    "expectations are null": ('{"expectations": null}', "is not a suite"),
    "expectations are a mapping": ('{"expectations": {"a": 1}}', "is not a suite"),
    "an expectation without a type": ('{"expectations": [{"kwargs": {}}]}', "is not a suite"),
    "empty": ('{"name": "suite", "expectations": []}', "no row count"),
    "without a row count": (
        json.dumps({"expectations": [expectation("column_to_exist", column="hour")]}),
        "no row count",
    ),
}


@pytest.mark.parametrize(("text", "said"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_suite_that_could_pass_without_checking_is_refused(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    (tmp_path / "suite.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SuiteInvalid, match=said):
        load_suite(tmp_path, "suite")


def test_a_missing_suite_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SuiteInvalid, match=r"Known suites: none.*Create suite\.json"):
        load_suite(tmp_path, "suite")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SuiteInvalid, match="Known suites: other"):
        load_suite(tmp_path, "suite")


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown expectation": (expectation("column_to_be_lovely", column="hour"), "lovely"),
    "an unknown argument": (expectation("column_values_to_not_be_null", colum="hour"), "kwargs"),
    "an argument of the wrong kind": (
        expectation("column_values_to_be_between", column="hour", min_value=[1]),
        "kwargs",
    ),
}


@pytest.mark.parametrize(("broken", "said"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_expectation_that_cannot_be_used_is_refused(hold: Hold, broken: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteInvalid, match=said):
        hold(frame(), broken)


def test_data_that_meets_everything_passes_with_the_counts(hold: Hold) -> None:
    result = hold(frame(), expectation("column_values_to_not_be_null", column="hour"))
    assert result.verdict.outcome is Outcome.PASS
    assert (result.declared, result.evaluated) == (2, 2)
    assert "All 2 expectations of suite hold on 3 rows of requests" in result.verdict.sentence
    assert "<html" in result.page


def test_a_null_in_a_critical_column_fails_with_its_count(hold: Hold) -> None:
    result = hold(frame(hour=[1.0, None, 3.0]), expectation("column_values_to_not_be_null", column="hour"))
    assert (result.verdict.outcome, result.verdict.reason) == (Outcome.FAIL, "expectation_failed")
    assert "of hour" in result.verdict.sentence
    assert "1 of 3 values" in result.verdict.sentence


def test_a_missing_column_is_an_error_and_not_a_failure(hold: Hold) -> None:
    result = hold(frame(), expectation("column_values_to_not_be_null", column="humidity"))
    assert (result.verdict.outcome, result.verdict.reason) == (Outcome.ERROR, "expectation_raised")
    assert "humidity" in result.verdict.sentence


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_a_milder_severity_passes_but_is_named(hold: Hold, severity: str) -> None:
    result = hold(
        frame(hour=[1.0, None, 3.0]), expectation("column_values_to_not_be_null", severity, column="hour")
    )
    assert result.verdict.passed
    named = next(part for part in result.verdict.parts if part.reason == f"expectation_{severity}")
    assert "does not hold" in named.sentence


def test_a_milder_severity_does_not_excuse_what_could_not_be_evaluated(hold: Hold) -> None:
    result = hold(frame(), expectation("column_values_to_not_be_null", "warning", column="humidity"))
    assert result.verdict.outcome is Outcome.ERROR


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_zero_rows_never_pass(hold: Hold, tmp_path: Path, severity: str) -> None:
    loose = {"type": ROWS["type"], "kwargs": {"min_value": 0}, "severity": severity}
    suite = [loose, expectation("column_values_to_not_be_null", severity, column="hour")]
    (tmp_path / "suite.json").write_text(json.dumps({"name": "suite", "expectations": suite}))
    result = check(tmp_path, "suite", frame().head(0), "requests")
    assert result.verdict.outcome in (Outcome.ERROR, Outcome.FAIL)


def test_a_frame_of_nothing_but_nulls_does_not_pass_a_range(hold: Hold) -> None:
    nothing = frame(hour=[np.nan] * 3)
    result = hold(
        nothing,
        expectation("column_values_to_be_between", column="hour", min_value=0),
        expectation("column_values_to_not_be_null", column="hour"),
    )
    assert result.verdict.outcome is Outcome.FAIL


MIXED = pd.Series([SECRET, 1.0, 2.0], dtype=object)
LEAKS: dict[str, dict[str, Any]] = {
    "a mean of words": expectation("column_mean_to_be_between", column="mixed", min_value=0, max_value=1),
    "a spread of words": expectation("column_stdev_to_be_between", column="origin", min_value=0, max_value=1),
    "values in a set": expectation("column_values_to_be_in_set", column="origin", value_set=["JFK"]),
    "values not in a set": expectation("column_values_to_not_be_in_set", column="origin", value_set=["JFK"]),
    "distinct values": expectation("column_distinct_values_to_be_in_set", column="origin", value_set=["JFK"]),
    "distinct values to contain": expectation(
        "column_distinct_values_to_contain_set", column="origin", value_set=["X"]
    ),
    "the most common value": expectation(
        "column_most_common_value_to_be_in_set", column="same", value_set=["JFK"]
    ),
    "a pattern": expectation("column_values_to_match_regex", column="origin", regex="^[A-Z]{3}$"),
    "a date": expectation("column_values_to_match_strftime_format", column="origin", strftime_format="%Y"),
    "lengths": expectation("column_value_lengths_to_equal", column="origin", value=3),
    "lengths of no words": expectation("column_value_lengths_to_equal", column="mixed", value=3),
    "uniqueness": expectation("column_values_to_be_unique", column="same"),
    "an order of words": expectation("column_values_to_be_between", column="mixed", min_value=0, max_value=1),
    "pairs": expectation("column_pair_values_to_be_equal", column_A="origin", column_B="same"),
    "a type": expectation("column_values_to_be_of_type", column="origin", type_="int"),
    "a sum of words": expectation("column_sum_to_be_between", column="mixed", min_value=0, max_value=1),
    "a median of words": expectation("column_median_to_be_between", column="mixed", min_value=0, max_value=1),
    "a largest word": expectation("column_max_to_be_between", column="origin", min_value=0, max_value=1),
    "JSON": expectation("column_values_to_be_json_parseable", column="origin"),
    "dates": expectation("column_values_to_be_dateutil_parseable", column="origin"),
}


@pytest.mark.parametrize("checked", LEAKS.values(), ids=LEAKS.keys())
def test_no_value_of_a_user_gets_into_verdict_page_or_log(
    hold: Hold, checked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    private = frame(origin=["JFK", "LGA", SECRET], mixed=MIXED, same=[SECRET] * 3)
    result = hold(private, checked)
    assert result.verdict.outcome in (Outcome.FAIL, Outcome.ERROR)
    assert SECRET not in json.dumps(result.verdict.to_dict(), allow_nan=False)
    assert SECRET not in result.page
    assert SECRET not in caplog.text


def test_numbers_that_say_how_much_stay_on_the_page(hold: Hold) -> None:
    ranges = {"quantiles": [0.5], "value_ranges": [[7, 8]]}
    result = hold(
        frame(),
        expectation("column_mean_to_be_between", column="hour", min_value=7),
        expectation("column_quantile_values_to_be_between", column="hour", quantile_ranges=ranges),
        expectation("table_columns_to_match_set", column_set=["hour", "wind"]),
    )
    assert result.verdict.outcome is Outcome.FAIL
    sentences = " ".join(part.sentence for part in result.verdict.parts)
    assert "observed 2" in sentences
    assert "origin" in result.page
    assert "not shown" not in result.page


def test_an_exception_is_told_by_its_kind(hold: Hold) -> None:
    result = hold(frame(mixed=MIXED), expectation("column_mean_to_be_between", column="mixed", min_value=0))
    assert "TypeError (its text is withheld" in result.verdict.sentence


def test_the_suites_that_ship_are_usable(repo: Path) -> None:
    shipped = sorted(path.stem for path in (repo / "expectations").glob("*.json"))
    assert shipped
    for name in shipped:
        assert load_suite(repo / "expectations", name)["name"] == name
