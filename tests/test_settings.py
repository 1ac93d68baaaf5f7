"""Where an installation keeps its state: defaults, overrides, and secrets that may not be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.errors import SettingMissing
from understudy.settings import PSEUDONYM_KEY_MIN, Settings


def test_every_folder_has_a_default_below_the_home_or_in_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repo: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Settings.from_env()
    home = tmp_path / ".understudy"
    assert (found.home, found.data) == (home, home / "data")
    assert (found.flags_path, found.events_dir) == (home / "flags.json", home / "events")
    assert found.store_url == f"sqlite:///{home / 'store.db'}"
    assert (found.experiments, found.expectations) == (repo / "experiments", repo / "expectations")
    assert found.gateway_urls == ("http://127.0.0.1:5080",)


def test_every_variable_is_taken_and_paths_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "UNDERSTUDY_HOME": "state",
        "UNDERSTUDY_STORE_URL": "postgresql+psycopg2://u@h/db",
        "UNDERSTUDY_EXPERIMENTS": "e",
        "UNDERSTUDY_EXPECTATIONS": "x",
        "UNDERSTUDY_DATA": "d",
        "UNDERSTUDY_GATEWAY_URLS": " http://a:1/ ,, http://b:2 ",
        "UNDERSTUDY_AIRFLOW_URL": "http://air/",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = Settings.from_env()
    assert found.home == tmp_path / "state"
    assert (found.experiments, found.expectations, found.data) == tuple(tmp_path / name for name in "exd")
    assert found.gateway_urls == ("http://a:1", "http://b:2")
    assert (found.airflow_url, found.store_url) == ("http://air", "postgresql+psycopg2://u@h/db")


@pytest.mark.parametrize("name", ["UNDERSTUDY_HOME", "UNDERSTUDY_DATA", "UNDERSTUDY_GATEWAY_URLS"])
def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    expected = Settings.from_env()
    monkeypatch.setenv(name, "")
    assert Settings.from_env() == expected


def test_partitions_stay_in_the_event_log_unless_a_place_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("UNDERSTUDY_EVENTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Settings.from_env().partitions_url("delay") == ""
    for place, url in {
        "s3://bucket/events/": "s3://bucket/events/delay",
        "elsewhere": f"file://{tmp_path}/elsewhere/delay",
        "": "",
    }.items():
        monkeypatch.setenv("UNDERSTUDY_EVENTS", place)
        assert Settings.from_env().partitions_url("delay") == url


@pytest.mark.parametrize(
    ("text", "days"),
    [("", None), ("90", 90.0), ("90, delay=30", 30.0), ("other=30", None), ("delay=0.5,other=7", 0.5)],
)
def test_events_are_kept_unless_a_number_of_days_is_named(
    monkeypatch: pytest.MonkeyPatch, text: str, days: float | None
) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", text)
    assert Settings.from_env().retention_days("delay") == days


@pytest.mark.parametrize("text", ["soon", "0", "-1", "delay=", "inf", "nan", "90d", "90,delay=x"])
def test_an_age_that_is_none_removes_nothing(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", text)
    with pytest.raises(SettingMissing, match="Leave it empty to keep every event"):
        Settings.from_env().retention_days("delay")


def test_without_mlflows_address_nothing_is_written_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingMissing, match="Set it to the address of your MLflow server"):
        _ = Settings.from_env().mlflow_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m:5000")
    assert Settings.from_env().mlflow_uri == "http://m:5000"


@pytest.mark.parametrize("key", ["", "short", "x" * (PSEUDONYM_KEY_MIN - 1)])
def test_a_short_pseudonym_key_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("UNDERSTUDY_PSEUDONYM_KEY", key)
    with pytest.raises(SettingMissing, match=f"has {len(key)} characters") as caught:
        _ = Settings.from_env().pseudonym_key
    assert not key or key not in str(caught.value)


def test_a_long_enough_key_is_given_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_PSEUDONYM_KEY", "é" * PSEUDONYM_KEY_MIN)
    assert Settings.from_env().pseudonym_key == ("é" * PSEUDONYM_KEY_MIN).encode()
