"""What the page on taking a model back shows can be declared, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests import declared
from understudy.rollback.facts import INCIDENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "take-a-model-back.md"


def test_objectives_and_consumers_that_are_shown_can_be_declared() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    experiment = declared.experiment(**yaml.safe_load(block))
    assert (experiment.rollback.impact, experiment.consumers[0].name) == (5.0, "billing")


def test_every_kind_of_incident_is_named() -> None:
    assert all(f"`{kind}`" in PAGE.read_text() for kind in INCIDENTS)
