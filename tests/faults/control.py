"""What happens to the exposure when its document changes, cannot be followed, or is not renewed any more."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.faults.load import Load
from tests.faults.stage import Found, Stage, lost
from tests.gateway.conftest import MODEL
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure, publish, read_flag

__all__ = ["bad_documents", "flips_to_zero", "lost_control_plane"]


def flips_to_zero(
    stage: Stage,
    others: Sequence[RunningGateway],
    flips: int,
    *,
    rate: float = 400.0,
    within: float = math.inf,
) -> Found:
    """Take exposure back again and again, and measure how long any gateway goes on exposing.

    Args:
        stage: A gateway.
        others: More gateways that follow the same document.
        flips: How often.
        rate: Requests a second to each gateway; their distance is how exactly the time is known.
        within: Seconds after which an exposed answer is wrong; nothing where only the times are of interest.
    """
    gateways = [stage.gateway, *others]
    seconds: list[float] = []
    in_place: list[float] = []
    exposed = stage.exposed
    with ExitStack() as stack:
        loads = [
            stack.enter_context(Stage(gateway, stage.registered, stage.moody, stage.mood).load(exposed, rate))
            for gateway in gateways
        ]
        for _ in range(flips):
            exposure = stage.publish(challenger=stage.moody, percent=50.0)
            for gateway, load in zip(gateways, loads, strict=True):
                gateway.wait_for_generation(exposure.generation, 120)
                load.wait_for(lambda answer: answer.version == stage.moody, 60)
            exposure = Exposure(MODEL, exposure.generation + 1, stage.champion, stage.moody)
            since = time.monotonic()
            publish(stage.gateway.home / "flags.json", [exposure])
            in_place.append(time.monotonic() - since)
            for gateway, load in zip(gateways, loads, strict=True):
                gateway.wait_for_generation(exposure.generation, 30)
                load.wait_for(lambda answer: answer.version == stage.champion, 30)
            last = max(
                (
                    answer.sent_at
                    for load in loads
                    for answer in load.since(since)
                    if answer.version == stage.moody
                ),
                default=since,
            )
            seconds.append(last - since)
    everything = [answer for load in loads for answer in load.answers]
    slowest = seconds.index(max(seconds))
    late = sum(one > within for one in seconds)
    ordered = [1000 * one for one in sorted(seconds)]
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    measured = {f"{name}_ms": ordered[min(flips - 1, int(share * flips))] for name, share in shares.items()}
    measured["publishing_the_slowest_ms"] = 1000 * in_place[slowest]
    shown = ", ".join(f"{measured[f'{name}_ms']:.0f} ({name})" for name in shares)
    return Found(
        requests=len(everything),
        lost=lost(everything),
        wrong=late + stage.wrong([one for one in everything if one.version != stage.moody], stage.champion),
        measured=measured,
        notes=f"{len(gateways)} gateways, {flips} flips; ms from the call that publishes to the last request that any of them "
        f"exposed: {shown}; publishing the slowest of them took {1000 * in_place[slowest]:.0f} ms",
    )


def lost_control_plane(
    stage: Stage, others: Sequence[RunningGateway], seconds: float, lease: int, *, rate: float = 100.0
) -> Found:
    """Kill the process that renews the lease, and watch every gateway end the exposure with the lease.

    Args:
        stage: A gateway.
        others: More gateways that follow the same document.
        seconds: How long the lease is renewed before.
        lease: Seconds of each renewal.
        rate: Requests a second to each gateway.
    """
    # Loaded first, or the lease might be over before the challenger answers.
    generation = stage.publish(challenger=stage.moody).generation + 1
    gateways = [stage.gateway, *others]
    for gateway in others:
        gateway.wait_for_generation(generation - 1, 120)
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(one.url, stage.exposed, rate, 4)) for one in gateways]
        with _renewing(stage, generation, lease) as renewing:
            for load in loads:
                load.wait_for(lambda answer: answer.version == stage.moody, 60)
            time.sleep(seconds)
            renewing.kill()
            renewing.wait()
        document = read_flag(stage.gateway.home / "flags.json", MODEL)
        assert document is not None
        ends = time.monotonic() + (document.lease_expires_at or 0) - time.time()
        for load in loads:
            load.wait_for(lambda answer: answer.arm == "unexposed", lease + 30)
        time.sleep(1)
    answers = [answer for load in loads for answer in load.answers]
    exposed = [answer.sent_at for answer in answers if answer.version == stage.moody]
    assert {gateway.status()["generation"] for gateway in gateways} == {generation}
    return Found(
        requests=len(answers),
        lost=lost(answers),
        wrong=sum(sent_at > ends for sent_at in exposed)
        + stage.wrong([one for one in answers if one.version != stage.moody], stage.champion),
        measured={"last_exposed_s": max(exposed) - ends},
        notes=f"{len(gateways)} gateways; the last exposed request of any came {max(exposed) - ends:+.2f} s from the end of "
        "the lease",
    )


@contextmanager
def _renewing(stage: Stage, generation: int, lease: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that exposes half of the units and renews the lease every second."""
    script = """
import sys, time
from pathlib import Path
from understudy.exposure import Exposure, publish
path, model, champion, challenger, generation, lease = sys.argv[1:]
while True:
    ends = int(time.time()) + int(lease)
    exposure = Exposure(model, int(generation), champion, challenger, "delay_test-v2-1", 1, 50.0, ends)
    publish(Path(path), [exposure])
    time.sleep(1)
"""
    told = [stage.gateway.home / "flags.json", MODEL, stage.champion, stage.moody, generation, lease]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, told)], env=environment)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def bad_documents(stage: Stage, seconds: float, *, rate: float = 100.0) -> Found:
    """Put documents that must not be followed in the place of one that exposes half, and of one that exposes nobody.

    Args:
        stage: The gateway.
        seconds: How long each document lies there.
        rate: Requests a second, half of them for units that only a larger exposure would expose.
    """
    path = stage.gateway.home / "flags.json"
    stage.publish(challenger=stage.moody, percent=50.0)
    refusals: list[str] = []
    with stage.load(stage.shielded, rate / 2) as shielded, stage.load(stage.exposed, rate / 2) as exposed:
        exposed.wait_for(lambda answer: answer.version == stage.moody, 120)
        for percent in (50.0, 0.0):
            newest = stage.publish(challenger=stage.moody, percent=percent)
            withdrawn = time.monotonic()
            for spoil in _SPOILED.values():
                spoil(path, newest)
                refusals.append(wait_until(lambda: stage.gateway.status()["document_error"], "a refusal"))
                time.sleep(seconds)
                if path.is_dir():
                    path.rmdir()
                publish(path, [newest])
                wait_until(
                    lambda: not stage.gateway.status()["document_error"], "the document to be followed"
                )
    raised = [answer for answer in exposed.since(withdrawn) if answer.version == stage.moody]
    everything = shielded.answers + exposed.answers
    by_champion = [answer for answer in exposed.answers if answer.version != stage.moody]
    return Found(
        requests=len(everything),
        lost=lost(everything),
        wrong=len(raised) + stage.wrong(shielded.answers + by_champion, stage.champion),
        notes=f"{len(refusals)} documents refused and named in /status: {', '.join(_SPOILED)}; each over 50 % and over 0 %",
    )


