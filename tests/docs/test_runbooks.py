"""Whoever is woken up finds the page: every alert, error and finding names one that exists, and each page shows what to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from understudy import errors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "runbooks"
PAGES = sorted(FOLDER.glob("*.md"))
SOURCES = [
    *(ROOT / "plugins").rglob("*.py"),
    *(ROOT / "plugins").rglob("*.html"),
    *(ROOT / "docs").rglob("*.md"),
]
NAMED = re.compile(r"docs/runbooks/([a-z-]+)\.md")


def rules() -> list[dict[str, object]]:
    page = (ROOT / "docs" / "how-to" / "follow-one-request.md").read_text()
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", page, re.DOTALL)
    return list(yaml.safe_load(block)["groups"][0]["rules"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_page_that_names_it(rule: dict[str, dict[str, str]]) -> None:
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert f"*{rule['alert']}*" in page


@pytest.mark.parametrize("name", errors.__all__)
def test_the_page_of_an_error_exists_and_names_its_code(name: str) -> None:
    error = getattr(errors, name)
    if error.runbook:
        assert f"`{error.code}`" in (ROOT / error.runbook).read_text()


def test_every_page_that_the_code_names_exists() -> None:
    for path in SOURCES:
        for name in NAMED.findall(path.read_text()):
            assert (FOLDER / f"{name}.md").is_file(), f"{path} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_linked_from_somewhere(page: Path) -> None:
    own = re.compile(rf"\b{page.stem}(\.md|\")")
    assert [path for path in SOURCES if path != page and own.search(path.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_short_and_shows_what_to_type(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n") < 100
    assert "understudy " in text
