"""A rollback that is killed with SIGKILL after any of its steps, with a real MLflow server and gateway, and asked for again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.conftest import Models, World, build_world
from tests.rollback.ways import back, entries, serves
from tests.servers import RunningGateway, start_gateway, wait_until
from understudy import gateways
from understudy.rollback import progress
from understudy.rollback.recipes import named
from understudy.store import exposures, ledger

STEPS = named("model_regression").steps


@pytest.fixture(scope="module")
def site(
    models: Models, datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, RunningGateway]]:
    """An installation on the real clock whose gateway is up; version 1 has a rollback point."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        world = build_world(models, datasets, folder, patch, "killed")
        world.store.clock = time.time
        world.declare(consumers=[{"name": "billing", "contact": "#billing"}])
        back_to_rest(world)
        with start_gateway(
            world.settings.home, world.model, models.uri, world.settings.experiments
        ) as gateway:
            patch.setenv("UNDERSTUDY_GATEWAY_URLS", gateway.url)
            world.session.settings = replace(world.settings, gateway_urls=(gateway.url,))
            yield world, gateway


def back_to_rest(world: World) -> None:
    """Begin a run, so that a rollback point is taken, and take it back."""
    world.started("2")
    back(world, key="rest")


def promoted(world: World) -> int:
    """Make version 2 the champion everywhere, and return the number of the entry that says so."""
    world.client.set_registered_model_alias(world.model, "champion", "2")
    with world.store.write() as connection:
        now = world.store.clock()
        served = exposures.set_champion(connection, world.model, "2", at=now)
        body = {"champion": "2", "before": "1", "generation": served.generation, "lease_before": 0}
        entry = ledger.append(
            connection, at=now, actor="a test", action="champion.promoted", model=world.model, reason="r", body=body
        )  # fmt: skip
    exposures.publish_flags(world.store, world.settings)
    gateways.wait_until_followed(world.session.settings.gateway_urls, served)
    return entry.seq


def since(world: World, seq: int, *actions: str) -> list[ledger.Entry]:
    return [entry for entry in entries(world, *actions) if entry.seq > seq]


def ended_once(world: World, gateway: RunningGateway, seq: int) -> None:
    assert serves(world, "1")
    assert (gateway.status()["champion"], gateway.status()["exposed"]) == ("1", False)
    for action in ("rollback.started", "rollback.finished", "consumers.listed", "consumer.notified"):
        assert len(since(world, seq, action)) == 1, action
    steps = [entry.body["step"] for entry in since(world, seq, "rollback.step")]
    assert set(steps) == set(STEPS)
    assert len(since(world, seq, "champion.restored")) == 1
    assert "rollback.started" in world.actions(), "and the chain verifies"


def killed_after(world: World, step: str, key: str) -> int:
    """Carry a rollback out in a forked process that kills itself once a step is in the record; return how it ended."""
    world.store.close()  # connections must not be shared
    child = os.fork()
    if child == 0:
        real = progress.note_step

        def note_and_die(*arguments: Any) -> None:
            real(*arguments)
            if arguments[3] == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(progress, "note_step", note_and_die)
                back(world, key=key)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return -os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("step", STEPS)
def test_killed_after_a_step_and_asked_again_it_is_one_rollback(
    site: tuple[World, RunningGateway], step: str
) -> None:
    world, gateway = site
    seq = promoted(world)
    assert killed_after(world, step, f"killed-{step}") == signal.SIGKILL
    noted = [entry.body["step"] for entry in since(world, seq, "rollback.step")]
    assert noted == list(STEPS[: STEPS.index(step) + 1])
    assert since(world, seq, "rollback.finished") == []
    back(world, key=f"again-{step}")
    ended_once(world, gateway, seq)


def command(world: World) -> subprocess.Popen[str]:
    arguments = ["rollback", world.model, "--reason", "it hurts", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "understudy.cli", *arguments],
        cwd=world.settings.home,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_command_itself_killed_in_the_middle_and_run_again(site: tuple[World, RunningGateway]) -> None:
    world, gateway = site
    seq = promoted(world)
    first = command(world)
    try:
        wait_until(lambda: since(world, seq, "rollback.step"), "the first step of the command", 120)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = command(world)
    told, _ = second.communicate(timeout=240)
    assert second.returncode == 0
    assert json.loads(told)["target"] == "1"
    ended_once(world, gateway, seq)