def _greedy(newest: Exposure, generation: int) -> Exposure:
    """Return the exposure that a bad document asks for: everybody, for long."""
    return replace(
        newest,
        generation=generation,
        run_id="delay_test-v2-1",
        stage=1,
        percent=100.0,
        lease_expires_at=int(time.time()) + 7200,
    )


def _torn(path: Path, newest: Exposure) -> None:
    publish(path, [_greedy(newest, newest.generation + 1)])
    path.write_bytes(path.read_bytes()[:-40])


def _unreadable(path: Path, newest: Exposure) -> None:
    path.unlink()
    path.mkdir()


_SPOILED: dict[str, Callable[[Path, Exposure], object]] = {
    "a lower generation": lambda path, newest: publish(path, [_greedy(newest, newest.generation - 1)]),
    "the same generation with more": lambda path, newest: publish(path, [_greedy(newest, newest.generation)]),
    "torn": _torn,
    "empty": lambda path, newest: path.write_bytes(b""),
    "no JSON": lambda path, newest: path.write_bytes(b"\x00\xff" * 500),
    "another model's": lambda path, newest: publish(
        path, [replace(_greedy(newest, newest.generation + 1), model="other")]
    ),
    "unreadable": _unreadable,
    "gone": lambda path, newest: path.unlink(),
}
"""Documents that may not raise exposure, and how they come about."""
