"""What the documentation says is true: pages are generated, links lead somewhere, commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import declared
from understudy.lifecycle.critical_path import read_cases

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
COMMAND = re.compile(r"^\$ (.+)$", re.MULTILINE)
# These look at running servers or at what was served; without any they must say so with exit code 1, never with a traceback.
NEEDS_SERVERS = {"understudy doctor", "understudy trace 7c1e0d5a4b7f4f0e9a1f6f0c2d9b8e11"}


def console_commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            found += [(page.name, command) for command in COMMAND.findall(block)]
    return sorted(set(found))


def test_the_reference_is_generated_from_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("page", "command"), console_commands())
def test_every_command_shown_at_a_prompt_runs(page: str, command: str, tmp_path: Path) -> None:
    assert command.startswith("understudy "), (
        f"{page} shows {command!r}; only our own commands stand at a prompt"
    )
    env = os.environ | {
        "UNDERSTUDY_HOME": str(tmp_path),
        "UNDERSTUDY_STORE_URL": f"sqlite:///{tmp_path / 'store.db'}",
        "UNDERSTUDY_GATEWAY_URLS": "http://127.0.0.1:9",
        "UNDERSTUDY_PSEUDONYM_KEY": "a secret of a test",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    arguments = [sys.executable, "-m", "understudy.cli", *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    expected = 1 if command in NEEDS_SERVERS else 0
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z]+)", page.read_text()))
        assert named <= targets, f"{page.name} names {sorted(named - targets)}"


def test_no_page_names_the_host_of_a_package_registry() -> None:
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org")
    for page in PAGES:
        named = [host for host in hosts if host in page.read_text()]
        assert not named, f"{page.name} names {named}"


def shown_metrics() -> list[str]:
    blocks = (re.findall(r"```yaml\n(metrics:.*?)```", page.read_text(), re.DOTALL) for page in PAGES)
    return [block for found in blocks for block in found]


def shown_fields() -> list[str]:
    """Return what the page on rings and trials shows of a spec."""
    page = (ROOT / "docs" / "how-to" / "rings-and-trials.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", shown_fields())
def test_rings_and_trials_that_are_shown_can_be_declared(block: str) -> None:
    declared.experiment(**yaml.safe_load(block))


def test_the_cases_that_are_shown_are_cases(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "rings-and-trials.md").read_text()
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "path.jsonl").write_text(lines)
    assert len(read_cases(tmp_path, "path.jsonl").cases) == 2


def test_metrics_are_shown_somewhere() -> None:
    assert shown_metrics()


@pytest.mark.parametrize("block", shown_metrics())
def test_metrics_that_are_shown_are_metrics_that_can_be_declared(block: str) -> None:
    declared.experiment(**yaml.safe_load(block))


def test_the_rules_and_expressions_that_are_shown_name_metrics_that_exist() -> None:
    from understudy.gateway.metrics import METRICS

    page = (ROOT / "docs" / "how-to" / "follow-one-request.md").read_text()
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", page, re.DOTALL)
    assert all(
        {"alert", "expr", "annotations"} <= set(rule) for rule in yaml.safe_load(rules)["groups"][0]["rules"]
    )
    known = {metric.name for metric in METRICS} | {"understudy_challenger_process_resident_memory_bytes"}
    for name in set(re.findall(r"understudy_[a-z_]+", page)):
        assert name.removesuffix("_bucket") in known, name
