"""Loads one version of a model from MLflow's registry, checks its files before anything of them runs, and scores with it.

The gateway does so for the champion, the challenger's own process for the challenger.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.utils.proto_json_utils import _get_jsonable_obj

from understudy.gateway import protocol
from understudy.gateway.batch import Batch, Rows
from understudy.gateway.carried import require_carried
from understudy.gateway.compiled import Compiled, compile_model
from understudy.gateway.config import TrafficColumns
from understudy.gateway.quick import QuickReader
from understudy.gateway.upstream import UpstreamFailed, UpstreamModel, open_upstream
from understudy.model_files import files_digest, refuse_changed
from understudy.registry import DIGEST_TAG, UPSTREAM_TAG

__all__ = ["LoadedModel", "Scored", "load_version"]

_THREADS, _WAITING_THREADS = 2, 32
_log = logging.getLogger(__name__)


class Scored(msgspec.Struct, frozen=True):
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
        digest: SHA-256 over its files; empty where a server of its own answers for it, whose files nobody here can see.
        compiled: The same model without MLflow around it, where it could be shown to answer alike.
        quick: Reads the requests that the compiled model can answer.
        how: How it answers, and why not quicker; a sentence for people.
    """

    version: str
    predictor: pyfunc.PyFuncModel = field(repr=False)
    schema: Any = field(repr=False)
    withheld: frozenset[str]
    digest: str
    compiled: Compiled | None = field(repr=False)
    quick: QuickReader | None = field(repr=False)
    how: str = field(repr=False)

    @property
    def upstream(self) -> str | None:
        """Address of the server that answers for it, if there is one."""
        implementation = self.predictor._model_impl
        return implementation.address if isinstance(implementation, UpstreamModel) else None

    @property
    def threads(self) -> int:
        """How many threads may score with it at once: more where they only wait for a server."""
        return _THREADS if self.upstream is None else _WAITING_THREADS

    def read(self, body: bytes, content_type: str | None, feature_set: str | None = None) -> Batch:
        """Read a request so that this version can answer it as quickly as it allows.

        Args:
            body: The request's body.
            content_type: Its ``Content-Type`` header.
            feature_set: The set that it must carry, if there is one. Its columns are those of this version's signature, with
                which it was registered.

        Raises:
            MlflowException: The body is not what the protocol asks for, or does not carry the feature set.
            UnsupportedMediaType: It is of no known type.
        """
        batch = None if self.quick is None else self.quick.read(body, content_type)
        if batch is not None:  # whose reader takes nothing but the columns and types of the signature
            return batch
        batch = protocol.parse(body, content_type)
        if feature_set is not None:
            require_carried(batch, self.schema, feature_set)
        return batch

    def score(self, batch: Batch, rows: Rows = None) -> Scored:
        """Score some rows of a request, all in one call of the model.

        The CPU time is that of the calling thread: the process's would count what other threads score meanwhile. What a
        model hands to threads of its own is not in it.

        Raises:
            Exception: Whatever the model raises; MLflow's own exception where the rows do not fit its signature.
        """
        return self.score_compiled(batch, rows) or self._score_by_mlflow(batch, rows)

    def score_compiled(self, batch: Batch, rows: Rows = None) -> Scored | None:
        """Score some rows with the compiled model, or return nothing where only MLflow's path is sure to be right."""
        if self.compiled is None:
            return None
        started = time.thread_time()
        given = batch.rows_for(self.compiled, rows)
        if given is None:
            return None
        answers = self.compiled.predict(given)
        if answers is None:
            return None
        return Scored(answers, round((time.thread_time() - started) * 1000 / len(given), 6))

    def _score_by_mlflow(self, batch: Batch, rows: Rows) -> Scored:
        started = time.thread_time()
        given = batch.input_for(self.predictor.metadata, self.schema, self.withheld, rows)
        try:
            raw = self.predictor.predict(given.data, params=given.params)
        except UpstreamFailed:
            raise
        except MlflowException as error:
            error.message = f"Failed to predict data. \nError: {error.message}"
            raise
        answers = _get_jsonable_obj(raw, pandas_orient="records")
        seconds = time.thread_time() - started
        # A table may have no rows at all; it was scored all the same.
        share = max(1, batch.size if rows is None else len(rows))
        return Scored(answers, round(seconds * 1000 / share, 6), given.unwrapped)


def load_version(
    model: str, version: str, traffic: TrafficColumns, folder: Path, expected: str | None, seconds: float
) -> LoadedModel:
    """Load a version and call it once, so that no caller waits for what only the first call has to do.

    One whose tag names a server is not loaded: the server is asked whether it is well.

    Args:
        model: Registered model name.
        version: Its version.
        traffic: The columns of its requests.
        folder: Where its files go; they must stay there while the model is used.
        expected: What its files must hash to, if that is known.
        seconds: Time that a server of its own has for an answer.

    Raises:
        FilesChanged: They hash to something else.
        Exception: Whatever MLflow, the model's own code or its server raises.
    """
    predictor, digest = _opened(model, version, folder, expected or None, seconds)
    schema = predictor.metadata.get_input_schema()
    named = set(schema.input_names()) if schema is not None and schema.has_input_names() else set()
    # A signature may ask for the event's time or for a private column; the unit and the id reach no model.
    withheld = (traffic.envelope | traffic.private) - named
    withheld |= {name for name in (traffic.unit, traffic.event_id) if name}
    if not digest:
        return LoadedModel(
            version, predictor, schema, frozenset(withheld), digest, None, None, "answered by its server"
        )
    compiled, how = compile_model(predictor)
    _warm(predictor, schema)
    quick = None
    if compiled is not None:
        if clash := sorted(withheld.intersection(compiled.columns)):
            how += f", but not used: its signature asks for {', '.join(clash)}, which no model gets"
        else:
            quick = QuickReader(compiled, traffic)
    _log.info("%s version %s: %s; files %s", model, version, how, digest[:12])
    return LoadedModel(version, predictor, schema, frozenset(withheld), digest, compiled, quick, how)


def _opened(
    model: str, version: str, folder: Path, expected: str | None, seconds: float
) -> tuple[pyfunc.PyFuncModel, str]:
    """Return the version and the digest of its files; those of an earlier start are used if they are still right."""
    kept = folder / "model"
    if expected is not None and kept.is_dir() and files_digest(kept)[0] == expected:
        return pyfunc.load_model(str(kept)), expected
    shutil.rmtree(kept, ignore_errors=True)
    tags = MlflowClient().get_model_version(model, version).tags
    if UPSTREAM_TAG in tags:
        return open_upstream(model, version, tags[UPSTREAM_TAG], seconds), ""
    arrived = Path(download_artifacts(f"models:/{model}/{version}", dst_path=str(folder / "arriving")))
    digest, _ = files_digest(arrived)
    refuse_changed(model, version, digest, tags.get(DIGEST_TAG), f"the registry's tag {DIGEST_TAG}")
    refuse_changed(model, version, digest, expected, "this gateway, which saw them before,")
    return pyfunc.load_model(str(arrived.rename(kept))), digest


def _warm(predictor: pyfunc.PyFuncModel, schema: Any) -> None:
    """Call a model on its own example, or on a row of zeros; what it says to that is nobody's business."""
    with suppress(Exception):
        data = getattr(predictor, "input_example", None)
        if data is None:
            data = pd.DataFrame(
                {column.name: np.zeros(1, column.type.to_numpy()) for column in schema.inputs}
            )
        predictor.predict(data)
