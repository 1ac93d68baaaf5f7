"""The words and addresses of the page."""

from __future__ import annotations

import pytest

from understudy.console.page import duration, mlflow_address, utc


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://me:secret@mlflow.example/base/", "https://mlflow.example/base"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:///mlflow.db", ""),
        ("javascript:alert(1)", ""),
        ("databricks", ""),
        ("", ""),
    ],
)
def test_mlflow_is_linked_only_on_the_web_and_without_a_password(uri: str, address: str) -> None:
    assert mlflow_address(uri) == address


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (93784, "1 d 2 h")],
)
def test_a_length_of_time_is_said_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_moment_is_told_in_utc() -> None:
    assert utc(0) == "1970-01-01 00:00:00"
