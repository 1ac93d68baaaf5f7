"""The commands a newcomer types: they explain themselves, and say what is missing before anything else fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TARGETS = {
    "help",
    "demo",
    "up",
    "test",
    "lint",
    "types",
    "format",
    "bench",
    "calibrate",
    "drill",
    "faults",
    "lock",
    "system",
    "clean",
    "docs",
}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with nothing but what the set-up reads, so that no target finds a finished one."""
    shutil.copy(REPO / "Makefile", tmp_path)
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    shutil.copytree(REPO / "requirements", tmp_path / "requirements")
    return tmp_path


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def _python(folder: Path, body: str) -> str:
    path = folder / "a-python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_make_alone_lists_every_target_with_what_it_does(bare: Path) -> None:
    said = _make(bare).stdout
    assert set(re.findall(r"^  make (\w+) +\S", said, re.MULTILINE)) == TARGETS


def test_contributing_names_only_targets_that_exist() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"`make (\w+)", text)) <= TARGETS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            'case "$2" in *version_info*) exit 1;; esac; echo "Python 3.10.4"',
            "is Python 3.10.4. Understudy needs Python 3.11",
        ),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
    ids=["too old", "without venv"],
)
def test_a_python_that_will_not_do_is_named_with_the_fix(bare: Path, body: str, said: str) -> None:
    result = _make(bare, "types", _python(bare, body))
    assert result.returncode != 0
    assert said in result.stderr
    assert not (bare / ".venv").exists()


def test_a_python_that_is_not_there_is_named_with_the_fix(bare: Path) -> None:
    result = _make(bare, "types", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "There is no 'no-such-python' here" in result.stderr


def test_setting_up_uses_the_hash_locked_requirements_only(bare: Path) -> None:
    installs = [
        line for line in _make(bare, "--dry-run", "demo").stdout.splitlines() if "pip install" in line
    ]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation" in line for line in installs)


def test_keep_reaches_the_demo(bare: Path) -> None:
    assert 'KEEP="1"' in _make(bare, "--dry-run", "demo", "KEEP=1").stdout


def test_the_check_for_a_change_lints_walks_the_demo_in_a_fresh_clone_and_ends_with_the_tests() -> None:
    script = (REPO / ".ci" / "run").read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert os.access(REPO / ".ci" / "run", os.X_OK)
    steps = re.findall(r"\bmake (lint|demo|test)\b", script)
    assert steps == ["lint", "demo", "test"]
    assert script.rstrip().endswith("make test")
    assert "env -i" in script
