"""The typed experiment: what ships, its round trip, and the schema that editors read."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests import declared
from understudy.spec import Experiment, Metric, MetricKind, load
from understudy.spec.schema import json_schema

REPO = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPO / "experiments").glob("*.y*ml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_experiment_that_ships_loads_and_survives_being_frozen(path: Path) -> None:
    experiment = load(path)
    again = Experiment.model_validate(json.loads(json.dumps(experiment.frozen(), allow_nan=False)))
    assert again == experiment
    assert again.digest() == experiment.digest()
    for check in experiment.checks:
        assert (REPO / "expectations" / f"{check.suite}.json").is_file()


def test_experiments_ship() -> None:
    assert SHIPPED


def test_the_schema_for_editors_is_the_one_that_is_kept_in_the_docs() -> None:
    kept = (REPO / "docs" / "reference" / "experiment.schema.json").read_text(encoding="utf-8")
    assert kept == json_schema(), "run `make docs`"


def test_the_schema_refuses_unknown_fields_and_describes_its_own() -> None:
    schema = json.loads(json_schema())
    for model in (schema, *schema["$defs"].values()):
        if model.get("type") == "object":
            assert model["additionalProperties"] is False
    assert all("description" in field for field in schema["$defs"]["Stage"]["properties"].values())


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises((ValidationError, FrozenInstanceError)):
        declared.experiment().alpha = 0.1  # type: ignore[misc]


def test_primary_and_guardrails_decide_and_watched_metrics_do_not() -> None:
    experiment = declared.experiment()
    assert experiment.primary.name == "brier"
    assert [metric.name for metric in experiment.deciding] == ["brier", "errors"]


@pytest.mark.parametrize(("kind", "needs"), [(kind, index < 3) for index, kind in enumerate(MetricKind)])
def test_some_metrics_wait_for_the_outcome(kind: MetricKind, needs: bool) -> None:
    assert kind.needs_outcome is needs


def test_a_watched_metric_needs_no_margin() -> None:
    assert Metric(name="m", kind=MetricKind.BRIER, role="watched").margin is None  # type: ignore[arg-type]


VALUE = {"name": "spend", "kind": "mean", "value": "spend", "better": "higher", "role": "watched"}


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ({**VALUE, "value": None}, "`value` belongs to"),
        ({**VALUE, "better": None}, "`better` belongs to"),
        ({**VALUE, "kind": "ratio"}, "`over` belongs to ratio"),
        ({**VALUE, "role": "primary", "margin": 1, "better": "same"}, "needs a direction"),
        ({"name": "b", "kind": "brier", "role": "watched", "cap": 1}, "`cap` belongs to"),
        ({"name": "g", "kind": "fairness_gap", "role": "watched", "of": "errors"}, "`by` belongs to"),
        (
            {"name": "g", "kind": "fairness_gap", "role": "watched", "of": "nothing", "by": "origin"},
            "no other metric",
        ),
        (
            {"name": "g", "kind": "fairness_gap", "role": "watched", "of": "errors", "by": "gate"},
            "traffic.cohorts",
        ),
    ],
)
def test_a_metric_that_lacks_what_its_kind_needs_is_refused(metric: dict[str, Any], why: str) -> None:
    metrics = [
        *declared.content()["metrics"],
        {key: value for key, value in metric.items() if value is not None},
    ]
    with pytest.raises(ValidationError, match=why):
        declared.experiment(metrics=metrics)


def test_only_dry_guardrails_are_no_guardrails() -> None:
    metrics = declared.content()["metrics"]
    metrics[1]["dry_run"] = True
    with pytest.raises(ValidationError, match="no dry run"):
        declared.experiment(metrics=metrics)


@pytest.mark.parametrize("metric", ["brier", "nothing"])
def test_a_budget_counts_only_what_can_be_counted(metric: str) -> None:
    with pytest.raises(ValidationError, match="a budget counts bad answers"):
        declared.experiment(budgets=[{"metric": metric, "service": 10}])


def test_a_cohort_column_with_an_equals_sign_is_refused() -> None:
    traffic = declared.content()["traffic"] | {"cohorts": ["a=b"]}
    with pytest.raises(ValidationError, match="has an = itself"):
        declared.experiment(traffic=traffic)


def test_logged_decisions_stay_below_the_data_folder() -> None:
    logged = {"logged": "../x.parquet", "action": "a", "propensity": "p", "reward": "r"}
    with pytest.raises(ValidationError, match="leaves the data folder"):
        declared.experiment(evaluation={"off_policy": logged})
