"""The stand-in of the state machine behaves as a real MLflow server does, wherever the product looks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from tests.machine.mlflow_double import RegistryOf, Server
from tests.servers import free_port, start_mlflow
from understudy.errors import UnderstudyError, Unreachable
from understudy.registry import Registry
from understudy.settings import Settings

MODEL = "delay"
OPERATIONS = 50


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with (
        start_mlflow(tmp_path_factory.mktemp("mlflow")) as uri,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        registry = Registry(Settings.from_env())
        SOURCES[registry] = registry.client.create_logged_model("0").model_id
        yield registry


SOURCES: dict[Registry, str] = {}
Operation = Callable[[Registry], Any]


def drawn(seed: int) -> Iterator[tuple[str, Operation]]:
    """Yield operations with their names, most of them on versions that exist and some on those that do not."""
    dice, made = random.Random(seed), 1

    def pick() -> tuple[Any, ...]:
        version, model = str(dice.randint(1, made + 1)), MODEL if dice.random() < 0.9 else "nobody"
        return version, model, dice.choice(["champion", "challenger"])

    for _ in range(OPERATIONS):
        version, model, alias = pick()
        stage = dice.choice(["Staging", "Production", "Archived", "None"])
        alone, only_if = stage in ("Staging", "Production"), dice.choice([None, version])
        kinds: dict[str, Operation] = {
            "register": lambda it, m=model: _registered(it, m),
            "delete": lambda it, m=model, v=version: it.client.delete_model_version(m, v),
            "stage": lambda it, m=model, v=version, s=stage, a=alone: _staged(it, m, v, s, a),
            "alias": lambda it, m=model, v=version, a=alias: it.set_alias(m, a, v),
            "unalias": lambda it, m=model, a=alias, o=only_if: it.delete_alias(m, a, only_if=o),
            "champion": lambda it, m=model, v=version, a=alone: it.make_champion(m, v, move_stage=a),
            "archive": lambda it, m=model, v=version: it.archive(m, v),
            "digest": lambda it, m=model, v=version: it.record_digest(m, v, f"digest of {v}"),
            "as found": lambda it, m="nobody", v=version: it.as_found(m, v),
            "consumers": lambda it: it.consumers(MODEL),
        }
        kind = dice.choices(list(kinds), weights=[2, 1, 2, 3, 2, 3, 1, 1, 1, 1])[0]
        made += kind == "register" and model == MODEL
        yield f"{kind} {model} {version} {alias} {stage}", kinds[kind]


def _registered(it: Registry, model: str) -> Any:
    logged = SOURCES.get(it, "m-1")
    return it.client.create_model_version(model, source=f"models:/{logged}", model_id=logged)


def _staged(it: Registry, model: str, version: str, stage: str, alone: bool) -> None:
    it.client.transition_model_version_stage(model, version, stage, archive_existing_versions=alone)


def told(registry: Registry, operation: Operation) -> Any:
    """Return what an operation answers or how it fails, as far as the product can tell."""
    try:
        answer = operation(registry)
    except UnderstudyError as error:
        return error.code
    except MlflowException as error:
        return error.error_code
    return str(answer.version) if hasattr(answer, "version") else answer


def state(registry: Registry) -> Any:
    seen = [(item.version, item.stage, item.status, dict(item.tags)) for item in registry.versions(MODEL)]
    return seen, registry.alias(MODEL, "champion"), registry.alias(MODEL, "challenger")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_stand_in_answers_fails_and_ends_up_as_a_real_server_does(real: Registry) -> None:
    double = RegistryOf(Server())
    for registry in (real, double):
        registry.client.create_registered_model(MODEL)
        _registered(registry, MODEL)
    kinds = set()
    for name, operation in drawn(8):
        found = told(real, operation)
        assert told(double, operation) == found, name
        assert state(double) == state(real), name
        kinds.add((name.split()[0], found if isinstance(found, str) else "done"))
    assert len(kinds) > 20, "the operations tell too little"


def test_out_of_reach_both_fail_in_the_same_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = Server()
    down = RegistryOf(server)
    down.client.create_registered_model(MODEL)
    server.reachable = False
    calls: list[Operation] = [
        lambda it: it.versions(MODEL),
        lambda it: it.alias(MODEL, "champion"),
        lambda it: it.set_alias(MODEL, "champion", "1"),
        lambda it: it.delete_alias(MODEL, "champion"),
        lambda it: it.make_champion(MODEL, "1", move_stage=True),
        lambda it: it.archive(MODEL, "1"),
        lambda it: it.consumers(MODEL),
        lambda it: it.facts(MODEL, "1", tmp_path),
        lambda it: it.as_found(MODEL, "1"),
        lambda it: it.verify(MODEL, "1"),
        lambda it: it.load(MODEL, "1"),
    ]
    for registry in (Registry(Settings.from_env()), down):
        for call in calls:
            with pytest.raises(Unreachable):
                call(registry)
