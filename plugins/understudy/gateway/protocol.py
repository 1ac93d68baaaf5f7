"""MLflow's scoring protocol: bodies in, answers and errors out, as MLflow 3.17's own server has them.

Where that server quotes the request in an error or adds a traceback, this one does not: both may hold private values.
"""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, cast

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

from understudy.gateway.batch import Batch, csv_batch, json_batch, parquet_batch

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
        content = json.loads(body)
    except UnicodeDecodeError as error:
        raise _not_json(f"{error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _not_json(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _not_json(type(error).__name__) from None
    if isinstance(content, dict):
        return content
    if isinstance(content, list):
        raise MlflowInvalidInputException(f"{REQUIRED_INPUT_FORMAT}. Received a list.")
    raise MlflowInvalidInputException(
        f"{REQUIRED_INPUT_FORMAT}. Received unexpected input type '{type(content)}."
    )


def encode_answer(predictions: Any, unwrapped: bool = False) -> bytes:
    """Return the body of an answer.

    Args:
        predictions: What the models said, in the order of the rows.
        unwrapped: Whether the request came without one of the protocol's keys, so that the answer has none either.
    """
    output = StringIO()
    json.dump(predictions if unwrapped else {"predictions": predictions}, output, cls=NumpyEncoder)
    return output.getvalue().encode()


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
