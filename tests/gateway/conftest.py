from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.logged import events_of
from tests.servers import RunningGateway, start_gateway, start_mlflow
from understudy.exposure import Exposure, publish

MODEL = "delay"
COLUMNS = ["origin", "distance", "hour"]
AWKWARD = ("slow", "raising", "not_a_number", "short", "other_shape")

SPEC = """
name: delay_test
model: {model}
owner: tests
description: A small model for tests.
hypothesis: None.
traffic:
  unit: tailnum
  event_id: event_id
  event_time: event_time
  private: [tailnum, pilot]
  cohorts: [origin]
data: {{reference: reference.parquet, holdout: holdout.parquet, label: late}}
checks:
  - {{suite: rows, dataset: reference}}
metrics:
  - {{name: brier, kind: brier, role: primary, margin: 0.01}}
  - {{name: errors, kind: error_rate, role: guardrail, margin: 0.01}}
stages:
  - {{percent: 5, soak: 1s, timeout: 60s, min_units: 10}}
planned_events: 1000
"""


@dataclass(frozen=True)
class Registered:
    """The MLflow server of this session and the versions of the test model in it."""

    uri: str
    good: str
    better: str
    broken: str
    awkward: dict[str, str]


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("mlflow")
    with start_mlflow(folder) as uri:
        yield uri, folder


@pytest.fixture(scope="session")
def registered(mlflow_server: tuple[str, Path]) -> Registered:
    import mlflow

    uri, folder = mlflow_server
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("training")  # another test of this process may have left one of another server
    frame, good, better = _trained()
    versions = [_log_sklearn(frame, model) for model in (good, better, good)]
    awkward = {behaviour: _log_awkward(frame, MODEL, behaviour) for behaviour in AWKWARD}
    _log_awkward(frame, "scaled", "scaled", params={"factor": 1.0})
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(MODEL, "champion", versions[0])
    client.set_registered_model_alias("scaled", "champion", "1")
    _spoil(client, folder, versions[2])
    return Registered(uri, versions[0], versions[1], versions[2], awkward)


def _trained() -> tuple[Any, Any, Any]:
    import numpy as np
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "origin": rng.choice(["JFK", "LGA", "EWR"], 400),
            "distance": rng.uniform(100, 2500, 400),
            "hour": rng.integers(5, 23, 400),
        }
    )
    late = rng.uniform(size=400) < frame["hour"] / 30

    def fit(strength: float) -> Any:
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["origin"]), remainder="passthrough"
        )
        return make_pipeline(encode, LogisticRegression(C=strength, max_iter=2000)).fit(frame, late)

    return frame, fit(1.0), fit(0.000001)


def _log_sklearn(frame: Any, model: Any) -> str:
    import mlflow

    with mlflow.start_run():
        signature = mlflow.models.infer_signature(frame, model.predict_proba(frame))
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            pyfunc_predict_fn="predict_proba",
            registered_model_name=MODEL,
            pip_requirements=["scikit-learn"],
        )
    return str(info.registered_model_version)


def _log_awkward(frame: Any, name: str, behaviour: str, params: dict[str, Any] | None = None) -> str:
    import mlflow

    # Only the scaled model has a signature: the others see every column that is not withheld from them.
    signature = mlflow.models.infer_signature(frame, [1.0], params) if params else None
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("awkward_model.py")),
            model_config={"behaviour": behaviour},
            signature=signature,
            registered_model_name=name,
            pip_requirements=["mlflow"],
        )
    return str(info.registered_model_version)


def _spoil(client: Any, folder: Path, version: str) -> None:
    """Overwrite the estimator of a version with bytes that are no model."""
    model_id = client.get_model_version(MODEL, version).source.rpartition("/")[2]
    files = [
        path
        for path in (folder / "artifacts").rglob("*")
        if model_id in path.parts and path.name.startswith("model.")
    ]
    assert files, f"no artifact of version {version} found"
    for path in files:
        path.write_bytes(b"not a model")


