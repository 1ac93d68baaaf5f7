"""The only door to MLflow's model registry: versions, aliases, legacy stages, model files."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from understudy.errors import (
    ArtifactUnloadable,
    FilesChanged,
    NoSuchVersion,
    Unreachable,
    VersionIncompatible,
)
from understudy.model_files import files_digest, refuse_changed
from understudy.settings import Settings

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "CONSUMES_TAG",
    "DIGEST_TAG",
    "FEATURE_SET_TAG",
    "UPSTREAM_TAG",
    "ModelFacts",
    "Registry",
    "Version",
    "reaching_mlflow",
]

CHAMPION = "champion"
"""Alias of the version in production."""

CHALLENGER = "challenger"
"""Alias of the version under test."""

CONSUMES_TAG = "understudy.consumes"
"""Tag of a registered model or a run that uses another model's answers; its value is that model's name."""

DIGEST_TAG = "understudy.digest"
"""Tag of a version that holds the digest of its files, as `understudy.model_files` has it, from when a run was first admitted."""

FEATURE_SET_TAG = "understudy.feature_set"
"""Tag of a version that names the feature set it was trained on."""

UPSTREAM_TAG = "understudy.upstream"
"""Tag of a version that a server of its own answers for; its value is that server's address."""

_STAGING, _PRODUCTION, _ARCHIVED = "Staging", "Production", "Archived"
_TAGGED = f"the registry's tag {DIGEST_TAG}"
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
        found = self._call(lambda: self.client.search_model_versions(f"name='{model}'", max_results=1000))
        if not found:
            self._model(model)
        return sorted((_version(raw) for raw in found), key=lambda version: int(version.version))

    def version(self, model: str, version: str) -> Version:
        """Return one version.

        Raises:
            NoSuchVersion: The registry does not have it.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._call(lambda: self.client.get_model_version(model, version)))
        except MlflowException as error:
            known = [item.version for item in self.versions(model)]
            if version in known:
                raise
            raise NoSuchVersion(
                f"Model {model} has no version {version!r}. Registered versions: {', '.join(known) or 'none'}."
            ) from error

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version that an alias names, or None."""
        found = self._model(model).aliases.get(alias)
        return None if found is None else str(found)

    def consumers(self, model: str) -> list[str]:
        """Return who says in the registry or in a run that it uses a model, by the tag `CONSUMES_TAG`.

        Returns:
            Names of registered models and of runs, sorted.
        """
        wanted = f"tags.`{CONSUMES_TAG}` = '{model}'"
        models = self._call(lambda: self.client.search_registered_models(wanted, max_results=1000))
        experiments = self._call(lambda: self.client.search_experiments(max_results=1000))
        ids = [experiment.experiment_id for experiment in experiments]
        found = self._call(lambda: self.client.search_runs(ids, wanted, max_results=1000)) if ids else []
        named = {str(item.name) for item in models} | {
            str(run.info.run_name or run.info.run_id) for run in found
        }
        return sorted(named)

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
        # Legacy stages are deprecated; a spec asks for them where other systems still read them.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
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
            FilesChanged: They are not those that were recorded.
            VersionIncompatible: There is no signature.
        """
        found = self._files(lambda: self._download(model, version, str(folder)), model, version)
        return self._described(found, model, version)

    def _described(self, local: str, model: str, version: str) -> ModelFacts:
        from mlflow.models import Model

        signature = self._files(lambda: Model.load(str(local)).signature, model, version)
        if signature is None or signature.inputs is None or signature.outputs is None:
            raise VersionIncompatible(
                f"Version {version} of {model} has no signature, so nobody can tell what it needs and answers. Log it "
                "again with `signature=infer_signature(inputs, outputs)` and register that."
            )
        columns = signature.inputs.inputs
        return ModelFacts(
            {str(column.name): str(column.type).removeprefix("DataType.") for column in columns},
            tuple(str(column.name) for column in columns if column.required),
            tuple(str(column.type).removeprefix("DataType.") for column in signature.outputs.inputs),
            *files_digest(Path(local)),
        )

    def as_found(self, model: str, version: str) -> ModelFacts:
        """Describe a version's files whatever is recorded for them; a signature that cannot be read is left empty.

        Raises:
            ArtifactUnloadable: The files cannot be had.
        """
        with tempfile.TemporaryDirectory(prefix="understudy-model-") as folder:
            path = self._files(lambda: self._fetch(model, version, folder), model, version)
            try:
                return self._described(path, model, version)
            except (ArtifactUnloadable, VersionIncompatible):
                return ModelFacts({}, (), (), *files_digest(Path(path)))

    def record_digest(self, model: str, version: str, digest: str) -> None:
        """Record what a version's files hash to; from now on files that do not are refused, here and by every gateway.

        Raises:
            FilesChanged: Something else is recorded already.
        """
        recorded = self._recorded_digest(model, version)
        refuse_changed(model, version, digest, recorded, _TAGGED)
        if recorded is None:
            self._call(lambda: self.client.set_model_version_tag(model, version, DIGEST_TAG, digest))

    def name_feature_set(self, model: str, version: str, name: str | None) -> None:
        """Have a version name a feature set in its tag, or none; safe to repeat."""
        if self.version(model, version).tags.get(FEATURE_SET_TAG) == name:
            return
        if name is None:
            self._call(lambda: self.client.delete_model_version_tag(model, version, FEATURE_SET_TAG))
        else:
            self._call(lambda: self.client.set_model_version_tag(model, version, FEATURE_SET_TAG, name))

    def verify(self, model: str, version: str) -> None:
        """Download a version's files and hold them against what was recorded for them.

        Raises:
            ArtifactUnloadable: The files cannot be had, or there are none.
            FilesChanged: They are not those that were recorded.
        """
        with tempfile.TemporaryDirectory(prefix="understudy-model-") as folder:
            found = self._files(lambda: self._download(model, version, folder), model, version)
            # MLflow hands an empty folder over where there is nothing. A server of its own needs no files here.
            if not any(Path(found).iterdir()) and UPSTREAM_TAG not in self.version(model, version).tags:
                raise ArtifactUnloadable(
                    f"Version {version} of {model} has no files any more and cannot be loaded. Register it again or name another."
                )

    def load(self, model: str, version: str) -> Any:
        """Load a version as a pyfunc model.

        Raises:
            ArtifactUnloadable: It cannot be loaded.
            FilesChanged: Its files are not those that were recorded.
        """
        import mlflow

        # Not through MLflow's global addresses: setting those changes the environment of every child process.
        folder = tempfile.mkdtemp(prefix="understudy-model-")
        try:
            # skops asks every loaded module for names, and Airflow's own warn about each: a thousand lines in a task's log.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                loaded = self._files(
                    lambda: mlflow.pyfunc.load_model(self._download(model, version, folder)), model, version
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
        return loaded

    def _fetch(self, model: str, version: str, folder: str) -> str:
        from mlflow.artifacts import download_artifacts

        source = f"models:/{model}/{version}"
        return str(download_artifacts(source, dst_path=folder, tracking_uri=self.uri, registry_uri=self.uri))

    def _download(self, model: str, version: str, folder: str) -> str:
        path = self._fetch(model, version, folder)
        if (recorded := self._recorded_digest(model, version)) is not None:
            refuse_changed(model, version, files_digest(Path(path))[0], recorded, _TAGGED)
        return path

    def _recorded_digest(self, model: str, version: str) -> str | None:
        return self.version(model, version).tags.get(DIGEST_TAG)

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
        except (Unreachable, FilesChanged):
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
        f"MLflow at {uri} does not answer ({_first_line(error)[:160]}). Start the server or correct MLFLOW_TRACKING_URI; "
        "what was asked for can safely be asked for again."
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
