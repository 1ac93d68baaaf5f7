"""Registers Understudy's console, webhook and task-page buttons with Airflow; nothing else.

The only file of this folder that Airflow scans (see ``.airflowignore``). Every Airflow component imports it, but only
the API server serves pages, so the console is imported with the first request to it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from understudy.orchestration.links import MlflowRunLink, RollbackRunLink


@cache
def _console() -> Any:
    from understudy.console.app import create_app

    return create_app()


@cache
def _webhook() -> Any:
    from understudy.console.webhook import create_webhook

    return create_webhook()


async def webhook(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the webhook. It takes nothing that is not signed with the shared secret."""
    await _webhook()(scope, receive, send)


async def console(scope: Any, receive: Any, send: Any) -> None:
    """Hand a request to the console. The console's app carries the authentication itself and fails closed."""
    await _console()(scope, receive, send)


class UnderstudyPlugin(AirflowPlugin):
    """What Airflow is told about Understudy."""

    name = "understudy"
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": console, "url_prefix": "/understudy", "name": "Understudy console"},
        {"app": webhook, "url_prefix": "/understudy-webhook", "name": "Understudy webhook"},
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Understudy",
            "href": "/understudy/",
            "destination": "nav",
            "url_route": "understudy",
        }
    ]
    operator_extra_links: ClassVar[list[Any]] = [MlflowRunLink(), RollbackRunLink()]
