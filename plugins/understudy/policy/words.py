"""The words of verdicts: for a person who owns a product, not for a statistician."""

from __future__ import annotations

import math

from understudy.policy.doubt import LARGEST_SCALE_RATIO, LARGEST_SHARE_NOT_NUMBERS

__all__ = ["about", "duration", "missing_words", "number", "plural", "tolerated", "where"]

_UNDETERMINED: dict[str | None, tuple[str, str]] = {
    "no_data": (
        "nothing has been measured",
        "The first events of it that are old enough to count, in both arms.",
    ),
    "too_few_units": (
        "too few units have been seen in one of the arms",
        "More units in both arms; with fewer than two there is nothing to compare.",
    ),
    "zero_variance": (
        "every unit has shown exactly the same value, so chance cannot be told from harm",
        "Values that differ between units.",
    ),
    "no_standard_error": ("its spread cannot be computed", "More units in both arms."),
    "groups_too_thin": (
        "one of the groups that are compared has too few units",
        "More units of every group, or at least two groups that have enough.",
    ),
    "not_numbers": (
        f"more than {LARGEST_SHARE_NOT_NUMBERS:.0%} of an arm's values are not numbers, and what is left out may be the harm",
        "Values that are numbers: repair whatever sends the others, and start a new run.",
    ),
    "impossible": (
        "its average is outside what such a metric can be",
        "Values in the right unit: repair whatever sends them, and start a new run.",
    ),
    "scales_differ": (
        f"the arms' values differ in size by more than {LARGEST_SCALE_RATIO:,.0f} times, as if they were in different units",
        "The same unit in both arms: repair whatever sends the values, and start a new run.",
    ),
    "no_alpha": ("nothing of the error budget is left for it", "A larger alpha in the experiment file."),
}


def missing_words(reason: str | None) -> tuple[str, str]:
    """Return why a metric cannot be determined and what would change that."""
    return _UNDETERMINED.get(reason, ("it could not be computed", "More units in both arms."))


def where(cohort: str, overall: str) -> str:
    """Return how a sentence names a cohort; nothing for everyone."""
    return "" if cohort == overall else f" in cohort {cohort}"


def number(value: float) -> str:
    """Return a number as a person reads it."""
    return f"{value:.4g}"


def about(count: float) -> str:
    """Return a large number to two digits: ``3,400``."""
    if not math.isfinite(count) or count < 1:
        return "1"
    step = 10 ** max(math.floor(math.log10(count)) - 1, 0)
    return f"{math.ceil(count / step) * step:,}"


def duration(seconds: float) -> str:
    """Return a time span to one sensible unit."""
    for name, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{math.ceil(seconds)} s"


def tolerated(count: int) -> str:
    """Return ``1 is tolerated`` or ``2 are tolerated``."""
    return f"{count} {'is' if count == 1 else 'are'} tolerated"


def plural(count: int, what: str) -> str:
    """Return ``1 look`` or ``2 looks``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
