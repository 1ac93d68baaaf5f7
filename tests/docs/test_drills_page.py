"""What the page on drills shows can be declared and played."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests import declared
from understudy.lifecycle import audit
from understudy.spec import Scenario

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_demand_that_is_shown_can_be_declared() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "how-to" / "drills.md").read_text(), re.DOTALL)
    asked = declared.experiment(**yaml.safe_load(block)).drill
    assert asked.demanded == (Scenario.FLIPPED_SIGN, Scenario.SLOW, Scenario.REGISTRY_DOWN)


def test_the_page_describes_every_scenario_and_no_other() -> None:
    page = (DOCS / "how-to" / "drills.md").read_text()
    table = page.split("## The scenarios")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [scenario.value for scenario in Scenario]


def test_every_kind_of_finding_is_explained() -> None:
    page = (DOCS / "runbooks" / "the-audit-found-something.md").read_text()
    source = Path(audit.__file__).read_text()
    kinds = set(re.findall(r"_finding\((?:ERROR|WARNING|INFO|severity), \"(\w+)\"", source))
    assert len(kinds) > 8
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in page] == []
