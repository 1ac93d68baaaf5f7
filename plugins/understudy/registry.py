"""The only door to MLflow's model registry: versions, aliases, legacy stages, model files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from understudy.errors import ArtifactUnloadable, NoSuchVersion, Unreachable, VersionIncompatible
from understudy.settings import Settings

__all__ = ["CHALLENGER", "CHAMPION", "ModelFacts", "Registry", "Version", "reaching_mlflow"]

CHAMPION = "champion"
"""Alias of the version in production."""

CHALLENGER = "challenger"
"""Alias of the version under test."""

_STAGING, _PRODUCTION, _ARCHIVED = "Staging", "Production", "Archived"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Version:
    """One registered version, with numbers as strings whatever the server sent."""

    model: str
    version: str
    stage: str
    status: str
    run_id: str | None
    tags: Mapping[str, str]

    @property
    def staging(self) -> bool:
        """Whether its legacy stage is Staging."""
        return self.stage == _STAGING


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a version's files without running them.

    Attributes:
        inputs: Column name to type of the signature.
        required: Names of the inputs that must be present.
        outputs: Type names of the output columns.
        digest: SHA-256 over every file's path and content.
        files: SHA-256 of each file.
    """

    inputs: Mapping[str, str]
    required: tuple[str, ...]
    outputs: tuple[str, ...]
    digest: str
    files: Mapping[str, str]


