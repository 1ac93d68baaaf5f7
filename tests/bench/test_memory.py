"""The machine gets back the setting that the bench changes, however the bench ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.performance import memory


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page_reporting_order"
    path.write_text("9\n")
    monkeypatch.setattr(memory, "_REPORTING", path)
    monkeypatch.setattr(memory, "_LEFT_ALONE", 1 << 62)  # touch nothing
    return path


def test_memory_is_kept_while_something_is_measured_and_given_back_after_it_failed(setting: Path) -> None:
    def measure() -> None:
        with memory.own_memory() as told:
            assert setting.read_text() == "11"
            assert "none given back" in told
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure()
    assert setting.read_text() == "9\n"


def test_a_machine_without_the_setting_is_measured_as_it_is_and_the_report_says_so(setting: Path) -> None:
    setting.unlink()
    with memory.own_memory() as told:
        assert told == "as the machine gives it"
    assert not setting.exists()
