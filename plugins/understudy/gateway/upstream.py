"""A version that a server of its own answers for: its rows go there in MLflow's scoring protocol, and what comes back is checked.

Signature, parameters and columns are still those of the registered version, so that a request is read, refused and split as
if the version were loaded here.
"""

from __future__ import annotations

import json
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.utils.serving_data_parser import is_unified_llm_input
from mlflow.utils.proto_json_utils import NumpyEncoder

from understudy.errors import BadUpstream
from understudy.gateway.frames import LARGEST_ANSWER
from understudy.registry import UPSTREAM_TAG
from understudy.settings import Settings

__all__ = [
    "TOKEN",
    "UpstreamBadAnswer",
    "UpstreamFailed",
    "UpstreamModel",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamUnreachable",
    "address_in",
    "open_upstream",
]

TOKEN = "UNDERSTUDY_UPSTREAM_TOKEN"  # noqa: S105 - the name of the variable
"""Environment variable with the bearer token that upstream servers ask for, if they do."""

# Below the five seconds after which uvicorn, and so MLflow's server, closes a connection that nobody uses.
_KEEP_SECONDS = 2.0
_HEALTH = ("/ping", "/health")


class UpstreamFailed(MlflowException):  # type: ignore[misc]
    """The server of a version gave no usable answer; to the caller it is an error in MLflow's shape.

    Args:
        message: What happened, without the address and without anything that the server said: callers see it.
    """

    status = 502
    code = "UPSTREAM_FAILED"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.error_code = self.code

    def get_http_status_code(self) -> int:
        """Return the HTTP status."""
        return self.status


class UpstreamBadAnswer(UpstreamFailed):
    """It answered with another status than 200, with a redirect, too much, or something that is no answer to the rows."""

    code = "UPSTREAM_BAD_ANSWER"


class UpstreamUnreachable(UpstreamFailed):
    """No connection could be made, or it broke before the answer was there."""

    status = 503
    code = "UPSTREAM_UNREACHABLE"


class UpstreamTimeout(UpstreamFailed):
    """It took too long."""

    status = 504
    code = "UPSTREAM_TIMEOUT"


class UpstreamRejected(Exception):
    """It answered 400, with which MLflow's server says that the model raised; the gateway treats it as it treats that."""


class UpstreamModel:
    """A model implementation for MLflow's `PyFuncModel` that asks a server. Calls may come from several threads.

    Args:
        address: Where its ``/invocations`` is, without that.
        seconds: Time that each step of a call may take, and after which no more of an answer is read.

    Attributes:
        address: As given.

    Raises:
        BadUpstream: The token in the environment is not one.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self.address = address
        self._seconds = seconds
        self._client = httpx.Client(
            headers={"Accept": "application/json", "Accept-Encoding": "identity"} | _authorization(),
            timeout=seconds,
            follow_redirects=False,
            # Neither proxies nor passwords from files: the tag alone says where rows go, the token alone who sends them.
            trust_env=False,
            verify=ssl.create_default_context(),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_SECONDS),
        )

    def probe(self) -> None:
        """Ask whether the server is well.

        Raises:
            UpstreamFailed: It is not, or it is no server of MLflow's protocol.
        """
        said = {path: self._ask("GET", path)[0] for path in _HEALTH}
        if 200 not in said.values():
            told = ", ".join(f"{path} with {status}" for path, status in said.items())
            raise UpstreamBadAnswer(f"The server answers {told}, so it is not ready.")
        status, version = self._ask("GET", "/version")
        if status != 200 or not version.strip():
            raise UpstreamBadAnswer(
                f"The server answers /version with {status}, so it does not speak MLflow's protocol."
            )

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Send rows and return what the server says of them.

        Args:
            data: What MLflow hands to a model: a table, an array, named arrays, or what a model without a signature takes.
            params: Parameters of the request.

        Returns:
            JSON-safe; one item per row where the rows can be counted.

        Raises:
            UpstreamFailed: There is no answer, or it is not one to these rows.
            UpstreamRejected: The server refused the rows.
        """
        content = _content(data, params)
        status, body = self._ask("POST", "/invocations", content)
        if status == 400:
            raise UpstreamRejected("the server of this version refused the rows with status 400")
        if status != 200:
            raise UpstreamBadAnswer(f"The model's server answered with status {status}.")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise UpstreamBadAnswer("The model's server answered with something that is not JSON.") from None
        if is_unified_llm_input(content):
            return answer
        if not isinstance(answer, dict) or "predictions" not in answer:
            raise UpstreamBadAnswer("The model's server answered without `predictions`.")
        predictions = answer["predictions"]
        _counted(predictions, _rows_in(data))
        return predictions

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        sent = None if content is None else json.dumps(content, cls=NumpyEncoder).encode()
        headers = {"Content-Type": "application/json"} if content is not None else None
        until = time.monotonic() + self._seconds
        body = bytearray()
        try:
            with self._client.stream(method, self.address + path, content=sent, headers=headers) as answer:
                for part in answer.iter_raw():
                    body += part
                    if len(body) > LARGEST_ANSWER:
                        raise UpstreamBadAnswer(
                            f"The model's server answered with more than {LARGEST_ANSWER >> 20} MiB."
                        )
                    if time.monotonic() > until:
                        raise self._too_slow()
                return answer.status_code, bytes(body)
        except httpx.TimeoutException:
            raise self._too_slow() from None
        except httpx.HTTPError as error:
            raise UpstreamUnreachable(
                f"The model's server cannot be reached ({type(error).__name__}); try again."
            ) from None

    def _too_slow(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"The model's server did not answer within {self._seconds:g} s.")


