"""The only route that changes anything: it takes a model back at once, whether or not a scheduler is alive."""

from __future__ import annotations

import secrets
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from understudy.console import consumers
from understudy.errors import BadParameter, GatewayMismatch, StoreError, UnderstudyError, Unreachable

__all__ = ["KEY", "VERSION", "Asked", "MayRollBack", "answer", "router", "unusable"]

_MAY_TRIGGER = requires_access_dag(method="POST", access_entity=DagAccessEntity.RUN, param_dag_id="rollback")
KEY = r"^[\x21-\x7e]{1,200}$"
"""What an idempotency key looks like."""

VERSION = r"^[1-9][0-9]{0,9}$"
"""What a version looks like."""

router = APIRouter()


def _may_roll_back(request: Request, user: GetUserDep) -> bool:
    try:
        _MAY_TRIGGER(request, user)
    except HTTPException:
        return False
    return True


MayRollBack = Annotated[bool, Depends(_may_roll_back)]
"""Whether whoever asks may trigger the DAG ``rollback``; the route asks again."""


class Asked(BaseModel):
    """The body of the request."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=5, max_length=500)
    target_version: str | None = Field(None, pattern=VERSION)
    dry_run: bool = False


@router.post("/rollback/{model}", dependencies=[Depends(_MAY_TRIGGER)])
def roll_back(
    model: str,
    asked: Asked,
    user: GetUserDep,
    idempotency_key: Annotated[str | None, Header(pattern=KEY)] = None,
) -> JSONResponse:
    """Carry a rollback out here and now, for whoever may trigger the DAG ``rollback``.

    A page of another site cannot call it: FastAPI takes a body that says it is JSON and no other, and for that a browser
    asks first. A repeat with the same ``Idempotency-Key`` gets the first answer.
    """
    if asked.dry_run:
        # Never before a rollback itself, which waits for no database of Airflow's.
        consumers.look()
    key = f"console/{user.get_name()}/{idempotency_key or secrets.token_hex(16)}"
    return answer(
        model, asked.reason, user.get_name(), key, target_version=asked.target_version, dry_run=asked.dry_run
    )


def answer(
    model: str, reason: str, actor: str, key: str, *, target_version: str | None, dry_run: bool = False
) -> JSONResponse:
    """Roll a model back and say what came of it.

    Returns:
        200 with what was done; else ``error``: 400 for a request that makes no sense, 409 where it leads nowhere, 503 while
        something does not answer.
    """
    from understudy import rollback

    try:
        result = rollback.execute(
            model, reason, actor=actor, key=key, target_version=target_version, dry_run=dry_run
        )
    except UnderstudyError as error:
        return JSONResponse({"error": error.to_dict()}, _status(error))
    return JSONResponse(result)


async def unusable(request: Request, error: Exception) -> JSONResponse:
    """Answer 422 to a request that is not as the route wants it, and name what is wrong without repeating it."""
    assert isinstance(error, RequestValidationError)
    parts = [[part for part in found["loc"] if isinstance(part, str)] for found in error.errors()]
    wrong = sorted({place[-1] if place[1:] else "the body" for place in parts})
    refused = BadParameter(
        f"The request cannot be used: {', '.join(wrong)}. It must be JSON, and say so in its Content-Type: an object with "
        "`reason` (5 to 500 characters) and, where wanted, `target_version` (a number) and `dry_run`. An Idempotency-Key has no "
        "blanks. Nothing was changed."
    )
    return JSONResponse({"error": refused.to_dict()}, 422)


def _status(error: UnderstudyError) -> int:
    if isinstance(error, BadParameter):
        return 400
    return 503 if isinstance(error, Unreachable | GatewayMismatch | StoreError) else 409
