"""The gateway of a trial is the real one, is nobody else's business, and is gone afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.lifecycle.conftest import World
from tests.servers import PSEUDONYM_KEY, wait_until
from understudy.lifecycle import trial
from understudy.lifecycle.trial import trial_gateway
from understudy.processes.process import NotReadyInTime, ProcessEnded


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def gateway_among(processes: list[psutil.Process]) -> psutil.Process:
    (found,) = [process for process in processes if "understudy.gateway" in process.cmdline()]
    return found


def test_the_version_on_trial_answers_and_the_installation_notices_nothing(world: World) -> None:
    passage = world.session.passage(world.started("2"))
    before = world.settings.flags_path.read_bytes()
    with trial_gateway(passage) as gateway:
        gateway.serve("2")
        row = {"dataframe_split": {"columns": ["tailnum", "hour", "wind"], "data": [["N1", 6.0, 1.0]]}}
        answer = httpx.post(f"{gateway.url}/invocations", json=row, timeout=30)
        process = gateway_among(children())
        environment, home = process.environ(), Path(process.cwd())
        assert (answer.status_code, answer.headers["x-understudy-version"]) == (200, "2")
        assert list((home / "events" / world.model / "requests").iterdir())
        gateway.serve("1")
        assert httpx.get(f"{gateway.url}/status", timeout=30).json()["champion"] == "1"
    assert not process.is_running()
    assert not home.exists()
    assert world.settings.flags_path.read_bytes() == before
    assert not world.settings.events_dir.exists()
    assert environment["UNDERSTUDY_PSEUDONYM_KEY"] != PSEUDONYM_KEY
    assert Path(environment["UNDERSTUDY_HOME"]) == home


def test_the_trial_gets_no_secret_of_airflow_or_of_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIRFLOW__CORE__FERNET_KEY", "UNDERSTUDY_STORE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.setenv(name, "secret")
    with trial_gateway(world.session.passage(world.started("2"))):
        environment = gateway_among(children()).environ()
    assert "secret" not in environment.values()
    assert environment["MLFLOW_TRACKING_URI"] == world.models.uri


def test_the_frozen_spec_counts_and_not_what_the_file_has_become(world: World) -> None:
    run_id = world.started("2")
    (world.settings.experiments / "delay_test.yaml").write_text("a: broken file")
    with trial_gateway(world.session.passage(run_id)) as gateway:
        gateway.serve("2")


def test_an_error_in_the_trial_ends_its_gateway(world: World) -> None:
    passage = world.session.passage(world.started("2"))
    before, seen = set(children()), set[psutil.Process]()

    def fail_inside() -> None:
        with trial_gateway(passage):
            seen.update(set(children()) - before)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_inside()
    assert len(seen) >= 2, "the gateway and its keeper"
    assert not [process for process in seen if process.is_running()]


def test_a_gateway_that_dies_is_named_with_the_end_of_its_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trial, "_environment", lambda home, *_: {"PATH": os.defpath, "UNDERSTUDY_HOME": str(home)}
    )
    passage = world.session.passage(world.started("2"))
    with (
        pytest.raises(ProcessEnded, match=r"(?s)ended with status 2.*MLFLOW_TRACKING_URI is not set"),
        trial_gateway(passage) as gateway,
    ):
        gateway.serve("2")


def test_a_version_that_cannot_be_loaded_is_named_with_the_reason(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(versions=("plain", "spoilt"))
    monkeypatch.setattr(trial, "_READY_SECONDS", 15.0)
    passage = world.session.passage(world.started("2"))
    with (
        pytest.raises(NotReadyInTime, match=r"Version 2 of .* cannot be loaded"),
        trial_gateway(passage) as gateway,
    ):
        gateway.serve("2")


OWNER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tests import declared
from understudy.lifecycle.trial import trial_gateway
run, settings = SimpleNamespace(model=declared.MODEL), SimpleNamespace(mlflow_uri="http://127.0.0.1:9")
passage = SimpleNamespace(run=run, experiment=declared.experiment(), session=SimpleNamespace(settings=settings))
with trial_gateway(passage) as gateway:
    print(gateway._process.pid, gateway._flags.parent, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_worker_is_killed(repo: Path, number: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(repo / "plugins"), str(repo)])}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=env)
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    gateway = psutil.Process(int(pid))
    wait_until((Path(folder) / "gateway.log").exists, "the gateway's start")
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not gateway.is_running(), "the end of the gateway")
    wait_until(lambda: not Path(folder).exists(), "the removal of its folder")
