"""Load by wrk, with what it costs the server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.performance.series import Round

# Bodies come from a file, one a line. A connection waits for an answer, then for the pause, then asks again.
_SCRIPT = """
local requests, turn = {}, 0
function init(arguments)
  local headers = {["Content-Type"] = "application/json"}
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", arguments[2], headers, body)
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
-- pause
function done(summary, latency, requests)
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '\\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, summary.errors.status + lost))
end
"""


def missing() -> str | None:
    """Return why no load can be made, or nothing."""
    return None if shutil.which("wrk") else "wrk is not installed; the Debian package is called wrk"


def write_bodies(path: Path, bodies: Sequence[bytes]) -> Path:
    """Write requests as `drive` wants them."""
    path.write_bytes(b"\n".join(bodies))
    return path


def start(
    url: str, bodies: Path, connections: int, seconds: float, pause_ms: int = 0, path: str = "/invocations"
) -> subprocess.Popen[str]:
    """Start to ask.

    Args:
        url: The server.
        bodies: File with the requests, which are sent in turn.
        connections: How many wait for an answer at once, all kept open.
        seconds: For how long.
        pause_ms: How long each of them rests before it asks again.
        path: Where it answers.
    """
    script = bodies.with_suffix(f".{pause_ms}.lua")
    script.write_text(
        _SCRIPT.replace("-- pause", f"function delay() return {pause_ms} end" if pause_ms else "")
    )
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
    ]
    return subprocess.Popen([*command, url, str(bodies), path], stdout=subprocess.PIPE, text=True)


def ended(asking: subprocess.Popen[str]) -> dict[str, float]:
    """Wait until all is asked and return what wrk counted."""
    told, _ = asking.communicate()
    if asking.returncode:
        raise RuntimeError(f"wrk ended with {asking.returncode}: {told}")
    counted: dict[str, float] = json.loads(told.splitlines()[-1])
    return counted


def drive(
    url: str,
    pids: Sequence[int],
    bodies: Path,
    connections: int,
    seconds: float,
    pause_ms: int = 0,
    path: str = "/invocations",
) -> Round:
    """Ask for some seconds and return what came of it; see `start`.

    Args:
        pids: The server's processes, whose CPU time is counted.
    """
    before = cpu_seconds(pids)
    counted = ended(start(url, bodies, connections, seconds, pause_ms, path))
    return as_round(counted, cpu_seconds(pids) - before)


def as_round(counted: dict[str, float], spent: float) -> Round:
    """Return what wrk counted, with the CPU seconds that the server spent meanwhile."""
    return Round(
        rate=round(counted["requests"] / counted["seconds"], 1),
        p50_ms=round(counted["p50_ms"], 4),
        p99_ms=round(counted["p99_ms"], 4),
        cpu_us=round(spent / max(1, counted["requests"]) * 1e6, 2),
        errors=int(counted["errors"]),
    )


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that processes have spent."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(found.user + found.system for found in times)


def memory_mb(pids: Sequence[int]) -> float:
    """Return the resident memory of processes, in MB."""
    return round(sum(psutil.Process(pid).memory_info().rss for pid in pids) / 1e6, 1)
