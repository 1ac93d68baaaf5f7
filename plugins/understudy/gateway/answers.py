"""Reads answers row by row: the number that is logged, the shape that is expected, the values that are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from numbers import Real
from typing import Any

__all__ = ["finite", "logged_number", "logged_numbers", "problem_with", "row_shape"]


def logged_number(answer: Any) -> float | None:
    """Return the number that stands for one row's answer in the log.

    Args:
        answer: A number, or one or two of them as a list or mapping; of two the second is the positive class.

    Returns:
        A finite number, or nothing where the answer is no such thing.
    """
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (list, tuple)):
        if len(answer) not in (1, 2):
            return None
        answer = answer[-1]
    if hasattr(answer, "item"):  # NumPy scalar
        answer = answer.item()
    if not isinstance(answer, Real):
        return None
    number = float(answer)
    return number if math.isfinite(number) else None


def logged_numbers(answers: Sequence[Any]) -> tuple[Sequence[float | None], Iterable[bool]]:
    """Return the logged number of every row's answer, and whether the answer is finite or missing altogether."""
    kinds = set(map(type, answers))
    if kinds == {float} and math.isfinite(sum(answers)):
        return answers, [True] * len(answers)
    if kinds == {list} and (width := len(answers[0])) in (1, 2) and set(map(len, answers)) == {width}:
        numbers = list(chain.from_iterable(answers))
        # A sum is finite only if every part of it is.
        if set(map(type, numbers)) == {float} and math.isfinite(sum(numbers)):
            return numbers[width - 1 :: width], [True] * len(answers)
    return list(map(logged_number, answers)), [answer is None or finite(answer) for answer in answers]


def finite(answer: Any) -> bool:
    """Return whether no number in an answer is NaN or infinite, and nothing in it is missing."""
    if isinstance(answer, dict):
        return all(finite(part) for part in answer.values())
    if isinstance(answer, (list, tuple)):
        return all(finite(part) for part in answer)
    if hasattr(answer, "item"):
        answer = answer.item()
    return answer is not None and not (isinstance(answer, float) and not math.isfinite(answer))


def row_shape(answer: Any) -> object:
    """Return what two answers must have in common so that a client can read either."""
    if isinstance(answer, dict):
        return ("mapping", frozenset(answer))
    if isinstance(answer, (list, tuple)):
        return ("list", len(answer))
    return "text" if isinstance(answer, str) else "number"


def problem_with(answers: Any, rows: int, shape: object) -> str | None:
    """Return why a challenger's answers cannot be sent, or nothing.

    Args:
        answers: What it returned, as JSON-safe data.
        rows: How many rows it was asked about.
        shape: Shape of the champion's answers, if one is known.
    """
    if not isinstance(answers, list) or len(answers) != rows:
        found = f"{len(answers)} answers" if isinstance(answers, list) else f"a {type(answers).__name__}"
        return f"WrongShape: {found} for {rows} row(s)"
    for answer in answers:
        if not finite(answer):
            return "NotFinite: an answer is missing, NaN or infinite"
        if shape is not None and row_shape(answer) != shape:
            return f"WrongShape: answers are {row_shape(answer)}, the champion's are {shape}"
    return None
