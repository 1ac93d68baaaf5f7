"""Every fault for about a minute under load: `make faults`. Nothing may be lost; the times go into docs/faults.md."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import challenger, control, serving
from tests.faults.conftest import Note
from tests.faults.stage import GOOD, Stage, start_stage
from tests.gateway.conftest import MODEL, Registered
from tests.servers import RunningGateway, start_gateway

pytestmark = pytest.mark.faults

SECONDS = 6.0
TURNS = 3
RATE = 200.0


@pytest.fixture(scope="module")
def stage(
    registered: Registered, moody: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    options = ("--challenger-timeout", "0.5", "--challenger-memory", "2048")
    with start_stage(tmp_path_factory.mktemp("stage"), registered, *moody, *options) as started:
        yield started


@pytest.mark.parametrize("mood", [GOOD, *challenger.TROUBLES])
def test_half_of_the_units_are_exposed_to_a_challenger_in_trouble(
    stage: Stage, note: Note, mood: str
) -> None:
    name = "nothing: a challenger in good health" if mood == GOOD else f"challenger {mood}"
    note(
        name,
        lambda: challenger.exposed_trouble(stage, mood, SECONDS, turns=TURNS, rate=RATE, recovery=180),
    )
    stage.publish()


@pytest.mark.parametrize("mood", [GOOD, "sleeps", "eats memory", "exits", "floods its output"])
def test_every_request_is_mirrored_to_a_challenger_in_trouble(stage: Stage, note: Note, mood: str) -> None:
    name = "mirror on a challenger in good health" if mood == GOOD else f"mirror on a challenger that {mood}"
    note(name, lambda: challenger.mirrored_trouble(stage, mood, SECONDS, turns=TURNS, rate=RATE))
    stage.publish()


def test_the_mirror_is_offered_more_than_it_can_hold(stage: Stage, note: Note) -> None:
    note("mirror queue overrun", lambda: challenger.mirror_overrun(stage, 2 * SECONDS))


def test_a_challenger_hangs_at_load(stage: Stage, note: Note) -> None:
    note("challenger hangs at load", lambda: challenger.hanging_load(stage, 3 * SECONDS, rate=RATE))


def test_champions_are_swapped(stage: Stage, note: Note) -> None:
    note("champion swapped again and again", lambda: serving.swaps(stage, 6 * SECONDS, rate=RATE))


def test_files_of_a_version_changed(stage: Stage, note: Note, changed: str) -> None:
    note("model files changed on disk", lambda: serving.changed_files(stage, changed, 2 * SECONDS, rate=RATE))


def test_exposure_is_taken_back(stage: Stage, note: Note, registered: Registered) -> None:
    with _second_gateway(stage, registered) as other:
        note("exposure taken back", lambda: control.flips_to_zero(stage, [other], 200, within=1.0))


def test_the_control_plane_is_killed(stage: Stage, note: Note, registered: Registered) -> None:
    with _second_gateway(stage, registered) as other:
        note(
            "control plane killed",
            lambda: control.lost_control_plane(stage, [other], 4 * SECONDS, lease=15, rate=RATE),
        )


def test_the_document_is_bad(stage: Stage, note: Note) -> None:
    note("flag document stale, torn, unreadable, gone", lambda: control.bad_documents(stage, 3.0, rate=RATE))


def test_the_gateway_is_killed(note: Note, gateway_with: Callable[..., Any], tmp_path: Path) -> None:
    note(
        "gateway killed",
        lambda: serving.killed_gateway(lambda: gateway_with(home=tmp_path, forked=False), 5.0, 15),
    )


def test_the_disk_is_full(
    note: Note, registered: Registered, moody: tuple[str, Path], tmp_path: Path
) -> None:
    with (
        _small_file_system(tmp_path / "home" / "events") as small,
        start_stage(tmp_path, registered, *moody) as started,
    ):
        full = serving.full_file_system if small else serving.limited_file_size
        name = "file system of the event log full" if small else "writing the event log fails"
        note(name, lambda: serving.full_disk(started, 3 * SECONDS, full, rate=RATE))


def test_clients_are_slow(stage: Stage, note: Note) -> None:
    note("slow clients", lambda: serving.slow_clients(stage, 3 * SECONDS, 500, rate=RATE))


def _second_gateway(stage: Stage, registered: Registered) -> AbstractContextManager[RunningGateway]:
    home = stage.gateway.home
    return start_gateway(home, MODEL, registered.uri, home.parent / "experiments", forked=False)


@contextmanager
def _small_file_system(folder: Path) -> Iterator[bool]:
    """Mount a file system of 16 MB on a folder and tell whether that was allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
