"""Sends hostile requests to a gateway and holds it to what must be true of any answer."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.gateway.conformance_answers import ask, code_of, excused
from tests.gateway.hostile import HOSTILE, MARKS, WIRES, Hostile, Wire, problem_with
from tests.servers import RunningGateway

__all__ = ["fuzz_bodies", "fuzz_both", "fuzz_wire", "memory", "serves", "spoken", "traces_of_private_values"]

GOOD = {"dataframe_records": [{"origin": "JFK", "distance": 200.5, "hour": 7}]}
_WAIT_SECONDS = 0.25


def fuzz_bodies(gateway: RunningGateway, examples: int, *, random: bool = False) -> Counter[str]:
    """Send hostile bodies to both endpoints that take one.

    Args:
        gateway: The gateway.
        examples: How many.
        random: Whether others are sent every time.

    Returns:
        How many answers there were, by path and status.
    """
    counts: Counter[str] = Counter()

    @_settings(examples, random)
    @given(HOSTILE, st.sampled_from(["/invocations"] * 9 + ["/outcomes"]))
    def ask(hostile: Hostile, path: str) -> None:
        answer = gateway.client.post(path, content=hostile.body, headers={"Content-Type": hostile.kind})
        counts[f"{path} {answer.status_code}"] += 1
        assert problem_with(answer) is None, problem_with(answer)
        if hostile.private:
            assert not [mark for mark in MARKS if mark in answer.text], answer.text

    ask()
    return counts


def fuzz_both(
    gateway: RunningGateway, theirs: httpx.Client, examples: int, *, random: bool = False
) -> Counter[str]:
    """Send the same hostile bodies to a gateway and to MLflow's own server, which must answer alike.

    Args:
        gateway: The gateway.
        theirs: A client of the other server, with the same model.
        examples: How many.
        random: Whether others are sent every time.

    Returns:
        How many answers there were, by status, and those that fell under an excuse.
    """
    counts: Counter[str] = Counter()

    @_settings(examples, random)
    @given(HOSTILE.filter(lambda hostile: not hostile.private))
    def compare(hostile: Hostile) -> None:
        our, their = (ask(client, hostile.body, hostile.kind) for client in (gateway.client, theirs))
        if their[0] == 500:  # it fails where the gateway refuses
            counts["theirs 500"] += 1
            assert 400 <= our[0] < 500, our
            return
        counts[str(their[0])] += 1
        their = excused(their)
        if our == their:
            return
        counts["excused"] += 1
        assert our[0] == their[0] == 400, (our, their)
        assert code_of(our) == code_of(their), (our, their)
        # Text without a name is not quoted, nor are bytes that are not UTF-8; and what is very long is cut.
        cut = len(their[2]) > len(our[2]) > 3_900
        assert cut or b"[private]" in our[2] or b"UnicodeDecodeError" in their[2], (our, their)

    compare()
    return counts


def fuzz_wire(gateway: RunningGateway, examples: int, *, random: bool = False) -> Counter[str]:
    """Send bytes that are nearly HTTP, in pieces.

    Args:
        gateway: The gateway.
        examples: How many connections.
        random: Whether other bytes are sent every time.

    Returns:
        How many answers there were, by status, and connections without one.
    """
    counts: Counter[str] = Counter()

    @_settings(examples, random)
    @given(WIRES)
    def talk(wire: Wire) -> None:
        said = spoken(gateway, *wire.pieces)
        statuses = [line.split()[1].decode() for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        counts.update(statuses or ["none"])
        assert not [status for status in statuses if status >= "500"], said
        assert b"Traceback" not in said

    talk()
    return counts


def spoken(gateway: RunningGateway, *pieces: bytes, wait: float = _WAIT_SECONDS) -> bytes:
    """Send some bytes and return what comes back until the gateway closes or is silent for a moment."""
    port = httpx.URL(gateway.url).port or 0
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.settimeout(wait)
            while part := connection.recv(65_536):
                said += part
        except OSError:  # closed on us, or silent
            pass
    return said


def serves(gateway: RunningGateway) -> list[Any]:
    """Return the answer to a good request."""
    answer = gateway.client.post("/invocations", json=GOOD)
    assert answer.status_code == 200, answer.text
    predictions: list[Any] = answer.json()["predictions"]
    return predictions


def memory(gateway: RunningGateway) -> float:
    """Return the memory of a gateway and the processes that it started, in MB."""
    process = psutil.Process(gateway.process.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


def traces_of_private_values(gateway: RunningGateway) -> list[str]:
    """Return where private values were written or are told; every line of the event log must be whole, too."""
    told = {path: gateway.client.get(path).content for path in ("/status", "/metrics", "/flags")}
    written = {str(path): path.read_bytes() for path in Path(gateway.home).rglob("*") if path.is_file()}
    for path, content in written.items():
        if path.endswith(".jsonl"):
            assert all(json.loads(line) for line in content.splitlines())
    return [
        f"{mark} in {where}"
        for where, content in {**told, **written}.items()
        for mark in MARKS
        if mark.encode() in content
    ]


def _settings(examples: int, random: bool) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not random,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
