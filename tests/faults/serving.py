"""What happens to the gateway around its champion: swaps, changed files, slow clients, its own death, a full disk."""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

from tests.faults.load import Load
from tests.faults.stage import UNITS, Found, Stage, lost, settled, times
from tests.gateway.conftest import logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.events.reader import EventLog

__all__ = [
    "changed_files",
    "full_disk",
    "full_file_system",
    "killed_gateway",
    "limited_file_size",
    "slow_clients",
    "swaps",
]


def swaps(stage: Stage, seconds: float, *, rate: float = 100.0) -> Found:
    """Change the champion again and again under load.

    Args:
        stage: The gateway.
        seconds: How long.
        rate: Requests a second.
    """
    good, better = stage.registered.good, stage.registered.better
    stage.publish(champion=better)
    stage.learn(better)
    stage.publish()
    done = 0
    with stage.load(UNITS, rate) as load:
        quiet = settled(load, min(seconds, 5.0))
        since = time.monotonic()
        while time.monotonic() - since < seconds or done % 2:
            stage.publish(champion=good if done % 2 else better)
            done += 1
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=stage.wrong(load.answers, good, better),
        quiet=times(quiet),
        troubled=times(load.since(since)),
        notes=f"{done} swaps",
    )


def changed_files(stage: Stage, version: str, seconds: float, *, rate: float = 100.0) -> Found:
    """Publish a version whose files changed after its digest was recorded, as challenger and then as champion.

    Args:
        stage: The gateway.
        version: That version; its files load, and answer otherwise than any other.
        seconds: How long it is published in each place.
        rate: Requests a second.
    """
    stage.publish()
    with stage.load(UNITS, rate) as load:
        quiet = settled(load, seconds)
        since = time.monotonic()
        stage.publish(challenger=version, percent=50.0)
        as_challenger = str(stage.gateway.status()["challenger_error"])
        time.sleep(seconds)
        wanted = stage.publish(wait=False, champion=version)
        told = wait_until(lambda: _refusal(stage), "the refusal")
        time.sleep(seconds)
        troubled = load.since(since)
        shown = stage.gateway.status()
        stage.publish(generation=wanted.generation + 1)
    named = "FilesChanged: The files of delay version" in as_challenger and "FilesChanged" in told
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=stage.wrong(load.answers, stage.champion) + (not named) + (shown["champion"] != stage.champion),
        quiet=times(quiet),
        troubled=times(troubled),
        notes="refused with FilesChanged as challenger and as champion; the champion before it goes on",
    )


def _refusal(stage: Stage) -> str:
    waiting = str(stage.gateway.status()["waiting_for"])
    return waiting if "cannot be loaded" in waiting else ""


def killed_gateway(
    start: Callable[[], AbstractContextManager[RunningGateway]],
    seconds: float,
    rounds: int,
    *,
    rate: float = 200.0,
) -> Found:
    """Kill a gateway in the middle of its work and start it again, and look for what it had acknowledged.

    Args:
        start: Starts a gateway on the same home each time.
        seconds: How long each of them may serve at most; the moment is drawn at random.
        rounds: How often it is killed.
        rate: Requests a second.
    """
    acknowledged: set[str] = set()
    requests = torn = 0
    moments = random.Random(4)
    for _ in range(rounds):
        with start() as gateway:
            with Load(gateway.url, UNITS, rate, threads=4) as load:
                time.sleep(moments.uniform(0.1, 1.0) * seconds)
                gateway.process.send_signal(signal.SIGKILL)
                gateway.process.wait()
            answered = {answer.request_id for answer in load.answers if answer.status == 200}
            requests += len(answered)
            acknowledged |= answered
            # What a power cut does: the last line of the segment that was being written stays unfinished.
            segment = max(
                (gateway.events / "requests").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns
            )
            with segment.open("ab") as stream:
                torn += stream.write(b'{"request_id":"torn') > 0
    with start() as gateway:
        assert gateway.client.post("/invocations", json=split([row(1)])).status_code == 200
    state = EventLog(gateway.events).refresh()
    found = {
        json.loads(line)["request_id"]
        for path in (gateway.events / "requests").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if line.endswith("}")
    }
    return Found(
        requests=requests,
        lost=len(acknowledged - found),
        wrong=abs(state.torn_lines - torn) + state.invalid_lines,
        notes=f"killed {rounds} times; {state.torn_lines} torn lines cut and counted, none of them acknowledged",
    )


