"""A real MLflow server, real small models, and for every test an installation and a registered model of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest

from tests import declared
from tests.logged import lines_of
from tests.servers import PSEUDONYM_KEY, free_port, start_mlflow
from understudy import lifecycle
from understudy import session as sessions
from understudy.events.writer import EventWriter
from understudy.exposure import Exposure, read_flag
from understudy.points import features
from understudy.points.point import Point
from understudy.points.take import save, take
from understudy.registry import FEATURE_SET_TAG
from understudy.scoring import read_dataset
from understudy.session import Session
from understudy.settings import Settings
from understudy.spec import Experiment
from understudy.store import Store, exposures, ledger, records, runs
from understudy.verdicts import Outcome, Verdict

ROWS = 1200
COLUMNS = ["hour", "wind"]
STEPS_BEFORE_EXPOSURE = ("preregister", "check_data", "evaluate", "shadow")


def flights(seed: int, rows: int = ROWS) -> pd.DataFrame:
    """Return labelled rows of 150 aircraft from two airports; being late depends on the hour and on the wind."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "tailnum": [f"N{number:05d}" for number in rng.integers(0, 150, rows)],
            "pilot": [f"Captain-{number}" for number in rng.integers(0, 40, rows)],
            "origin": rng.choice(["JFK", "LGA"], rows),
            "hour": rng.uniform(5, 23, rows),
            "wind": rng.uniform(0, 30, rows),
        }
    )
    odds = (frame["hour"] - 14) / 6 + (frame["wind"] - 15) / 4
    frame["late"] = (rng.uniform(size=rows) < 1 / (1 + np.exp(-odds))).astype(int)
    return frame


@dataclass(frozen=True)
class Models:
    """The MLflow server and the logged models in it, by what is special about them."""

    uri: str
    folder: Path
    logged: dict[str, str]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    with start_mlflow(folder) as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("training")
        logged = {
            "plain": _log(["hour"]),
            "good": _log(COLUMNS),
            "harmful": _log(["hour"], flipped=True),
            "without signature": _log(COLUMNS, signed=False),
            "spoilt": _log(COLUMNS),
            "needs nobody's column": _log([*COLUMNS, "humidity"]),
            "needs the unit": _log([*COLUMNS, "tailnum"]),
            "needs the pilot": _log([*COLUMNS, "pilot"]),
            "needs the label": _log([*COLUMNS, "late"]),
            "answers classes": _log(COLUMNS, answers="predict"),
            "moody": _log_moody(0.0),
            "slow": _log_moody(0.1),
        }
        _spoil(folder, logged["spoilt"])
        yield Models(uri, folder, logged)


def _log(
    columns: list[str], *, flipped: bool = False, signed: bool = True, answers: str = "predict_proba"
) -> str:
    """Train a logistic regression and log it."""
    import mlflow
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    train = flights(1)
    inputs = train.assign(humidity=0.5)[columns]
    labels = 1 - train["late"] if flipped else train["late"]
    words = [name for name in columns if name in ("tailnum", "pilot")]
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression(max_iter=500)).fit(inputs, labels)
    signature = mlflow.models.infer_signature(inputs, getattr(model, answers)(inputs)) if signed else None
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            pyfunc_predict_fn=answers,
            pip_requirements=["scikit-learn"],
        )
    return str(info.model_uri)


def _log_moody(seconds: float) -> str:
    """Log a model that answers after some seconds with NaN or a half, or takes its process down."""
    import mlflow

    sample = flights(1, 10)[COLUMNS]
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("moody_model.py")),
            model_config={"seconds": seconds},
            signature=mlflow.models.infer_signature(sample, np.full(10, 0.5)),
            pip_requirements=["mlflow"],
        )
    return str(info.model_uri)


def _spoil(folder: Path, uri: str) -> None:
    files = [
        path
        for path in (folder / "artifacts").rglob("model.*")
        if uri.rpartition("/")[2] in path.parts and path.name != "MLmodel"
    ]
    assert files
    for path in files:
        path.write_bytes(b"not a model")


