"""The console's web application, mounted into Airflow's API server under ``/understudy``.

Fail-closed: Airflow hands a mounted application no authentication, so the application itself carries it and every
route inherits it. One route writes, `way_back`, and asks for the right to trigger the DAG ``rollback`` besides; everything else
that changes something is Airflow's own form with its own rights. Monitoring systems without an account ask `webhook`, an
application of its own.
Every answer forbids the browser to load, send or embed anything that the page does not need.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jinja2
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from understudy.console import consumers, page, way_back
from understudy.errors import NoSuchRun, SettingMissing, StoreError, UnderstudyError

__all__ = ["create_app"]

log = logging.getLogger(__name__)

_READING = "rollback"
"""The DAG whose readers may read the console. It acts on every model, as the console shows every model.

It is named here and not left open: without a name Airflow would take one from the query string, and whoever may read
any single DAG could name that one.
"""

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_HEADERS = {
    "Content-Security-Policy": _NOTHING,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
# The report is one document with its styles inside; `sandbox` takes it out of Airflow's origin altogether.
_REPORT_POLICY = f"{_NOTHING}; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups"

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("understudy.console", "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_templates.filters.update(utc=page.utc, duration=page.duration)

router = APIRouter()


def create_app() -> FastAPI:
    """Build the application.

    Its routes answer 401 to a stranger and 403 to a user who may not read the DAG ``rollback``. There is no
    self-description, which would answer anybody.
    """
    app = FastAPI(
        title="Understudy console",
        dependencies=[Depends(requires_access_dag(method="GET", param_dag_id=_READING))],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(router)
    app.include_router(way_back.router)
    app.middleware("http")(_guard_headers)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, way_back.unusable)
    app.add_exception_handler(NoSuchRun, _not_found)
    app.add_exception_handler(UnderstudyError, _unavailable)
    app.add_exception_handler(SQLAlchemyError, _store_lost)
    app.add_exception_handler(OSError, _store_lost)
    app.add_exception_handler(Exception, _broken)
    return app


# Routes are plain functions on purpose: FastAPI runs them in a thread, so neither the store nor the first import of the
# lifecycle holds up Airflow's own requests.


@router.get("/")
def index(may_roll_back: way_back.MayRollBack) -> HTMLResponse:
    """Return the page, filled, so that it says something before any script runs."""
    from understudy.rollback.facts import INCIDENTS

    consumers.look()
    now = time.time()
    nonce = secrets.token_urlsafe(16)
    policy = f"{_NOTHING}; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:"
    html = _templates.get_template("page.html").render(
        cards=_cards(), now=now, nonce=nonce, may_roll_back=may_roll_back, incidents=INCIDENTS
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


@router.get("/fragment")
def fragment(may_roll_back: way_back.MayRollBack) -> HTMLResponse:
    """Return the part of the page that changes."""
    html = _templates.get_template("models.html").render(
        cards=_cards(), now=time.time(), may_roll_back=may_roll_back
    )
    return HTMLResponse(html)


@router.get("/api/status")
def api_status() -> JSONResponse:
    """Return what ``understudy status --json`` prints."""
    return JSONResponse({"models": _states()})


@router.get("/reports/{run_id}")
def report(run_id: str) -> HTMLResponse:
    """Return the decision report of a run, as it stands now."""
    from understudy.lifecycle.report import render
    from understudy.session import session

    return HTMLResponse(
        render(session().passage(run_id)), headers={"Content-Security-Policy": _REPORT_POLICY}
    )


def _states() -> list[dict[str, Any]]:
    from understudy.lifecycle.status import status
    from understudy.session import session

    return status(session())


def _cards() -> list[page.Card]:
    from understudy.settings import Settings

    try:
        mlflow = page.mlflow_address(Settings.from_env().mlflow_url)
    except SettingMissing:
        mlflow = ""
    return page.cards(_states(), mlflow)


async def _guard_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not _wants_page(request):
        return await http_exception_handler(request, error)
    titles = {401: "You are not signed in", 403: "You may not read this", 404: "There is no such page"}
    return _message(request, error.status_code, titles.get(error.status_code, "Refused"), str(error.detail))


async def _not_found(request: Request, error: Exception) -> Response:
    return _problem(request, 404, "There is no such run", error)


async def _unavailable(request: Request, error: Exception) -> Response:
    return _problem(request, 503, "The state of the models is not known", error)


async def _store_lost(request: Request, error: Exception) -> Response:
    # The driver's text may carry statements and values, so it goes to the log and only the kind goes to the page.
    log.error("The console cannot read the store.", exc_info=error)
    lost = StoreError(
        f"The store does not answer ({type(error).__name__}). Check UNDERSTUDY_STORE_URL and the database; the API "
        "server's log has the particulars. Exposure is not affected: leases go on or lapse without this page."
    )
    return _problem(request, 503, "The state of the models is not known", lost)


async def _broken(request: Request, error: Exception) -> Response:
    log.error("A page of the console could not be made.", exc_info=error)
    hidden = UnderstudyError(
        f"This page could not be made ({type(error).__name__}). The API server's log has the particulars."
    )
    return _problem(request, 500, "Something is broken here", hidden)


def _problem(request: Request, status: int, title: str, error: Exception) -> Response:
    assert isinstance(error, UnderstudyError)
    if _wants_page(request):
        return _message(request, status, title, str(error))
    return JSONResponse({"error": error.to_dict()}, status, headers=_HEADERS)


def _message(request: Request, status: int, title: str, text: str) -> Response:
    nonce = secrets.token_urlsafe(16)
    mount = request.scope.get("root_path", "")
    html = _templates.get_template("message.html").render(
        status=status, title=title, text=text, nonce=nonce, home=f"{mount}/", airflow=mount.rpartition("/")[0]
    )
    policy = f"{_NOTHING}; style-src 'nonce-{nonce}'"
    return HTMLResponse(html, status, headers=_HEADERS | {"Content-Security-Policy": policy})


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
