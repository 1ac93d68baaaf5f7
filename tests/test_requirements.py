"""The locked requirements are what pyproject.toml asks for, whole, hashed, and bound to no machine or registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LOCKS = {"dev": ("examples", "test"), "production": ("production",)}


def _pins(name: str) -> list[tuple[Requirement, str]]:
    """Every pin of a lock with the text that follows it."""
    text = (REPO / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE | re.IGNORECASE)
    return [
        (Requirement(entry.partition("\\\n")[0].strip()), entry)
        for entry in entries
        if re.match(r"[a-z0-9]", entry, re.IGNORECASE)
    ]


def _wanted(extras: tuple[str, ...]) -> list[Requirement]:
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_the_project(lock: str) -> None:
    pinned: dict[str, list[Requirement]] = {}
    for pin, _ in _pins(lock):
        pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
    for wanted in _wanted(LOCKS[lock]):
        if wanted.marker and not Marker(str(wanted.marker)).evaluate():
            continue
        pins = pinned.get(canonicalize_name(wanted.name), [])
        assert pins, f"{wanted.name} is not in requirements/{lock}.txt: run `make lock`"
        for pin in pins:
            (specifier,) = pin.specifier
            assert wanted.specifier.contains(specifier.version, prereleases=True), (
                f"{pin} does not satisfy {wanted}: run `make lock`"
            )


@pytest.mark.parametrize("lock", [*LOCKS, "uv", "mlserver"])
def test_every_pin_of_a_lock_is_exact_and_hashed(lock: str) -> None:
    pins = _pins(lock)
    assert pins
    for pin, entry in pins:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert "--hash=sha256:" in entry, str(pin)


@pytest.mark.parametrize("lock", [*LOCKS, "uv", "mlserver"])
def test_a_lock_names_no_registry_and_no_path(lock: str) -> None:
    text = (REPO / "requirements" / f"{lock}.txt").read_text()
    assert not re.findall(r"https?://|file:|--(?:extra-)?index-url|--find-links|(?:^|\s)/\w+", text)


def test_production_runs_the_versions_that_the_tests_ran() -> None:
    tested = {(pin.name, str(pin.marker)): pin.specifier for pin, _ in _pins("dev")}
    for pin, _ in _pins("production"):
        assert tested.get((pin.name, str(pin.marker)), pin.specifier) == pin.specifier


def test_what_is_measured_against_reads_the_same_models() -> None:
    ours, theirs = ({pin.name: str(pin.specifier) for pin, _ in _pins(lock)} for lock in ("dev", "mlserver"))
    assert theirs["scikit-learn"] == ours["scikit-learn"]


def test_the_build_backend_is_locked_because_the_editable_install_is_not_isolated() -> None:
    names = {canonicalize_name(pin.name) for pin, _ in _pins("dev")}
    assert "hatchling" in names
