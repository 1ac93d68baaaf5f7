"""Starts a PostgreSQL of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.servers import free_port, wait_until

__all__ = ["server_program", "start_postgres"]


def server_program(name: str) -> Path | None:
    """Find a PostgreSQL server program; Debian keeps them out of PATH."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), *filter(None, [shutil.which(name)])]
    return Path(found[-1]) if found else None


@contextmanager
def start_postgres() -> Iterator[str]:
    """Run a PostgreSQL on a free port until the context ends; yields the address of an empty database."""
    initdb, postgres = server_program("initdb"), server_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL's server is not installed; `make system` installs it on Debian as root")
    # Not in pytest's own folder: every session that starts beside this one shuts that to other users again.
    with tempfile.TemporaryDirectory(prefix="understudy-postgres-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        # PostgreSQL refuses to run as root.
        who: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        )
        if who:
            shutil.chown(folder, "postgres", "postgres")
        quiet = {"check": True, "capture_output": True, "cwd": folder}
        subprocess.run(
            [initdb, "-D", folder / "data", "-A", "trust", "-U", "understudy", "-N"], **quiet, **who
        )
        command = [
            postgres, "-D", folder / "data", "-p", str(port),
            "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1",
            "-c", "fsync=off",  # nobody pulls the plug on it
        ]  # fmt: skip
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, **who) as process,
        ):
            try:
                url = f"postgresql+psycopg2://understudy@127.0.0.1:{port}/postgres"
                _await_answer(url)
                yield url
            finally:
                process.send_signal(signal.SIGQUIT)  # at once: nothing in it is wanted any more
                process.wait(20)


def _await_answer(url: str) -> None:
    engine = sa.create_engine(url)

    def answers() -> bool:
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    wait_until(answers, "PostgreSQL answers")
    engine.dispose()