def full_disk(
    stage: Stage,
    seconds: float,
    full: Callable[[Stage], AbstractContextManager[None]],
    *,
    rate: float = 100.0,
) -> Found:
    """Take the space for events away under load and give it back.

    Args:
        stage: The gateway.
        seconds: How long there is none.
        full: Takes the space away until it is left.
        rate: Requests a second.
    """
    stage.publish(challenger=stage.moody, percent=50.0)
    with stage.load(UNITS, rate) as load:
        load.wait_for(lambda answer: answer.version == stage.moody, 60)
        with full(stage):
            load.wait_for(lambda answer: answer.arm == "unexposed", 30)
            since = time.monotonic()
            time.sleep(seconds)
            during = load.since(since, time.monotonic())
            status, writable = stage.gateway.status(), stage.metric("understudy_event_log_writable")
        back = load.wait_for(lambda answer: answer.version == stage.moody, 60)
    champions = [answer for answer in load.answers if answer.version != stage.moody]
    told = stage.gateway.log.read_text()
    assert status["events"]["error"]
    assert status["events"]["failed"] > 0
    assert (writable, stage.metric("understudy_event_log_writable")) == (0.0, 1.0)
    # Every answer by which somebody was exposed is in the log, so that its harm can be seen.
    exposed = {answer.request_id for answer in load.answers if answer.version == stage.moody}
    unseen = exposed - {event["request_id"] for event in logged(stage.gateway)}
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=len(unseen)
        + sum(answer.arm != "unexposed" for answer in during)
        + stage.wrong(champions, stage.champion),
        notes=f"{len(during)} requests without a log, all answered by the champion; {told.count('serving the champion only')} "
        f"alarm; exposed again {back:.1f} s after there was space",
    )


@contextmanager
def limited_file_size(stage: Stage) -> Iterator[None]:
    """Make every further write to a file of the gateway fail, as a full disk would."""
    limits = resource.prlimit(stage.gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(stage.gateway.process.pid, resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(stage.gateway.process.pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def full_file_system(stage: Stage) -> Iterator[None]:
    """Fill the file system that the event log lies on; it must be a small one of its own."""
    ballast = stage.gateway.home / "events" / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
    try:
        yield
    finally:
        ballast.unlink()


def slow_clients(stage: Stage, seconds: float, clients: int, *, rate: float = 100.0) -> Found:
    """Let many clients send their requests a byte at a time while others go on as usual.

    Args:
        stage: The gateway.
        seconds: How long, and for how long it is quiet before.
        clients: How many of them.
        rate: Requests a second of the others.
    """
    stage.publish()
    parts = urlsplit(stage.gateway.url)
    body = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with stage.load(UNITS, rate) as load:
        quiet = settled(load, seconds)
        with ExitStack() as stack:
            slow = [
                stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
                for _ in range(clients)
            ]
            for connection in slow:
                connection.sendall(body)
            since, ends = time.monotonic(), time.monotonic() + seconds
            while time.monotonic() < ends:
                for connection in slow:
                    with suppress(OSError):  # the gateway may have had enough of it
                        connection.send(b" ")
                time.sleep(0.1)
            troubled = load.since(since)
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=stage.wrong(load.answers, stage.champion),
        quiet=times(quiet),
        troubled=times(troubled),
        notes=f"{clients} clients that send a byte every 0.1 s",
    )
