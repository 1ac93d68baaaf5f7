"""Logged decisions with propensities: what each version would have earned, or why nobody can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.lifecycle.conftest import World, flights
from understudy import lifecycle
from understudy.errors import DataMissing, StepNotPassed


def decisions(rows: int = 4000, **changes: Any) -> pd.DataFrame:
    """Warn one flight in two at random; a warning that was right saves 1, a wrong one costs 1."""
    frame = flights(31, rows)
    rng = np.random.default_rng(8)
    frame["warned"] = rng.integers(0, 2, rows)
    frame["p"] = 0.5
    frame["saved"] = frame["warned"] * (2.0 * frame["late"] - 1)
    return frame.assign(**changes)


def evaluated(world: World, frame: pd.DataFrame, version: str = "2") -> dict[str, Any]:
    name = f"decisions-{world.model}.parquet"
    frame.to_parquet(world.settings.data / name)
    declared = {"logged": name, "action": "warned", "propensity": "p", "reward": "saved"}
    world.declare(evaluation={"min_rows": 200, "min_gain": -1.0, "off_policy": declared})
    run_id = str(world.begin(version)["run_id"])
    try:
        return lifecycle.evaluate(run_id)
    except StepNotPassed as refused:
        return refused.verdict


def off_policy_part(verdict: dict[str, Any]) -> dict[str, Any]:
    return next(part for part in verdict["parts"] if part["reason"].startswith("off_policy"))


def test_the_better_version_earns_more_on_logged_decisions(world: World) -> None:
    verdict = evaluated(world, decisions())
    assert verdict["outcome"] == "PASS"
    part = off_policy_part(verdict)
    frame = decisions()
    # The truth, because the reward of both actions is known here: what always-right warnings would gain at most.
    assert 0 < part["evidence"]["gain"] < float(np.abs(2 * frame["late"] - 1).mean())
    assert "logged decisions the challenger would earn" in verdict["sentence"]


def test_a_version_that_is_proven_to_earn_less_fails(make_world: Any) -> None:
    world = make_world(versions=("good", "harmful"))
    verdict = evaluated(world, decisions())
    assert off_policy_part(verdict)["outcome"] == "FAIL"
    assert verdict["outcome"] == "FAIL"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"warned": 0}, "never did"),
        ({"p": 0.0}, "a propensity of zero"),
        ({"p": np.nan}, "have no propensity"),
        ({"p": 0.9}, "do not fit"),
        ({"saved": np.nan}, "no reward"),
    ],
    ids=["one action only", "propensity zero", "propensity missing", "wrong propensities", "no reward"],
)
def test_without_support_there_is_no_value_and_no_pass(
    world: World, changes: dict[str, Any], why: str
) -> None:
    verdict = evaluated(world, decisions(**changes))
    part = off_policy_part(verdict)
    assert (part["outcome"], part["reason"]) == ("INCONCLUSIVE", "off_policy_refused")
    assert why in part["sentence"]
    assert verdict["outcome"] == "INCONCLUSIVE"


def test_a_log_without_propensities_is_named(world: World) -> None:
    with pytest.raises(DataMissing, match="no column p"):
        evaluated(world, decisions().drop(columns="p"))