class Clock:
    """Unix seconds that pass only when a test says so."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """One installation with one registered model."""

    models: Models
    session: Session
    clock: Clock
    model: str
    experiment: Experiment
    versions: dict[str, str]
    cohorts: tuple[str, ...] = ()

    @property
    def client(self) -> Any:
        return self.session.registry.client

    @property
    def settings(self) -> Settings:
        return self.session.settings

    @property
    def store(self) -> Store:
        return self.session.store

    def declare(self, **changes: Any) -> None:
        """Write the experiment file again with other fields."""
        path = declared.write(self.settings.experiments, model=self.model, **changes)
        self.experiment = Experiment.model_validate(declared.content(model=self.model, **changes))
        assert path.is_file()

    def begin(self, version: str | None = None, key: str = "start-1") -> dict[str, Any]:
        where = {"dag_id": "experiment__delay_test", "run_id": key, "url": "http://airflow/run"}
        return lifecycle.begin(declared.NAME, version, key, "Ada", "a test", where)

    @contextmanager
    def mlflow_down(self) -> Iterator[None]:
        """Let nobody listen where the registry is looked for."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
            self._reconnect()
            yield
        self._reconnect()

    def _reconnect(self) -> None:
        for door in ("registry", "tracking"):
            self.session.__dict__.pop(door, None)

    def alias(self, name: str = "champion") -> str | None:
        return self.session.registry.alias(self.model, name)

    def exposure(self) -> Exposure | None:
        with self.store.read() as connection:
            return exposures.find(connection, self.model)

    def published(self) -> Exposure:
        found = read_flag(self.settings.flags_path, self.model)
        assert found is not None
        return found

    def run(self, run_id: str) -> runs.Run:
        with self.store.read() as connection:
            return runs.get(connection, run_id)

    def active(self) -> runs.Run | None:
        with self.store.read() as connection:
            return runs.active(connection, self.model)

    def actions(self) -> list[str]:
        with self.store.read() as connection:
            assert ledger.verify(connection) is None
            return [entry.action for entry in ledger.entries(connection, model=self.model)]

    def verdicts(self, run_id: str, step: str) -> list[records.RecordedVerdict]:
        with self.store.read() as connection:
            return records.verdicts_of(connection, run_id, step)

    def record(self, run_id: str, *steps: str, outcome: Outcome = Outcome.PASS) -> None:
        """Write verdicts as if the steps had been taken."""
        with self.store.write() as connection:
            for step in steps:
                verdict = Verdict(outcome, "test", "Written by a test.", {"cohorts": list(self.cohorts)})
                records.record_verdict(connection, run_id, step, verdict, at=self.clock())

    def started(self, version: str) -> str:
        """Write a run into the store and set its alias, as a start does once it has proven everything."""
        at = self.clock()
        with self.store.write() as connection:
            exposures.adopt(connection, self.model, self.alias() or "", actor="tests", at=at)
            run = runs.create(
                connection,
                key=f"key-{at}",
                spec=self.experiment.frozen(),
                spec_digest=self.experiment.digest(),
                version=version,
                champion=self.alias() or "",
                actor="Ada",
                reason="a test",
                airflow={},
                at=at,
            )
        exposures.publish_flags(self.store, self.settings)
        self.keep_the_way_back(run)
        exposures.publish_flags(self.store, self.settings)
        self.session.registry.set_alias(self.model, "challenger", version)
        return run.run_id

    def keep_the_way_back(self, run: runs.Run) -> Point:
        """Take the rollback point of a run, as its start does."""
        facts = self.session.registry.as_found(self.model, run.champion)
        holdout = read_dataset(self.settings.data / self.experiment.data.holdout, "holdout")
        point = take(self.session, run, self.experiment, facts, holdout)
        tags = self.session.registry.version(self.model, run.version).tags
        with self.store.write() as connection:
            save(connection, point)
            features.activate(
                connection,
                self.model,
                point.parts["feature_set"]["name"],
                challenger=tags.get(FEATURE_SET_TAG),
                actor="tests",
                reason="a start",
                run_id=run.run_id,
                at=self.clock(),
            )
        return point

    def exposed_run(self, stage: int = 1, version: str | None = None, run_id: str | None = None) -> str:
        """Bring a run to a stage, with the steps before it passed."""
        run_id = run_id or self.started(version or self.versions["good"])
        self.record(run_id, *STEPS_BEFORE_EXPOSURE)
        for number in range(1, stage + 1):
            lifecycle.raise_exposure(run_id, number)
            if number < stage:
                self.record(run_id, f"stage_{number}")
        return run_id

    def write(self, kind: Any, events: Sequence[dict[str, Any]]) -> None:
        log = EventWriter(self.settings.events_dir, self.model, kind)
        log.append(lines_of(kind, events))
        log.close()


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    flights(2).to_parquet(folder / "reference.parquet")
    flights(3).to_parquet(folder / "holdout.parquet")
    return folder