@pytest.fixture(scope="session")
def moody(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return a version of the test model whose mood stands in a file, and that file."""
    from tests.faults.stage import moody_version

    mood = tmp_path_factory.mktemp("mood") / "mood"
    return moody_version(mood), mood


@pytest.fixture(scope="session")
def changed(registered: Registered, mlflow_server: tuple[str, Path]) -> str:
    """Return a version whose digest was recorded before its estimator was exchanged for another that loads as well."""
    import mlflow

    from tests.faults.stage import exchange_files
    from understudy.model_files import files_digest
    from understudy.registry import DIGEST_TAG

    frame, good, _ = _trained()
    version = _log_sklearn(frame, good)
    client = mlflow.MlflowClient(registered.uri)
    arrived = mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version}", tracking_uri=registered.uri)
    client.set_model_version_tag(MODEL, version, DIGEST_TAG, files_digest(Path(arrived))[0])
    sources = [client.get_model_version(MODEL, one).source for one in (version, registered.better)]
    exchange_files(mlflow_server[1] / "artifacts", *(source.rpartition("/")[2] for source in sources))
    return version


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "delay_test.yaml").write_text(SPEC.format(model=MODEL))
    scaled = SPEC.format(model="scaled").replace("delay_test", "scaled_test")
    (folder / "scaled_test.yaml").write_text(scaled)
    return folder


@pytest.fixture(scope="session")
def gateway_with(
    registered: Registered, experiments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Return a starter of gateways on the test model, each with a fresh home unless one is given."""

    def start(*options: str, home: Path | None = None, model: str = MODEL, **how: bool) -> Any:
        folder = home or tmp_path_factory.mktemp("home")
        return start_gateway(folder, model, registered.uri, experiments, *options, **how)

    return start


@pytest.fixture(scope="module")
def gateway(gateway_with: Callable[..., Any]) -> Iterator[RunningGateway]:
    """One gateway for a module; tests move it with ``expose``."""
    with gateway_with("--challenger-timeout", "0.5") as running:
        yield running


@pytest.fixture
def expose(gateway: RunningGateway, registered: Registered) -> Iterator[Callable[..., Exposure]]:
    """Return a function that publishes the next generation and waits until it is served."""

    published: list[Exposure] = []

    def publish_next(wait: bool = True, **changes: Any) -> Exposure:
        base = Exposure(model=MODEL, generation=gateway.status()["generation"] + 1, champion=registered.good)
        if changes.get("percent"):
            base = replace(base, run_id="delay_test-v2-1", stage=1, lease_expires_at=int(time.time()) + 600)
        exposure = replace(base, **changes)
        publish(gateway.home / "flags.json", [exposure])
        published.append(exposure)
        if wait:
            gateway.wait_for_generation(exposure.generation)
        return exposure

    yield publish_next
    # The usual challenger stays loaded for the next test, with nobody on it.
    usual = bool(published) and published[-1].challenger == registered.better
    publish_next(challenger=registered.better if usual else None)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Return one request row; the unit is an aircraft, the pilot is nobody's business."""
    base = {
        "tailnum": f"N{number:05d}",
        "pilot": f"Captain-{number:05d}",
        "event_id": f"flight-{number}",
        "event_time": 1_370_000_000.0 + number,
        "origin": ("JFK", "LGA", "EWR")[number % 3],
        "distance": 200.0 + number % 1000,
        "hour": 6 + number % 15,
    }
    return base | changes


def split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as a ``dataframe_split`` body."""
    columns = list(rows[0])
    return {
        "dataframe_split": {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}
    }


def logged(gateway: RunningGateway, kind: str = "requests") -> list[dict[str, Any]]:
    """Return every event of a kind; each line must be complete JSON. A request's line is told apart into its rows."""
    import json

    events: list[dict[str, Any]] = []
    for path in sorted((gateway.events / kind).glob("*.jsonl")):
        text = path.read_text()
        assert not text or text.endswith("\n")
        for line in text.splitlines():
            events += events_of(json.loads(line)) if kind == "requests" else [json.loads(line)]
    return events
