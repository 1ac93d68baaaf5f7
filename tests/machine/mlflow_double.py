"""Stands in for an MLflow server in memory: what of its registry matters to a champion and to the way back.

`tests/machine/test_mlflow_double.py` holds it against a real server.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from understudy.model_files import files_digest
from understudy.registry import ModelFacts, Registry
from understudy.tracking import StepRecord


def _missing(what: str) -> MlflowException:
    return MlflowException(f"{what} not found", RESOURCE_DOES_NOT_EXIST)


@dataclass
class Model:
    """One registered model. Numbers of deleted versions are not given again."""

    versions: dict[int, SimpleNamespace] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    newest: int = 0


class Server:
    """The state of the registry, and whether anybody can reach it."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.reachable = True

    def copied(self) -> Server:
        """Return a server with the same content that goes its own way."""
        return copy.deepcopy(self)

    def model(self, name: str) -> Model:
        if not self.reachable:
            raise MlflowException("API request to http://mlflow failed with exception: connection refused")
        if name not in self.models:
            raise _missing(f"Registered Model with name={name}")
        return self.models[name]

    def version(self, name: str, version: str) -> SimpleNamespace:
        model = self.model(name)
        if int(version) not in model.versions:
            raise _missing(f"Model Version (name={name}, version={version})")
        return model.versions[int(version)]


class Client:
    """What `Registry` asks of an ``MlflowClient``.

    Args:
        server: What it talks to.
        around: Called before and after every write, with its name.
    """

    def __init__(self, server: Server, around: Callable[[str], None] = lambda _: None) -> None:
        self._server = server
        self._around = around

    def create_registered_model(self, name: str) -> None:
        self._server.models.setdefault(name, Model())

    def create_model_version(self, name: str, source: str, model_id: str | None = None) -> SimpleNamespace:
        model = self._server.model(name)
        model.newest += 1
        facts = {"name": name, "version": str(model.newest), "current_stage": "None", "status": "READY"}
        model.versions[model.newest] = SimpleNamespace(**facts, run_id="", tags={}, source=source)
        return copy.deepcopy(model.versions[model.newest])

    def get_registered_model(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, aliases=dict(self._server.model(name).aliases))

    def search_model_versions(self, wanted: str, max_results: int = 0) -> list[SimpleNamespace]:
        found = re.fullmatch(r"name='(.*)'", wanted)
        assert found, wanted
        self._reach()
        model = self._server.models.get(found[1], Model())
        return [copy.deepcopy(item) for item in model.versions.values()]

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return copy.deepcopy(self._server.version(name, version))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self._around(f"before setting {alias}")
        self._server.version(name, version)
        self._server.model(name).aliases[alias] = str(version)
        self._around(f"after setting {alias}")

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._around(f"before removing {alias}")
        self._server.model(name).aliases.pop(alias, None)
        self._around(f"after removing {alias}")

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self._around(f"before tagging {key}")
        self._server.version(name, version).tags[key] = str(value)
        self._around(f"after tagging {key}")

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self._around(f"before removing {key}")
        self._server.version(name, version).tags.pop(key, None)
        self._around(f"after removing {key}")

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool = False
    ) -> None:
        self._around(f"before moving to {stage}")
        moved = self._server.version(name, version)
        for other in self._server.model(name).versions.values():
            if archive_existing_versions and other is not moved and other.current_stage == stage:
                other.current_stage = "Archived"
        moved.current_stage = stage
        self._around(f"after moving to {stage}")

    def delete_model_version(self, name: str, version: str) -> None:
        self._server.version(name, version)
        model = self._server.model(name)
        del model.versions[int(version)]
        model.aliases = {alias: named for alias, named in model.aliases.items() if named != str(version)}

    def search_registered_models(self, wanted: str, max_results: int = 0) -> list[Any]:
        self._reach()
        return []

    def search_experiments(self, max_results: int = 0) -> list[Any]:
        self._reach()
        return []

    def _reach(self) -> None:
        for name in self._server.models:
            self._server.model(name)


class RegistryOf(Registry):
    """The real door with the stand-in behind it; a version's files are one file that says which it is."""

    def __init__(self, server: Server, around: Callable[[str], None] = lambda _: None) -> None:
        self.uri = "http://mlflow"
        self.client: Any = Client(server, around)
        self._server = server

    def _fetch(self, model: str, version: str, folder: str) -> str:
        source = self._server.version(model, version).source
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "weights").write_text(source)
        return folder

    def _described(self, local: str, model: str, version: str) -> ModelFacts:
        return ModelFacts({"hour": "double"}, ("hour",), ("double",), *files_digest(Path(local)))

    def load(self, model: str, version: str) -> Any:
        self.verify(model, version)
        share = 1 / (1 + int(version))
        named = SimpleNamespace(input_names=lambda: ["hour"])
        return SimpleNamespace(
            metadata=SimpleNamespace(get_input_schema=lambda: named),
            predict=lambda frame: np.full(len(frame), share),
        )


class TrackingOf:
    """The record of runs in MLflow, of which only this matters here: it fails while the server is out of reach."""

    def __init__(self, registry: RegistryOf, model: str) -> None:
        self._registry = registry
        self._model = model

    def start(self, *_: Any, **__: Any) -> str:
        self._registry.versions(self._model)
        return "0" * 32

    def step(self, parent: str, name: str, record: StepRecord, *, failed: bool) -> str:
        self._registry.versions(self._model)
        return f"http://mlflow/{parent}/{name}"

    def url(self, run_id: str) -> str:
        self._registry.versions(self._model)
        return f"http://mlflow/{run_id}"

    def finish(self, *_: Any, **__: Any) -> None:
        self._registry.versions(self._model)
