from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import orjson
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from examples.flights.feeds import FAULT_FROM, LIVE_COLUMNS
from examples.flights.flights import CRITICAL_PATH, LABEL, REQUEST, FlightDataError, Flights
from examples.flights.train import MODEL, RECIPES, TRUSTED_TYPES, train_version
from understudy.lifecycle.critical_path import read_cases


@dataclass(frozen=True)
class Trained:
    versions: dict[int, str]
    models: dict[int, Any]
    flights: Flights

    def brier(self, n: int, table: pd.DataFrame) -> float:
        chance = self.models[n].predict(table[RECIPES[n].columns])[:, 1]
        return float(((chance - table[LABEL]) ** 2).mean())


@pytest.fixture(scope="module")
def trained(flights: Flights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """All three versions in a real registry of their own."""
    home = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
        versions = {n: train_version(n, flights) for n in RECIPES}
        models = {n: mlflow.pyfunc.load_model(f"models:/{MODEL}/{v}") for n, v in versions.items()}
        yield Trained(versions, models, flights)
        mlflow.set_tracking_uri("")


@pytest.fixture(scope="module")
def may(flights: Flights) -> pd.DataFrame:
    """Labelled traffic of late May, as the serving side delivered it."""
    traffic = flights.read("traffic").dropna(subset=[LABEL])
    return traffic[(traffic["month"] == 5) & (traffic["scheduled_at"] > FAULT_FROM)].tail(15_000)


def test_versions_are_numbered_in_order_and_say_what_they_are_made_of(trained: Trained) -> None:
    assert trained.versions == {1: "1", 2: "2", 3: "3"}
    client = mlflow.MlflowClient()
    for n, recipe in RECIPES.items():
        version = client.get_model_version(MODEL, trained.versions[n])
        assert version.tags["feature_set"] == recipe.feature_set
        assert version.tags["training_window"] == "2013-01-01/2013-03-31"
        assert version.tags["data_digest"] == trained.flights.digests["reference"]
        assert version.description
        assert not version.aliases
        run = client.get_run(version.run_id)
        assert {"holdout_brier", "holdout_log_loss", "holdout_auc", "reference_brier"} <= set(
            run.data.metrics
        )
        assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {
            "flights/reference",
            "flights/holdout",
        }


def test_signature_and_example_hold_only_the_models_columns_and_nothing_private(trained: Trained) -> None:
    for n, recipe in RECIPES.items():
        info = mlflow.models.get_model_info(f"models:/{MODEL}/{trained.versions[n]}")
        assert info.signature.inputs.input_names() == recipe.columns
        assert set(recipe.columns) <= set(REQUEST)
        assert "tailnum" not in recipe.columns
        assert trained.models[n].input_example.columns.tolist() == recipe.columns


def test_every_version_answers_a_request_as_it_comes_out_of_json(trained: Trained) -> None:
    rows = trained.flights.read("traffic")[list(REQUEST)].iloc[5_000:5_015]
    body = orjson.loads(orjson.dumps(rows.to_numpy(dtype=object).tolist(), option=orjson.OPT_SERIALIZE_NUMPY))
    for n, model in trained.models.items():
        chances = model.predict(pd.DataFrame(body, columns=list(REQUEST))[RECIPES[n].columns])
        assert chances.shape == (15, 2)
        assert np.allclose(chances.sum(axis=1), 1.0)


def test_version_two_answers_without_weather_and_without_recent_departures(trained: Trained) -> None:
    row = trained.flights.read("traffic")[RECIPES[2].columns].iloc[[7_000]].astype(object)
    row[["humid", "wind_speed", "precip", "pressure", "visib", "airline_delay_2h"]] = None
    assert 0.0 < trained.models[2].predict(row)[0, 1] < 1.0


def test_text_where_a_number_belongs_is_refused(trained: Trained) -> None:
    row = trained.flights.read("traffic")[RECIPES[2].columns].iloc[[7_000]].astype({"visib": object})
    row["visib"] = "clear"
    with pytest.raises(MlflowException):
        trained.models[2].predict(row)


def test_only_the_third_version_reads_the_live_feed() -> None:
    assert not set(LIVE_COLUMNS) & {*RECIPES[1].columns, *RECIPES[2].columns}
    assert set(LIVE_COLUMNS) <= set(RECIPES[3].columns)


def test_offline_each_version_looks_better_than_the_one_before(trained: Trained) -> None:
    holdout = trained.flights.read("holdout")
    first, second, third = (trained.brier(n, holdout) for n in (1, 2, 3))
    assert first - second > 0.008
    assert second - third > 0.001


def test_online_the_second_is_better_and_the_third_is_worse_than_both(
    trained: Trained, may: pd.DataFrame
) -> None:
    first, second, third = (trained.brier(n, may) for n in (1, 2, 3))
    assert first - second > 0.01
    assert third - second > 0.03
    assert third > first


def test_the_harm_is_the_clock_alone_and_not_the_model(trained: Trained, april: pd.DataFrame) -> None:
    """The same rows with the feed read at the right moment: the third version is as good as it looked."""
    known = april[april[LABEL].notna() & (april["scheduled_at"] >= FAULT_FROM)]
    slipped = known.assign(**{column: known[f"served_{column}"] for column in LIVE_COLUMNS})
    assert trained.brier(3, slipped) - trained.brier(3, known) > 0.02


def test_plain_models_need_no_trust_and_boosted_ones_exactly_one_type(trained: Trained) -> None:
    for n, recipe in RECIPES.items():
        info = mlflow.models.get_model_info(f"models:/{MODEL}/{trained.versions[n]}")
        flavour = info.flavors["sklearn"]
        assert flavour["serialization_format"] == "skops"
        assert (flavour.get("skops_trusted_types") or []) == (list(TRUSTED_TYPES) if recipe.boosted else [])


def test_an_unknown_recipe_and_a_missing_server_are_named(
    flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlightDataError, match="no recipe 4"):
        train_version(4, flights)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(FlightDataError, match="MLFLOW_TRACKING_URI is not set"):
        train_version(1, flights)


def test_both_challengers_meet_the_critical_path(trained: Trained) -> None:
    cases = read_cases(trained.flights.folder, f"flights/{CRITICAL_PATH}").cases
    assert sum(case.refused for case in cases) == 2
    for n in (2, 3):
        for case in cases:
            row = pd.DataFrame([case.row]).reindex(columns=RECIPES[n].columns)
            if case.refused:
                assert pd.to_numeric(row["minute_of_day"], errors="coerce").isna().all(), case.name
                continue
            numbers = row.astype({name: "float64" for name in row if name != "minute_of_day"})
            chance = float(trained.models[n].predict(numbers)[0, 1])
            assert case.low is not None
            assert case.high is not None
            assert case.low <= chance <= case.high, (n, case.name)
