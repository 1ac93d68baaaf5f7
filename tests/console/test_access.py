"""Nobody reads the console without an account, whatever route is added to it later."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from starlette.testclient import TestClient

from tests.console import scenes
from understudy.store import Store

pytestmark = pytest.mark.airflow

PATHS = ["/", "/fragment", "/api/status", "/reports/{run_id}"]


@pytest.mark.parametrize("path", PATHS)
def test_a_stranger_gets_401(anonymous: TestClient, path: str) -> None:
    answer = anonymous.get(f"/understudy{path}")
    assert answer.status_code == 401
    assert "flight" not in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_a_token_that_airflow_did_not_sign_is_refused(anonymous: TestClient, path: str) -> None:
    forged = jwt.encode({"sub": "boss", "role": "admin", "exp": 4_000_000_000}, "x" * 64, algorithm="HS512")
    assert anonymous.get(f"/understudy{path}", headers={"Authorization": f"Bearer {forged}"}).status_code in (
        401,
        403,
    )
    anonymous.cookies.set("_token", forged)
    assert anonymous.get(f"/understudy{path}").status_code in (401, 403)


@pytest.mark.parametrize("path", PATHS)
def test_a_viewer_may_read(viewer: TestClient, store: Store, path: str) -> None:
    run = scenes.prepare(store, "flight-delay")
    answer = viewer.get(f"/understudy{path.format(run_id=run.run_id)}")
    assert answer.status_code == 200
    assert "flight-delay" in answer.text


def test_the_session_cookie_of_airflows_pages_is_enough(
    anonymous: TestClient, viewer: TestClient, store: Store
) -> None:
    anonymous.cookies.set("_token", viewer.headers["Authorization"].removeprefix("Bearer "))
    assert anonymous.get("/understudy/").status_code == 200


def test_no_route_answers_a_stranger_and_one_alone_writes(airflow_web: Any) -> None:
    from understudy.console.app import create_app

    app = create_app()
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
    assert len(app.routes) == len(PATHS) + 1
    for route in app.routes:
        path, (method,) = route.path, route.methods  # type: ignore[attr-defined]
        assert (method == "POST") == (path == "/rollback/{model}"), f"{route} is no plain reading route"
        answer = client.request(method, path.format(run_id="x", model="x"))
        assert answer.status_code == 401, f"{route} answers a stranger with {answer.status_code}"


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/templates/page.html"]
)
def test_the_application_does_not_describe_itself(anonymous: TestClient, path: str) -> None:
    assert anonymous.get(f"/understudy{path}").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
def test_nothing_can_be_written(viewer: TestClient, store: Store, method: str, path: str) -> None:
    assert viewer.request(method, f"/understudy{path}").status_code == 405


def test_a_dag_named_in_the_query_does_not_open_the_console(
    viewer: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    asked: list[str | None] = []

    def only_its_own_dag(*, details: Any, **_: Any) -> bool:
        asked.append(details.id)
        return bool(details.id == "own_dag")

    monkeypatch.setattr(get_auth_manager(), "is_authorized_dag", only_its_own_dag)
    for path in PATHS:
        assert viewer.get(f"/understudy{path}?dag_id=own_dag").status_code == 403
    assert set(asked) == {"rollback"}


def test_a_stranger_with_a_browser_is_shown_where_to_sign_in(anonymous: TestClient) -> None:
    answer = anonymous.get("/understudy/", headers={"Accept": "text/html"})
    assert answer.status_code == 401
    assert 'href="/api/v2/auth/login?next=/understudy/"' in answer.text