class Registry:
    """MLflow's registry as Understudy needs it.

    Args:
        settings: Gives the tracking URI.
    """

    def __init__(self, settings: Settings) -> None:
        # MLflow retries for minutes by default; a task that cannot reach it should say so and be retried by Airflow.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # Task logs are read by people: no progress bars, and links are recorded where they can be clicked.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        self.uri = settings.mlflow_uri
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def versions(self, model: str) -> list[Version]:
        """Return every version of a model, lowest first.

        Raises:
            NoSuchVersion: There is no such registered model.
        """
        self._model(model)
        found = self._call(lambda: self.client.search_model_versions(f"name='{model}'", max_results=1000))
        return sorted((_version(raw) for raw in found), key=lambda version: int(version.version))

    def version(self, model: str, version: str) -> Version:
        """Return one version.

        Raises:
            NoSuchVersion: The registry does not have it.
        """
        known = self.versions(model)
        for candidate in known:
            if candidate.version == version:
                return candidate
        raise NoSuchVersion(
            f"Model {model} has no version {version!r}. Registered versions: "
            f"{', '.join(item.version for item in known) or 'none'}."
        )

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version that an alias names, or None."""
        aliases = self._model(model).aliases
        return str(aliases[alias]) if alias in aliases else None

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version and read it back."""
        self._call(lambda: self.client.set_registered_model_alias(model, alias, version))
        found = self.alias(model, alias)
        if found != version:
            raise Unreachable(
                f"Alias {alias!r} of {model} was set to {version} but reads back as {found}. Somebody else moves it; "
                "find out who and run the step again."
            )

    def delete_alias(self, model: str, alias: str, only_if: str | None = None) -> None:
        """Remove an alias if it is there.

        Args:
            model: The model.
            alias: The alias.
            only_if: Remove it only while it names this version.
        """
        found = self.alias(model, alias)
        if found is not None and only_if in (None, found):
            self._call(lambda: self.client.delete_registered_model_alias(model, alias))

    def make_champion(self, model: str, version: str, *, move_stage: bool) -> None:
        """Make a version the champion, and Production among the legacy stages where asked; safe to repeat."""
        self.version(model, version)
        if self.alias(model, CHAMPION) != version:
            self.set_alias(model, CHAMPION, version)
        if move_stage and self.version(model, version).stage != _PRODUCTION:
            self._move(model, version, _PRODUCTION)

    def archive(self, model: str, version: str) -> None:
        """Move a version that was taken back to the legacy stage Archived; safe to repeat."""
        if self.version(model, version).stage not in (_ARCHIVED, "None"):
            self._move(model, version, _ARCHIVED)

    def _move(self, model: str, version: str, stage: str) -> None:
        with warnings.catch_warnings():
            # Legacy stages are deprecated; a spec asks for them where other systems still read them.
            warnings.simplefilter("ignore", FutureWarning)
            alone = stage == _PRODUCTION
            self._call(
                lambda: self.client.transition_model_version_stage(
                    model, version, stage, archive_existing_versions=alone
                )
            )

    def facts(self, model: str, version: str, folder: Path) -> ModelFacts:
        """Download a version's files and describe them.

        Args:
            model: The model.
            version: The version.
            folder: Where to download to.

        Raises:
            ArtifactUnloadable: The files cannot be had.
            VersionIncompatible: There is no signature.
        """
        from mlflow.models import Model

        local = self._files(lambda: self._download(model, version, str(folder)), model, version)
        signature = self._files(lambda: Model.load(str(local)).signature, model, version)
        if signature is None or signature.inputs is None or signature.outputs is None:
            raise VersionIncompatible(
                f"Version {version} of {model} has no signature, so nobody can tell what it needs and answers. Log it "
                "again with `signature=infer_signature(inputs, outputs)` and register that."
            )
        files = {
            str(path.relative_to(local)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(local).rglob("*"))
            if path.is_file() and path.name != "registered_model_meta"
        }
        inputs = {str(column.name): str(column.type) for column in signature.inputs.inputs}
        return ModelFacts(
            inputs=inputs,
            required=tuple(str(column.name) for column in signature.inputs.inputs if column.required),
            outputs=tuple(str(column.type) for column in signature.outputs.inputs),
            digest=hashlib.sha256(
                "".join(f"{name}\0{sha}\n" for name, sha in files.items()).encode()
            ).hexdigest(),
            files=files,
        )

    def load(self, model: str, version: str) -> Any:
        """Load a version as a pyfunc model.

        Raises:
            ArtifactUnloadable: It cannot be loaded.
        """
        import mlflow

        # Not through MLflow's global addresses: setting those changes the environment of every child process.
        folder = tempfile.mkdtemp(prefix="understudy-model-")
        try:
            loaded = self._files(
                lambda: mlflow.pyfunc.load_model(self._download(model, version, folder)), model, version
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
        return loaded

    def _download(self, model: str, version: str, folder: str) -> str:
        from mlflow.artifacts import download_artifacts

        source = f"models:/{model}/{version}"
        return str(download_artifacts(source, dst_path=folder, tracking_uri=self.uri, registry_uri=self.uri))

    def _model(self, model: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._call(lambda: self.client.get_registered_model(model))
        except MlflowException as error:
            raise NoSuchVersion(
                f"MLflow at {self.uri} has no registered model {model!r} ({error.error_code}). Register a version, or "
                "correct `model` in the experiment file."
            ) from error

    def _files(self, action: Callable[[], _T], model: str, version: str) -> _T:
        self.version(model, version)
        try:
            return reaching_mlflow(action, self.uri)
        except Unreachable:
            raise
        except Exception as error:
            raise ArtifactUnloadable(
                f"Version {version} of {model} cannot be loaded ({type(error).__name__}: {_first_line(error)}). Its files "
                "must load with `mlflow.pyfunc.load_model`; log and register the model again."
            ) from error

    def _call(self, action: Callable[[], _T]) -> _T:
        return reaching_mlflow(action, self.uri)


def reaching_mlflow(action: Callable[[], _T], uri: str) -> _T:
    """Run an MLflow call and tell an unreachable server from every other failure.

    Raises:
        Unreachable: The server did not answer or answered with a server error.
    """
    import requests
    from mlflow.exceptions import MlflowException

    try:
        return action()
    except MlflowException as error:
        status = error.get_http_status_code()
        if "failed with exception" in str(error) or status in (429, 502, 503, 504):
            raise _unreachable(uri, error) from error
        raise
    except (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError) as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"MLflow at {uri} does not answer ({_first_line(error)[:160]}). Nothing was changed; start the server or correct "
        "MLFLOW_TRACKING_URI, then run the step again."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _version(raw: Any) -> Version:
    return Version(
        model=raw.name,
        version=str(raw.version),
        stage=raw.current_stage or "None",
        status=raw.status,
        run_id=raw.run_id or None,
        tags=dict(raw.tags or {}),
    )
