"""The DAGs themselves, run by ``dag.test()``: no scheduler, no triggerer, but real MLflow, gateway and store.

``dag.test()`` runs a deferred guard's trigger in line, so the whole ladder is climbed in one process. It does not run the
DAGs that a DAG starts: ``roll_back`` of a run that was exposed would wait for ever for its rollback, which is why that
part of the story is told on a whole Airflow, in ``test_standalone.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live import buses
from tests.live.conftest import HERE, Servers
from tests.live.installation import Records, doors_of
from tests.servers import RunningGateway, start_gateway, wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.stack]

MODEL = "bus-delay-alone"
DAG = "experiment__bus_alone"
REPO = Path(__file__).parents[2]


@dataclass
class Alone:
    """An Airflow home without a running Airflow, and the rest of an installation around it."""

    env: dict[str, str]
    gateway: RunningGateway
    records: Records

    def airflow(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=self.env,
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def test(self, dag: str, conf: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Run a DAG; return what became of it and everything that was printed."""
        output = self.airflow("tests.live.run_dag", dag, json.dumps(conf))
        return json.loads(output.splitlines()[-1]), output


@pytest.fixture(scope="module")
def alone(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "experiments").mkdir()
    declared = (HERE / "experiments" / "bus_delay.yaml").read_text()
    declared = declared.replace("name: bus_delay\nmodel: bus-delay\n", f"name: bus_alone\nmodel: {MODEL}\n")
    (folder / "experiments" / "bus_alone.yaml").write_text(declared)
    home = folder / "understudy"
    with start_gateway(home, MODEL, servers.stack.mlflow_url, folder / "experiments", ready=False) as gateway:
        env = servers.stack.env() | {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow' / 'airflow.db'}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "airflow" / "logs"),
            "UNDERSTUDY_HOME": str(home),
            "UNDERSTUDY_STORE_URL": f"sqlite:///{home / 'store.db'}",
            "UNDERSTUDY_EXPERIMENTS": str(folder / "experiments"),
            "UNDERSTUDY_GATEWAY_URLS": gateway.url,
        }
        doors = doors_of(env)
        buses.register(doors.registry.client, MODEL, servers.logged)
        traffic = buses.Traffic(gateway.url)
        try:
            installation = Alone(env, gateway, Records(doors, MODEL))
            (folder / "airflow").mkdir()
            installation.airflow("airflow", "db", "migrate")
            traffic.full()
            wait_until(lambda: traffic.served >= 2000, "the first traffic")
            yield installation
        finally:
            traffic.close()
            doors.store.close()


def test_a_version_without_signature_is_refused_and_nobody_sees_it(alone: Alone) -> None:
    before = alone.gateway.status()["generation"]
    outcome, printed = alone.test(DAG, {"version": "4"})
    assert outcome["state"] == "failed"
    assert outcome["tasks"]["preregister"] == "failed"
    assert outcome["tasks"]["stage_1.raise_exposure"] == "upstream_failed"
    assert outcome["tasks"]["roll_back"] == "skipped"
    assert "[VERSION_INCOMPATIBLE]" in printed
    assert "infer_signature" in printed
    status = alone.gateway.status()
    assert (status["exposed"], status["champion"]) == (False, "1")
    assert "exposure.raised" not in [entry.action for entry in alone.records.actions()]
    assert before <= status["generation"]


def test_a_better_version_climbs_the_ladder_and_the_rollback_dag_takes_it_back(alone: Alone) -> None:
    outcome, printed = alone.test(DAG, {"version": "2", "reason": "It knows the rain."})
    assert outcome["state"] == "success", printed[-6000:]
    assert outcome["tasks"].pop("roll_back") == "skipped"
    assert set(outcome["tasks"].values()) == {"success"}
    assert alone.records.alias() == "2"
    assert alone.gateway.status()["champion"] == "2"
    raised = [entry.body["to"] for entry in alone.records.actions() if entry.action == "exposure.raised"]
    assert raised == [20, 100]

    outcome, printed = alone.test("rollback", {"model": MODEL, "reason": "Drivers complain."})
    assert outcome["state"] == "success", printed[-6000:]
    assert alone.records.alias() == "1"
    assert alone.gateway.status()["champion"] == "1"
