"""Real processes, real signals: what is started here is gone afterwards, whatever happened in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from understudy.processes.keeper import Keeper, end_session, session_members
from understudy.processes.process import NotReadyInTime, Process, ProcessEnded

# A server as awkward as ours: it forks a child that has a child, and moves one of them to a process group of its own.
TREE = """
import os, sys, time
if os.fork() == 0:
    os.setpgid(0, 0)
    os.fork()
print("up", flush=True)
time.sleep(600)
"""
STUBBORN = "import signal\nfor number in (15, 2, 1): signal.signal(number, signal.SIG_IGN)\n" + TREE


def eventually(reached: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def python(code: str, folder: Path, *, keeper: Keeper | None = None, name: str = "Tree") -> Process:
    return Process(
        name,
        [sys.executable, "-c", code],
        env=dict(os.environ),
        log=folder / "log",
        cwd=folder,
        keeper=keeper,
    )


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_is_ready_when_the_probe_says_so(tmp_path: Path) -> None:
    with python(TREE, tmp_path) as process:
        process.wait_ready(lambda: "up" in process.tail(), 20)
        assert process.running


def test_stopping_ends_the_children_and_their_children_too(tmp_path: Path) -> None:
    process = python(TREE, tmp_path).start()
    assert eventually(lambda: len(process.members()) == 3)
    pids = process.members()
    process.stop()
    assert not any(lives(pid) for pid in pids)


def test_stopping_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = python(STUBBORN, tmp_path).start()
    assert eventually(lambda: process.tail().count("up") == 3)
    pids = process.members()
    process.stop(grace=0.2)
    assert len(pids) == 3
    assert not any(lives(pid) for pid in pids)


def test_stopping_twice_is_fine(tmp_path: Path) -> None:
    process = python(TREE, tmp_path).start()
    process.stop()
    process.stop()
    assert not process.running


def test_the_descendants_go_even_when_the_process_itself_was_killed(tmp_path: Path) -> None:
    process = python(TREE, tmp_path).start()
    assert eventually(lambda: len(process.members()) == 3)
    pids = process.members()
    os.kill(process.pid, signal.SIGKILL)
    assert eventually(lambda: not process.running)
    with pytest.raises(ProcessEnded, match="Tree ended with status -9"):
        process.check()
    assert any(lives(pid) for pid in pids)
    process.stop()
    assert not any(lives(pid) for pid in pids)


def test_a_process_that_ends_early_says_why_instead_of_using_up_the_deadline(tmp_path: Path) -> None:
    process = python("raise SystemExit('the port is taken')", tmp_path).start()
    with pytest.raises(ProcessEnded, match="the port is taken"):
        process.wait_ready(lambda: False, 60)
    process.stop()


def test_a_process_that_never_gets_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    with python(TREE, tmp_path) as process:
        assert eventually(lambda: "up" in process.tail())
        with pytest.raises(NotReadyInTime, match=r"(?s)not ready after 0\.1 s.*up"):
            process.wait_ready(lambda: False, 0.1)


def test_a_command_that_does_not_exist_leaves_nothing_behind(tmp_path: Path) -> None:
    process = Process("Nothing", ["no-such-command"], env={"PATH": ""}, log=tmp_path / "log", cwd=tmp_path)
    with pytest.raises(FileNotFoundError):
        process.start()
    process.stop()
    assert process.members() == []


def test_an_exception_inside_the_with_block_stops_the_process(tmp_path: Path) -> None:
    process = python(TREE, tmp_path)
    pids: list[int] = []

    def fail_inside() -> None:
        with process:
            pids.extend(process.members())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert pids
    assert not any(lives(pid) for pid in pids)


OWNER = """
import os, signal, sys, time
from pathlib import Path
from understudy.processes.process import Process
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
folder = Path(sys.argv[1])
process = Process("Tree", [sys.executable, "-c", sys.argv[2]], env=dict(os.environ), log=folder / "log", cwd=folder)
process.start()
process.wait_ready(lambda: process.tail().count("up") == 3, 20)
if len(sys.argv) > 3 and os.fork() == 0:
    time.sleep(600)   # a forked copy of the owner holds the keeper's pipe open
print(*process.members(), process._keeper.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_everything_ends_when_the_owner_dies_without_a_word(tmp_path: Path, number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), TREE], stdout=subprocess.PIPE, text=True
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 4
    assert all(lives(pid) for pid in pids)
    owner.send_signal(number)
    owner.wait(30)
    owner.stdout.close()
    assert eventually(lambda: not any(lives(pid) for pid in pids))


def test_an_owner_that_dies_at_once_leaves_nothing_either(tmp_path: Path) -> None:
    """It may be gone before its keeper has even started to read."""
    code = (
        OWNER.partition("process.wait_ready")[0] + "print(process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    for _ in range(3):
        command = [sys.executable, "-c", code, str(tmp_path), TREE]
        owner = subprocess.run(command, capture_output=True, text=True, check=False)
        session = int(owner.stdout)
        assert eventually(lambda session=session: not session_members(session))


def test_everything_ends_even_when_a_forked_copy_of_the_owner_lives_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path), TREE, "fork"]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        pids = [int(word) for word in owner.stdout.readline().split()]
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert eventually(lambda: not any(lives(pid) for pid in pids))
        assert session_members(owner.pid), "the copy should still be there, or this test shows nothing"
    finally:
        end_session(owner.pid, 1)
        owner.stdout.close()


def test_ctrl_c_does_not_reach_the_servers_before_their_owner_stops_them(tmp_path: Path) -> None:
    with python(TREE, tmp_path) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_one_keeper_serves_several_processes_and_goes_when_told(tmp_path: Path) -> None:
    keeper = Keeper()
    processes = [python(TREE, tmp_path, keeper=keeper, name=f"Tree {n}").start() for n in range(2)]
    pids = [pid for process in processes for pid in process.members()]
    processes[0].stop()
    assert lives(keeper.pid)
    keeper.close()
    assert not lives(keeper.pid)
    assert not any(lives(pid) for pid in pids)


def test_nothing_is_inherited_but_the_environment_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/somewhere/else")
    code = "import os; print('saw', os.environ.get('AIRFLOW_HOME'), os.environ['MARK'])"
    process = Process(
        "Env", [sys.executable, "-c", code], env={"MARK": "7"}, log=tmp_path / "log", cwd=tmp_path
    )
    with process:
        assert eventually(lambda: "saw None 7" in process.tail())
