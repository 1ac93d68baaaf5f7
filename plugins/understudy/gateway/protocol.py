"""MLflow's scoring protocol: bodies in, answers and errors out, as MLflow 3.17's own server has them.

Where that server quotes the request in an error or adds a traceback, this one does not: both may hold private values.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, cast

import msgspec
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc.scoring_server import (
    CONTENT_TYPE_CSV,
    CONTENT_TYPE_JSON,
    CONTENT_TYPE_PARQUET,
    CONTENT_TYPES,
    REQUIRED_INPUT_FORMAT,
    SCORING_PROTOCOL_CHANGE_INFO,
)
from mlflow.utils.proto_json_utils import MlflowInvalidInputException, NumpyEncoder
from mlflow.version import VERSION

from understudy.gateway.batch import Batch
from understudy.gateway.documents import json_batch
from understudy.gateway.tables import csv_batch, parquet_batch

__all__ = [
    "VERSION",
    "MlflowException",
    "UnsupportedMediaType",
    "bad_request",
    "encode_answer",
    "error_body",
    "internal_error",
    "parse",
    "parse_json",
    "unavailable",
]


class UnsupportedMediaType(Exception):
    """The content type is not one of the protocol's; the text is MLflow's own."""


def parse(body: bytes, content_type: str | None) -> Batch:
    """Read the body of ``/invocations``.

    Args:
        body: The request's body.
        content_type: Its ``Content-Type`` header.

    Raises:
        UnsupportedMediaType: Not JSON, CSV or Parquet, or not UTF-8.
        MlflowException: The body is not what the protocol asks for.
    """
    mime_type = _mime_type(content_type or "")
    if mime_type == CONTENT_TYPE_JSON:
        return json_batch(parse_json(body))
    if mime_type == CONTENT_TYPE_CSV:
        try:
            return csv_batch(body.decode())
        except UnicodeDecodeError as error:
            raise MlflowInvalidInputException(
                f"Ensure that input is a valid UTF-8 encoded string. Error: '{error.reason}'"
            ) from None
    if mime_type == CONTENT_TYPE_PARQUET:
        return parquet_batch(body)
    raise UnsupportedMediaType(
        f"This predictor only supports the following content types: Types: {CONTENT_TYPES}. Got '{content_type}'."
    )


def parse_json(body: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MlflowException: The body is not valid JSON, or not an object.
    """
    try:
        content = _decoded(body)
    except UnicodeDecodeError as error:
        raise _not_json(f"{type(error).__name__}({error.reason!r} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise _not_json(repr(error)) from None
    except (ValueError, RecursionError) as error:
        raise _not_json(type(error).__name__) from None
    if isinstance(content, dict):
        return content
    if isinstance(content, list):
        raise MlflowInvalidInputException(f"{REQUIRED_INPUT_FORMAT}. Received a list.")
    raise MlflowInvalidInputException(
        f"{REQUIRED_INPUT_FORMAT}. Received unexpected input type '{type(content)}."
    )


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What MLflow's server reads beyond the standard (NaN, lone surrogates, UTF-16) and how it says what is wrong.
        return json.loads(body)


def encode_answer(predictions: Any, unwrapped: bool = False) -> bytes:
    """Return the body of an answer.

    Args:
        predictions: What the models said, in the order of the rows.
        unwrapped: Whether the request came without one of the protocol's keys, so that the answer has none either.

    Raises:
        MlflowException: JSON has no way to write it.
    """
    numbers = None if unwrapped else _numbers(predictions)
    if numbers is not None:
        return b'{"predictions": ' + numbers + b"}"
    answer = predictions if unwrapped else {"predictions": predictions}
    try:
        return json.dumps(answer, cls=NumpyEncoder).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise internal_error(
            f"The model's answer cannot be written as JSON ({type(error).__name__})."
        ) from None


def _numbers(predictions: Any) -> bytes | None:
    """Return what `json.dumps` makes of a list of numbers, or of lists of them, in a tenth of its time.

    Both write the fewest digits that are read back as the same number. They differ in where exponents begin and in how
    they look, and in what is no number: all that is left to `json.dumps`.
    """
    if type(predictions) is not list:
        return None
    kinds = set(map(type, predictions))
    if kinds == {list}:
        kinds = set(map(type, chain.from_iterable(predictions)))
    if not kinds <= {float, int}:
        return None
    text = msgspec.json.encode(predictions)
    if text.translate(None, b"0123456789.,-[]") or b"0.0000" in text:
        return None
    return text.replace(b",", b", ")


def error_body(error: MlflowException) -> bytes:
    """Return an error in MLflow's shape, without a traceback."""
    error.json_kwargs.pop("stack_trace", None)
    body: str = error.serialize_as_json()
    return body.encode()


def bad_request(message: str) -> Exception:
    """Return the error of a request that the caller must change."""
    return cast(Exception, MlflowException(message, error_code=BAD_REQUEST))


def unavailable(message: str) -> Exception:
    """Return the error of a request that is worth another try."""
    return cast(Exception, MlflowException(message, error_code=TEMPORARILY_UNAVAILABLE))


def internal_error(message: str) -> Exception:
    """Return the error of a request that failed here."""
    return cast(Exception, MlflowException(message, error_code=INTERNAL_ERROR))


def _not_json(why: str) -> MlflowException:
    return MlflowInvalidInputException(f"Ensure that input is a valid JSON formatted string. Error: '{why}'")


def _mime_type(content_type: str) -> str:
    mime_type, *parameters = (part.strip() for part in content_type.split(";"))
    values = {key: value for key, _, value in (part.partition("=") for part in parameters)}
    if values.pop("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType("The scoring server only supports UTF-8")
    if values:
        raise UnsupportedMediaType(
            f"Unrecognized content type parameters: {', '.join(values)}. {SCORING_PROTOCOL_CHANGE_INFO}"
        )
    return mime_type
