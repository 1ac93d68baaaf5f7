"""The only door to Great Expectations: loads plain suites and holds data against them, counting everything.

Great Expectations passes silently on an empty suite, on an expectation type it does not know and on an empty frame.
This door counts what was declared, loaded and evaluated, and turns every gap into an error or a verdict other than
PASS.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import SuiteInvalid
from understudy.verdicts import Outcome, Verdict, worst_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CheckResult", "check", "load_suite"]

_ROW_COUNT = ("expect_table_row_count_to_be_between", "expect_table_row_count_to_equal")
_NO_COLUMN = re.compile(r'Error: The column "[^"]*" in BatchData does not exist\.')
_KIND = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception))\b", re.MULTILINE)
_QUANTILES = {"quantiles", "values"}
# Without sample values: rows of user data must not reach a log, an artifact or a page.
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}


@dataclass(frozen=True)
class CheckResult:
    """One suite held against one frame.

    Attributes:
        suite: Name of the suite.
        verdict: FAIL when a critical expectation is not met, ERROR when one could not be evaluated.
        declared: Expectations in the file.
        evaluated: Expectations that were answered.
        page: Data Docs page as HTML.
    """

    suite: str
    verdict: Verdict
    declared: int
    evaluated: int
    page: str


def load_suite(folder: Path, name: str) -> dict[str, Any]:
    """Read a suite and refuse one that could pass without checking anything.

    Args:
        folder: The expectations folder.
        name: File name without ``.json``.

    Raises:
        SuiteInvalid: It is missing, not JSON, empty, without a row count, or names an unknown expectation.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.json"))) or "none"
        raise SuiteInvalid(
            f"There is no suite {name!r} in {folder}. Known suites: {known}. Create {path.name}."
        )
    try:
        suite = json.loads(path.read_text())
        types = [expectation["type"] for expectation in suite["expectations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteInvalid(
            f"{path.name} is not a suite ({type(error).__name__}: {error}). It must be JSON with `name` and "
            "`expectations`, each with `type` and `kwargs`."
        ) from error
    if not any(kind in _ROW_COUNT for kind in types):
        raise SuiteInvalid(
            f"{path.name} has no row count. An empty frame passes most expectations, so every suite needs "
            f"`{_ROW_COUNT[0]}` with a `min_value` of at least 1."
        )
    return dict(suite)


def check(folder: Path, name: str, frame: pd.DataFrame, on: str) -> CheckResult:
    """Hold a frame against a suite.

    Args:
        folder: The expectations folder.
        name: Suite name.
        frame: The data, one row per request or labelled example.
        on: What the data is, for the sentence.

    Raises:
        SuiteInvalid: The suite cannot be used at all.
    """
    declared = load_suite(folder, name)
    import great_expectations as gx
    from great_expectations.exceptions import GreatExpectationsError

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    try:
        suite = gx.ExpectationSuite(name=name, expectations=declared["expectations"])
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise SuiteInvalid(
            f"{name}.json has an expectation that cannot be used: {error}. Check its type and kwargs."
        ) from error
    if len(suite.expectations) != len(declared["expectations"]):
        loaded = {expectation.expectation_type for expectation in suite.expectations}
        unknown = sorted({item["type"] for item in declared["expectations"]} - loaded)
        raise SuiteInvalid(
            f"{name}.json declares {len(declared['expectations'])} expectations, but only {len(suite.expectations)} are "
            f"known to Great Expectations. Unknown: {', '.join(unknown) or 'a repeated one'}. Correct the type."
        )
    batch = (
        context.data_sources.add_pandas(on)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("whole")
        .get_batch(batch_parameters={"dataframe": frame})
    )
    result = batch.validate(suite, result_format=_RESULT_FORMAT)
    _make_plain(result)
    parts = tuple(_judge(item, name, on) for item in result.results)
    verdict = worst_of(parts, f"All {len(parts)} expectations of {name} hold on {len(frame):,} rows of {on}.")
    if len(parts) != len(suite.expectations) or frame.empty:
        verdict = Verdict(
            Outcome.ERROR,
            "not_everything_evaluated",
            f"{name} declares {len(suite.expectations)} expectations and {len(parts)} were evaluated, on "
            f"{len(frame):,} rows of {on}; without all of them the data counts as unchecked.",
            parts=parts,
        )
    return CheckResult(name, verdict, len(suite.expectations), len(parts), _page(result))


def _make_plain(result: Any) -> None:
    """Leave only what cannot be a user's value, before anything is judged, shown or kept.

    Great Expectations quotes values as observations, in details and in the messages of exceptions. It also leaves NumPy
    scalars in results, and its own page renderer cannot read NumPy 2's.
    """
    for item in result.results:
        _withhold_message(item.exception_info or {})
        values = item.result or {}
        for key, value in list(values.items()):
            plain = value.item() if hasattr(value, "item") else value
            if _harmless(plain) or item.expectation_config.type.startswith("expect_table_"):
                values[key] = plain
            elif key == "observed_value":
                values[key] = "(not shown: it could be a user's value)"
            else:
                del values[key]


def _harmless(value: Any) -> bool:
    if isinstance(value, Mapping):
        numbers = (
            [number for part in value.values() for number in part] if set(value) <= _QUANTILES else [value]
        )
        return all(isinstance(number, (int, float)) for number in numbers)
    return value is None or isinstance(value, (int, float))


def _withhold_message(info: Any) -> None:
    """Put the kind of an exception in the place of its message, unless that only says that a column is missing."""
    for nested in (info, *(part for part in info.values() if isinstance(part, Mapping))):
        if nested.get("raised_exception"):
            message, trace = str(nested["exception_message"]), str(nested["exception_traceback"])
            if not _NO_COLUMN.fullmatch(message):
                kind = _KIND.search(trace)
                message = f"{kind[1] if kind else 'an exception'} (its text is withheld: it could quote a user's value)"
            nested |= {"exception_message": message, "exception_traceback": ""}


def _judge(item: Any, suite: str, on: str) -> Verdict:
    config = item.expectation_config
    severity = str(getattr(config.severity, "value", config.severity))
    what = _describe(config.type, config.kwargs)
    evidence = {"suite": suite, "expectation": config.type, "severity": severity} | _numbers(item.result)
    problem = _exception(item.exception_info or {})
    if problem:
        return Verdict(
            Outcome.ERROR,
            "expectation_raised",
            f"{suite}: {what} could not be evaluated on {on}: {problem}",
            evidence,
        )
    if item.success:
        return Verdict(Outcome.PASS, "expectation_met", f"{suite}: {what} holds on {on}.", evidence)
    found = _found(evidence)
    if severity == "critical":
        return Verdict(
            Outcome.FAIL, "expectation_failed", f"{suite}: {what} does not hold on {on}{found}.", evidence
        )
    return Verdict(
        Outcome.PASS,
        f"expectation_{severity}",
        f"{suite}: {severity}, {what} does not hold on {on}{found}.",
        evidence,
    )


def _exception(info: Mapping[str, Any]) -> str | None:
    """Return the message of an expectation that raised; Great Expectations has two shapes for it."""
    for part in (info, *(part for part in info.values() if isinstance(part, Mapping))):
        if part.get("raised_exception"):
            return str(part["exception_message"])
    return None


def _describe(kind: str, kwargs: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in kwargs.items() if key not in ("batch_id", "column")}
    column = f" of {kwargs['column']}" if "column" in kwargs else ""
    limits = ", ".join(f"{key} {value}" for key, value in shown.items())
    return f"{kind.removeprefix('expect_').replace('_', ' ')}{column}" + (f" ({limits})" if limits else "")


def _numbers(result: Mapping[str, Any] | None) -> dict[str, float]:
    """Keep the plain numbers of a result; anything else could be a user's row."""
    kept = {}
    for key in ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "observed_value"):
        value = (result or {}).get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            kept[key] = float(value)
    return kept


def _found(evidence: Mapping[str, Any]) -> str:
    if "observed_value" in evidence:
        return f" (observed {evidence['observed_value']:g})"
    if "unexpected_count" in evidence:
        return f" ({evidence['unexpected_count']:,.0f} of {evidence.get('element_count', 0):,.0f} values)"
    return ""


def _page(result: Any) -> str:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    return str(
        DefaultJinjaPageView().render(ValidationResultsPageRenderer(run_info_at_end=True).render(result))
    )