def open_upstream(model: str, version: str, tag: str, seconds: float) -> PyFuncModel:
    """Return a version that its own server answers for, once that server is well.

    Args:
        model: Registered model name.
        version: Its version, whose signature holds.
        tag: What the registry's tag says.
        seconds: Time that a call may take.

    Raises:
        BadUpstream: The tag is no usable address.
        UpstreamFailed: The server is not well.
    """
    implementation = UpstreamModel(address_in(tag, f"{model} version {version}"), seconds)
    implementation.probe()
    return PyFuncModel(Model.load(f"models:/{model}/{version}"), implementation)


def address_in(tag: str, whose: str) -> str:
    """Return the address in a tag, without a slash at its end.

    Args:
        tag: What the tag says.
        whose: The version, for the message.

    Raises:
        BadUpstream: It is no address of HTTP, or holds more than one. The message does not quote it: it may be a password.
    """
    problem = _problem_of(tag)
    if problem is not None:
        raise BadUpstream(
            f"The registry's tag {UPSTREAM_TAG} of {whose} {problem}. It must be http(s)://host:port, with a path if need be. "
            f"A token goes into the environment variable {TOKEN} of the gateway. Set the tag again; it is read at every load."
        )
    return tag.rstrip("/")


def _problem_of(tag: str) -> str | None:
    if not tag.isascii() or not tag.isprintable() or " " in tag or "\\" in tag:
        return "has white space or other characters in it that no address has"
    try:
        parts = urlsplit(tag)
        hash(parts.port)  # raises where it is no number of a port
        httpx.URL(tag)
    except (ValueError, httpx.InvalidURL):
        return "is no address"
    if "@" in parts.netloc:
        return "has a user name or password in it"
    if parts.scheme not in ("http", "https"):
        return "is not an address of HTTP"
    if not parts.hostname:
        return "names no host"
    if "?" in tag or "#" in tag:
        return "has a query or a fragment in it"
    return None


def _authorization() -> dict[str, str]:
    token = Settings.from_env().upstream_token
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadUpstream(
            f"{TOKEN} has white space or other characters in it that no bearer token has. Set it to the token alone."
        )
    return {"Authorization": f"Bearer {token}"}


def _content(data: Any, params: dict[str, Any] | None) -> dict[str, Any]:
    """Return the request that says what a model is called with."""
    if isinstance(data, dict) and is_unified_llm_input(data):
        return data | (params or {})
    extra = {"params": params} if params else {}
    if isinstance(data, pd.DataFrame):
        if data.isna().to_numpy().any():
            # JSON has no NaN; MLflow's server reads null as it where the signature has a number.
            data = data.astype(object).where(data.notna(), None)
        return {"dataframe_split": data.to_dict(orient="split", index=False)} | extra
    return {"inputs": data} | extra


def _rows_in(data: Any) -> int | None:
    """Return how many rows a model is called with, where that can be said."""
    if isinstance(data, dict):
        data = next(iter(data.values()), None)
    return len(data) if getattr(data, "shape", None) or isinstance(data, list) else None


def _counted(predictions: Any, rows: int | None) -> None:
    """Refuse an answer that is not one item per row, or named lists of that.

    Raises:
        UpstreamBadAnswer: It is.
    """
    parts = list(predictions.values()) if isinstance(predictions, dict) else [predictions]
    if rows is not None and not all(isinstance(part, list) and len(part) == rows for part in parts):
        raise UpstreamBadAnswer(f"The model's server did not give one answer for each of {rows} rows.")