@pytest.fixture
def make_world(
    models: Models,
    datasets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Callable[..., World]:
    """Return a builder of a world; ``gateways`` are the addresses that must follow.

    The model is named after the test: its name is the salt of who is exposed, and must not hang on which tests ran before.
    """
    file, _, test = request.node.location
    names = (f"delay-{crc32(f'{file}::{test}'.encode()):08x}-{number}" for number in itertools.count(1))

    def make(gateways: str = ",", versions: Sequence[str] = ("plain", "good")) -> World:
        return build_world(models, datasets, tmp_path, monkeypatch, next(names), gateways, versions)

    return make


def build_world(
    models: Models,
    datasets: Path,
    folder: Path,
    patch: pytest.MonkeyPatch,
    model: str,
    gateways: str = ",",
    versions: Sequence[str] = ("plain", "good"),
) -> World:
    """Build an installation in a folder; it is the one that the environment names for as long as the patch lasts."""
    environment = {
        "MLFLOW_TRACKING_URI": models.uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "UNDERSTUDY_HOME": str(folder / "home"),
        "UNDERSTUDY_EXPERIMENTS": str(folder / "experiments"),
        "UNDERSTUDY_EXPECTATIONS": str(folder / "expectations"),
        "UNDERSTUDY_DATA": str(datasets),
        "UNDERSTUDY_GATEWAY_URLS": gateways,
        "UNDERSTUDY_PSEUDONYM_KEY": PSEUDONYM_KEY,
    }
    for name, value in environment.items():
        patch.setenv(name, value)
    _write_suite(folder / "expectations")
    settings, clock = Settings.from_env(), Clock()
    doors = Session(settings, Store.open(settings, clock))
    patch.setitem(sessions._opened, settings, doors)
    registered = _register(doors, models, model, versions)
    world = World(models, doors, clock, model, declared.experiment(), registered)
    world.declare()
    return world


def _register(doors: Session, models: Models, model: str, versions: Sequence[str]) -> dict[str, str]:
    client = doors.registry.client
    client.create_registered_model(model)
    registered = {
        name: str(client.create_model_version(model, uri, model_id=uri.rpartition("/")[2]).version)
        for name, uri in ((name, models.logged[name]) for name in versions)
    }
    if versions:
        client.set_registered_model_alias(model, "champion", "1")
    return registered


def _write_suite(folder: Path) -> None:
    folder.mkdir()
    rows = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 100}}
    hours = {
        "type": "expect_column_values_to_not_be_null",
        "kwargs": {"column": "hour"},
        "severity": "critical",
    }
    suite = {"name": "rows", "expectations": [rows | {"severity": "critical"}, hours]}
    (folder / "rows.json").write_text(json.dumps(suite))


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """An installation without gateways: version 1 is champion, version 2 is better."""
    return make_world()
