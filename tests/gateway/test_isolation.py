"""The challenger's process from the gateway's side: what it may use, how it ends, and what its end costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gateway.conftest import MODEL, Registered, row, split
from understudy.gateway.channel import Tally
from understudy.gateway.config import TrafficColumns
from understudy.gateway.frames import Body, Copy
from understudy.gateway.host import Host, HostSettings
from understudy.gateway.workers import Workers

TRAFFIC = TrafficColumns("tailnum", "event_id", "event_time", frozenset({"tailnum", "pilot"}), ("origin",))
BODY = Body(json.dumps(split([row(1), row(2)])).encode(), "application/json")
GOOD = "good"


@pytest.fixture
def settings(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path
) -> HostSettings:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.uri)
    monkeypatch.setenv("PYTHONPATH", str(repo / "plugins"))
    return HostSettings(MODEL, TRAFFIC, tmp_path / "events", memory=4 << 30, most_copies=8, first_pause=0.05)


@pytest.fixture
def mood(moody: tuple[str, Path]) -> Iterator[Path]:
    moody[1].write_text(GOOD)
    yield moody[1]
    moody[1].write_text(GOOD)


@asynccontextmanager
async def hosting(
    version: str, settings: HostSettings, digests: dict[str, str] | None = None
) -> AsyncIterator[tuple[Host, Tally]]:
    tally, launcher = Tally(), Workers("launch", threads=1)
    host = Host(version, settings, {} if digests is None else digests, tally, launcher)
    try:
        await until(lambda: host.decided, "the first load")
        yield host, tally
    finally:
        host.retire(0.0)
        await host.ended()
        launcher.close()


async def until(reached: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := reached():
            return value
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 120)

    asyncio.run(bounded())


def copy_of(number: int) -> Copy:
    return Copy(f"request-{number}", None, 1.0, "run", BODY, [1], [f"event-{number}"], [2.0])


def test_it_answers_the_rows_it_is_asked_about(settings: HostSettings, registered: Registered) -> None:
    async def test() -> None:
        async with hosting(registered.better, settings) as (host, _):
            assert (host.ready, host.trouble, host.starts) == (True, None, 1)
            whole = await host.ask(BODY, None, 10.0)
            second = await host.ask(BODY, [1], 10.0)
            assert whole.error is None
            assert whole.answers is not None
            assert len(whole.answers) == 2
            assert second.answers == whole.answers[1:]
            assert whole.cpu_ms > 0
            assert whole.seconds > 0

    run(test)


def test_its_process_is_the_first_to_go_and_shares_nothing_but_one_socket(
    settings: HostSettings, registered: Registered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERSTUDY_PSEUDONYM_KEY", "nobody else's business")
    secret = (tmp_path / "secret").open("w")
    os.set_inheritable(secret.fileno(), True)

    async def test() -> None:
        async with hosting(registered.better, settings) as (host, _):
            assert host.pid is not None
            process = psutil.Process(host.pid)
            assert Path(f"/proc/{host.pid}/oom_score_adj").read_text().strip() == "1000"
            assert process.rlimit(psutil.RLIMIT_DATA) == (4 << 30, 4 << 30)
            assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
            assert os.getpgid(host.pid) == host.pid
            assert "UNDERSTUDY_PSEUDONYM_KEY" not in process.environ()
            links = Path(f"/proc/{host.pid}/fd")
            assert {str((links / number).readlink()) for number in "012"} == {"/dev/null"}
            assert str(tmp_path / "secret") not in {file.path for file in process.open_files()}
            # The mirror scores at the lowest priority, those that somebody waits for above it, all below the gateway.
            await until(lambda: sorted(priorities(process))[-1] == 19, "the mirror's priority")
            assert sorted(priorities(process))[0] == 5

    run(test)
    secret.close()


def priorities(process: psutil.Process) -> list[int]:
    return [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()]


@pytest.mark.parametrize("mood_now", ["hangs", "holds the interpreter"])
def test_a_process_that_hangs_is_killed_and_the_next_one_answers(
    settings: HostSettings, moody: tuple[str, Path], mood: Path, mood_now: str
) -> None:
    async def test() -> None:
        async with hosting(moody[0], replace(settings, hung_seconds=0.5)) as (host, _):
            mood.write_text(mood_now)
            began = time.monotonic()
            answers = await asyncio.gather(*(host.ask(BODY, None, 0.2) for _ in range(4)))
            assert {answer.error for answer in answers} == {"Timeout: no answer within 0.2 s"}
            assert time.monotonic() - began < 10  # neither of them ever answers
            mood.write_text(GOOD)
            await until(lambda: not host.ready, "the end of the process")
            assert "hung for 0.5 s and was killed" in (host.trouble or "")
            assert str((await host.ask(BODY, None, 0.2)).error).startswith("Down: Version")
            await until(lambda: host.ready, "the next process")
            assert (await host.ask(BODY, None, 10.0)).error is None
            assert host.starts == 2

    run(test)


def test_a_version_that_hangs_at_load_is_given_up_and_tried_again(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    mood.write_text("hangs at load")

    async def test() -> None:
        async with hosting(moody[0], replace(settings, load_seconds=6.0)) as (host, _):
            assert "cannot be loaded: it took longer than 6 s" in (host.trouble or "")
            assert (await host.ask(BODY, None, 10.0)).error == f"Down: {host.trouble}"
            mood.write_text(GOOD)
            await until(lambda: host.ready, "the next process")

    run(test)


def test_a_process_that_ends_fails_its_calls_at_once_and_is_started_again_after_pauses_that_grow(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, _):
            for exits, pause in ((1, "0.05"), (2, "0.1")):
                mood.write_text("hangs")
                waiting = [host.ask(BODY, None, 60.0) for _ in range(3)]
                await asyncio.sleep(0)
                os.kill(host.pid or 0, signal.SIGKILL)
                ends = [await one for one in waiting]
                assert {end.error for end in ends} == {
                    "ProcessEnded: the challenger's process ended while it was asked"
                }
                mood.write_text(GOOD)
                await until(
                    lambda: (
                        f"ended with signal 9. It is started again after {pause} s"  # noqa: B023
                        in (host.trouble or "")
                    ),
                    "the notice",
                )
                await until(lambda: host.ready, "the next process")
                assert host.starts == exits + 1

    run(test)


def test_a_process_is_started_again_without_the_registry(
    settings: HostSettings, moody: tuple[str, Path], mood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, _):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            os.kill(host.pid or 0, signal.SIGKILL)
            await until(lambda: not host.ready, "the end of the process")
            await until(lambda: host.ready, "the next process")

    run(test)


def test_files_that_changed_since_they_were_first_seen_are_refused(
    settings: HostSettings, registered: Registered
) -> None:
    digests = {registered.better: "f" * 64}

    async def test() -> None:
        async with hosting(registered.better, settings, digests) as (host, _):
            assert "FilesChanged: The files of delay version" in (host.trouble or "")
            assert host.ready is False

    run(test)
    assert digests == {registered.better: "f" * 64}


def test_files_that_are_not_those_that_the_registry_recorded_are_refused(
    settings: HostSettings, registered: Registered
) -> None:
    import mlflow

    client = mlflow.MlflowClient(registered.uri)
    client.set_model_version_tag(MODEL, registered.better, "understudy.digest", "e" * 64)

    async def refused() -> None:
        async with hosting(registered.better, settings) as (host, _):
            assert "but the registry's tag understudy.digest has eeeeeeeeeeee" in (host.trouble or "")

    try:
        run(refused)
    finally:
        client.delete_model_version_tag(MODEL, registered.better, "understudy.digest")


def test_calls_are_bounded_and_more_are_refused_at_once(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, _):
            mood.write_text("hangs")
            waiting = [host.ask(BODY, None, 60.0) for _ in range(64)]
            refused = host.ask(BODY, None, 60.0)
            assert refused.done()
            assert refused.result().error == "TooBusy: 64 calls are already waiting"
            assert not any(one.done() for one in waiting)

    run(test)


def test_copies_beyond_what_may_wait_are_dropped_and_so_are_those_of_a_process_that_ends(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, tally):
            mood.write_text("hangs")
            for number in range(10):
                host.rehearse(copy_of(number))
            assert (tally.waiting, tally.dropped) == (8, 2)
            # Somebody who waits for an answer gets it while the mirror hangs.
            mood.write_text(GOOD)
            assert (await host.ask(BODY, None, 10.0)).error is None
            os.kill(host.pid or 0, signal.SIGKILL)
            await until(lambda: not host.ready, "the end of the process")
            assert tally.waiting == 0
            assert tally.dropped + tally.written == 10
            host.rehearse(copy_of(10))
            assert tally.dropped + tally.written == 11

    run(test)


def test_the_mirror_logs_what_the_challenger_said_and_what_went_wrong(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, tally):
            for number, mood_now in enumerate((GOOD, "raises", "answers NaN", "answers too often")):
                mood.write_text(mood_now)
                host.rehearse(copy_of(number))
                await until(lambda: tally.written == number + 1, "the mirrored event")  # noqa: B023

    run(test)
    lines = [
        json.loads(line)
        for path in (settings.events_dir / MODEL / "mirrors").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [line["event_id"] for line in lines] == [f"event-{number}" for number in range(4)]
    assert [line["prediction"] for line in lines] == [0.5, None, None, None]
    assert [str(line["error"]).partition(":")[0] for line in lines] == [
        "None",
        "ValueError",
        "NotFinite",
        "WrongShape",
    ]
    assert {(line["version"], line["event_time"], line["received_at"]) for line in lines} == {
        (moody[0], 2.0, 1.0)
    }


def test_what_is_under_way_when_a_version_is_no_longer_wanted_is_still_answered(
    settings: HostSettings, moody: tuple[str, Path], mood: Path
) -> None:
    async def test() -> None:
        async with hosting(moody[0], settings) as (host, tally):
            mood.write_text("lingers")
            pid = host.pid or 0
            asked = [host.ask(BODY, None, 10.0) for _ in range(4)]
            host.rehearse(copy_of(1))
            host.retire(0.0)
            assert {(await one).error for one in asked} == {None}
            await host.ended()
            assert tally.written == 1
            assert not psutil.pid_exists(pid)

    run(test)


def test_the_files_of_a_version_go_with_its_host(
    settings: HostSettings, registered: Registered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tempfile

    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    async def test() -> None:
        async with hosting(registered.better, settings):
            assert len(list(folder.glob("understudy-challenger-*"))) == 1

    run(test)
    assert list(folder.glob("understudy-challenger-*")) == []


def test_a_killed_gateway_takes_its_challenger_along(
    gateway_with: Callable[..., Any], registered: Registered, moody: tuple[str, Path], mood: Path
) -> None:
    from understudy.exposure import Exposure, publish

    with gateway_with() as running:
        exposure = Exposure(MODEL, 1, registered.good, moody[0], mirror=True)
        publish(running.home / "flags.json", [exposure])
        running.wait_for_generation(1)
        # One that hangs and holds on to its interpreter does not notice that nobody is there any more.
        mood.write_text("holds the interpreter")
        running.client.post("/invocations", json=split([row(1)]))
        (child,) = psutil.Process(running.process.pid).children()
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_hosts_leave_no_threads_behind(settings: HostSettings, registered: Registered) -> None:
    before = threading.active_count()

    async def test() -> None:
        async with hosting(registered.better, settings) as (host, _):
            await host.ask(BODY, None, 10.0)

    run(test)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
