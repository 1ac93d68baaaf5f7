"""One installation for all live tests, and the story that most of them look at: promoted, rolled back, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live import buses
from tests.live.installation import Airflow, Live, Records, doors_of
from understudy.stack import Stack
from understudy.stack.local_http import answers

HERE = Path(__file__).parent
DAG = "experiment__bus_delay"


@dataclass
class Servers:
    """The stack, and the logged models that any registered model may be made of."""

    stack: Stack
    logged: list[str]


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """MLflow and one ``airflow standalone``, started once; nothing of them is left in the end."""
    state = tmp_path_factory.mktemp("live")
    buses.write_datasets(state / "data")
    with ThreadPoolExecutor(1) as pool:
        logged: list[Future[list[str]]] = []

        def started(name: str, _seconds: float) -> None:
            # Training needs MLflow alone, which is up long before Airflow.
            if name == "MLflow":
                logged.append(pool.submit(buses.log_models, stack.mlflow_url))

        stack = Stack(
            state,
            experiments=HERE / "experiments",
            expectations=HERE / "expectations",
            shape="standalone",
            started=started,
        )
        with stack:
            yield Servers(stack, logged[0].result())
            pids = [pid for process in stack.processes() for pid in process.members()]
    left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert pids
    assert not left
    assert not answers(stack.mlflow_url)
    assert not answers(stack.airflow_url)


@pytest.fixture(scope="package")
def live(servers: Servers) -> Iterator[Live]:
    """The installation with version 1 in production and some traffic behind it."""
    stack = servers.stack
    assert stack.airflow is not None
    doors = doors_of(stack.env())
    buses.register(doors.registry.client, buses.MODEL, servers.logged)
    stack.start_gateway(buses.MODEL)
    traffic = buses.Traffic(stack.gateway_url)
    try:
        traffic.full()
        running = Live(
            stack,
            Airflow(stack.airflow_url, stack.airflow.token()),
            traffic,
            Records(doors, buses.MODEL),
            DAG,
        )
        stack.airflow.wait_for_dags(
            [DAG, "experiment__bus_nightly", "rollback", "registry_intake", "registry_start"]
        )
        running.until(lambda: traffic.served >= 2000, "the first traffic")
        yield running
    finally:
        traffic.close()
        doors.store.close()


@pytest.fixture(scope="package")
def promoted(live: Live) -> str:
    """The Airflow run of version 2, which somebody started by setting an alias in the registry; it has ended."""
    live.traffic.full()
    live.records.doors.registry.client.set_registered_model_alias(live.model, "challenger", "2")
    dag_run = f"registry__{live.model}:2"
    live.until(lambda: live.airflow.state(DAG, dag_run), "the start through the registry door", 60)
    # Whoever sets the alias once more, or moves the stage as well, asks for the same start.
    live.until(lambda: live.run(dag_run), "the registered run", 60)
    client = live.records.doors.registry.client
    client.set_registered_model_alias(live.model, "challenger", "2")
    buses.move_stage(client, live.model, "2", "Staging")
    assert live.ended(dag_run) == "success", live.why(dag_run)
    return dag_run


@pytest.fixture(scope="package")
def rolled_back(live: Live, promoted: str) -> str:
    """The Airflow run of version 3, started through the API as the form does; it has ended."""
    live.traffic.full()
    dag_run = live.start({"version": "3", "reason": "The radar is nearer to the road."})
    assert live.ended(dag_run) == "failed", live.why(dag_run)
    return dag_run


@pytest.fixture(scope="package")
def taken_back(live: Live, rolled_back: str) -> dict[str, Any]:
    """What the rollback DAG did when it was asked to take the promoted version back."""
    live.traffic.full()
    dag_run = live.airflow.start("rollback", {"model": live.model, "reason": "Drivers complain."})
    assert live.airflow.ended("rollback", dag_run) == "success", live.airflow.log(
        "rollback", dag_run, "restore"
    )
    result: dict[str, Any] = live.airflow.xcom("rollback", dag_run, "restore")
    return result
