"""The route that takes a model back: for those who may trigger the DAG, at once, and without any scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.console import scenes
from understudy.store import Store, exposures, ledger

pytestmark = pytest.mark.airflow

PATH = "/understudy/rollback/flight-delay"
ASKED = {"reason": "Drivers complain."}


def exposed(store: Store) -> bool:
    with store.read() as connection:
        found = exposures.find(connection, "flight-delay")
    assert found is not None
    return found.exposed


def test_a_stranger_gets_401_and_nothing_happens(anonymous: TestClient, store: Store) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    assert anonymous.post(PATH, json=ASKED).status_code == 401
    assert exposed(store)


def test_who_may_only_look_gets_403_and_nothing_happens(viewer: TestClient, store: Store) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    assert viewer.post(PATH, json=ASKED).status_code == 403
    assert exposed(store)


def test_with_mlflow_down_exposure_is_zero_in_the_name_of_the_user(boss: TestClient, store: Store) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    answer = boss.post(PATH, json=ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNREACHABLE")
    assert not exposed(store)
    with store.read() as connection:
        (dropped,) = ledger.entries(connection, model="flight-delay", actions=("exposure.dropped",))
        (waits,) = ledger.entries(connection, model="flight-delay", actions=("rollback.deferred",))
    assert (dropped.actor, dropped.reason, waits.actor) == ("boss", "Drivers complain.", "boss")


BAD = {
    "no reason": ("reason", {"json": {}}),
    "a reason of blanks that the dialog leaves out": ("reason", {"json": {"reason": ""}}),
    "an unknown field": ("force", {"json": ASKED | {"force": True}}),
    "a version that is none": ("target_version", {"json": ASKED | {"target_version": "latest"}}),
    "a key with a blank": ("idempotency-key", {"json": ASKED, "headers": {"Idempotency-Key": "a b"}}),
    "no body": ("the body", {}),
    "half an object": (
        "the body",
        {"content": b'{"reason"', "headers": {"Content-Type": "application/json"}},
    ),
    "a form of another site": ("the body", {"json": ASKED, "headers": {"Content-Type": "text/plain"}}),
    "a body that does not say what it is": ("the body", {"content": json.dumps(ASKED).encode()}),
}


@pytest.mark.parametrize(("wrong", "request_"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_named_and_nothing_happens(
    boss: TestClient, store: Store, wrong: str, request_: dict[str, Any]
) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    answer = boss.post(PATH, **request_)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "BAD_PARAMETER")
    assert error["message"].startswith(f"The request cannot be used: {wrong}.")
    assert exposed(store)


@pytest.fixture
def reading_dag(airflow_web: Any) -> Iterator[str]:
    """A DAG in Airflow's database that waits for the asset of the model's champion."""
    from airflow.models import DagModel
    from airflow.models.asset import AssetModel, DagScheduleAssetReference
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session(scoped=False) as connection:
        connection.add(DagBundleModel(name="tests"))
        connection.flush()
        asset = AssetModel(name="champion of flight-delay", uri="x-understudy://champions/flight-delay")
        dag = DagModel(dag_id="crew_planning", bundle_name="tests", fileloc="crew.py")
        connection.add_all([asset, dag])
        connection.flush()
        connection.add(DagScheduleAssetReference(asset_id=asset.id, dag_id=dag.dag_id))
    yield "crew_planning"
    with create_session(scoped=False) as connection:
        for kind in (DagScheduleAssetReference, DagModel, AssetModel, DagBundleModel):
            connection.query(kind).delete()


def test_dags_that_name_the_champions_asset_are_consumers_until_they_do_no_more(
    boss: TestClient, store: Store, reading_dag: str
) -> None:
    from understudy.rollback.consumers import downstream
    from understudy.session import session

    def listed() -> list[dict[str, str]]:
        assert boss.get("/understudy/").status_code == 200
        with store.read() as connection:
            return downstream(connection, session(), "flight-delay")

    scenes.adopt(store, "flight-delay")
    assert listed() == listed() == [{"name": "crew_planning", "contact": "", "found": "airflow"}]
    with store.read() as connection:
        assert len(ledger.entries(connection, actions=("consumers.found",))) == 1
    _forget(reading_dag)
    assert listed() == []


def _forget(dag: str) -> None:
    from airflow.models.asset import DagScheduleAssetReference
    from airflow.utils.session import create_session

    with create_session(scoped=False) as connection:
        connection.query(DagScheduleAssetReference).filter_by(dag_id=dag).delete()
