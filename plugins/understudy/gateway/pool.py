"""The loaded versions of one model, taken from MLflow's registry by number and kept while they are needed."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
import weakref
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient, pyfunc
from mlflow.utils.proto_json_utils import _get_jsonable_obj

from understudy.gateway.batch import Batch, Rows
from understudy.gateway.config import TrafficColumns
from understudy.gateway.redaction import describe
from understudy.gateway.workers import Workers

__all__ = ["CHAMPION_ALIAS", "LoadedModel", "ModelPool", "Scored"]

CHAMPION_ALIAS = "champion"
_RETRY_SECONDS = 10.0
_LOADS_AT_ONCE = 16
_SCORING_THREADS = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What a version answered.

    Attributes:
        answers: JSON-safe, normally one item per row.
        cpu_ms: CPU time that the call took, divided over its rows.
        unwrapped: Whether the answer goes out without MLflow's ``predictions`` key.
    """

    answers: Any
    cpu_ms: float
    unwrapped: bool = False


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One version in memory.

    Attributes:
        version: Its number in the registry.
        predictor: MLflow's loaded model.
        schema: Its input schema, if it has a signature.
        withheld: Columns of a request that it does not get.
        folder: Its files; they go when the last request that uses it is done.
        workers: Its own threads: a version that hangs holds up no other, neither now nor after it is replaced.
    """

    version: str
    predictor: pyfunc.PyFuncModel
    schema: Any
    withheld: frozenset[str]
    folder: tempfile.TemporaryDirectory[str] = field(repr=False)
    workers: Workers = field(repr=False)

    def score(self, batch: Batch, rows: Rows = None) -> Scored:
        """Score some rows of a request, all in one call of the model.

        The CPU time is that of the calling thread: the process's would count what other threads score meanwhile. What a
        model hands to threads of its own is not in it.

        Raises:
            Exception: Whatever the model raises; MLflow's own exception where the rows do not fit its signature.
        """
        started = time.thread_time()
        given = batch.input_for(self.predictor.metadata, self.schema, self.withheld, rows)
        raw = self.predictor.predict(given.data, params=given.params)
        answers = _get_jsonable_obj(raw, pandas_orient="records")
        seconds = time.thread_time() - started
        # A table may have no rows at all; it was scored all the same.
        share = max(1, batch.size if rows is None else len(rows))
        return Scored(answers, seconds * 1000 / share, given.unwrapped)


class ModelPool:
    """Loads versions in a thread of its own and remembers why one could not be loaded.

    Args:
        model: Registered model name.
        traffic: Columns of its requests.
    """

    def __init__(self, model: str, traffic: TrafficColumns) -> None:
        self._model = model
        self._traffic = traffic
        self._workers = Workers("load", threads=2)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._loaded: dict[str, LoadedModel] = {}
        self._failed: dict[str, tuple[str, float]] = {}

    @property
    def versions(self) -> list[str]:
        """Versions in memory, in the order they were loaded."""
        return list(self._loaded)

    def get(self, version: str | None) -> LoadedModel | None:
        """Return a loaded version, or nothing."""
        return None if version is None else self._loaded.get(version)

    def failure(self, version: str | None) -> str | None:
        """Return why a version could not be loaded at the last attempt, or nothing."""
        failed = None if version is None else self._failed.get(version)
        return failed[0] if failed else None

    def want(self, version: str) -> None:
        """Start loading a version, unless it is there, on its way, or has just failed."""
        if version in self._loaded or version in self._loading:
            return
        failed = self._failed.get(version)
        if failed and time.monotonic() - failed[1] < _RETRY_SECONDS:
            return
        self._loading[version] = asyncio.create_task(self._fetch(version))

    def keep_only(self, versions: Collection[str | None]) -> None:
        """Forget every other version; requests under way keep theirs until they are answered."""
        self._loaded = {version: loaded for version, loaded in self._loaded.items() if version in versions}
        self._failed = {version: failed for version, failed in self._failed.items() if version in versions}

    async def champion_alias(self) -> str:
        """Return the version that the registry's alias ``champion`` names.

        Raises:
            Exception: The registry does not answer or has no such alias.
        """
        return await self._workers.submit(self._read_alias, _LOADS_AT_ONCE)

    def _read_alias(self) -> str:
        return str(MlflowClient().get_model_version_by_alias(self._model, CHAMPION_ALIAS).version)

    async def _fetch(self, version: str) -> None:
        try:
            self._loaded[version] = await self._workers.submit(lambda: self._load(version), _LOADS_AT_ONCE)
            self._failed.pop(version, None)
            _log.info("loaded %s version %s", self._model, version)
        except Exception as error:
            reason = f"Version {version} of {self._model} cannot be loaded: {describe(error, ())}"
            self._failed[version] = (reason, time.monotonic())
            _log.warning("%s", reason)
        finally:
            del self._loading[version]

    def _load(self, version: str) -> LoadedModel:
        folder = tempfile.TemporaryDirectory(prefix="understudy-model-")
        predictor = pyfunc.load_model(f"models:/{self._model}/{version}", dst_path=folder.name)
        schema = predictor.metadata.get_input_schema()
        named = set(schema.input_names()) if schema is not None and schema.has_input_names() else set()
        traffic = self._traffic
        # A signature may ask for the event's time or for a private column; the unit and the id reach no model.
        withheld = (traffic.envelope | traffic.private) - named
        withheld |= {name for name in (traffic.unit, traffic.event_id) if name}
        workers = Workers(f"version-{version}", _SCORING_THREADS)
        loaded = LoadedModel(version, predictor, schema, frozenset(withheld), folder, workers)
        weakref.finalize(loaded, workers.close)
        return loaded
