"""Runs a version on a gateway of its own: the real serving path, but nobody is routed to it and all it writes is thrown away.

The gateway reads the run's frozen spec, not the file of today, and gets neither Airflow's nor the installation's own
secrets: what it runs is a model that nobody has seen serve yet.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

import understudy
from understudy.errors import BadParameter, DataMissing, UnderstudyError
from understudy.exposure import Exposure, publish
from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.processes.process import NotReadyInTime, Process, ProcessEnded
from understudy.session import Passage
from understudy.verdicts import Outcome, Verdict

__all__ = ["NOT_MEASURED", "TrialGateway", "not_measured", "trial_gateway", "undeclared"]

NOT_MEASURED = (DataMissing, ProcessEnded, NotReadyInTime)
"""Errors that end a trial without an answer: there is nothing to try with, or the gateway does not come up."""

_READY_SECONDS = 180.0
_GRACE_SECONDS = 1.0
_ENDING_SECONDS = 2.0
_WITHHELD = ("AIRFLOW", "_AIRFLOW", "UNDERSTUDY_", "OTEL_")
# The challenger's own server, if it has one, asks for it on trial too.
_GIVEN = ("UNDERSTUDY_UPSTREAM_TOKEN",)


class TrialGateway:
    """A gateway process that only its owner knows of.

    Args:
        model: Registered model name.
        url: Its base URL.
        process: The process, started.
        flags: The flag document that it reads.
    """

    def __init__(self, model: str, url: str, process: Process, flags: Path) -> None:
        self.url = url
        self._model = model
        self._process = process
        self._flags = flags
        self._generation = 0

    def serve(self, version: str) -> None:
        """Let a version answer everything, and wait until it does.

        Raises:
            ProcessEnded: The gateway ended; the message has the end of its log.
            NotReadyInTime: It cannot load the version in time; likewise.
        """
        import httpx

        self._generation += 1
        publish(self._flags, [Exposure(self._model, self._generation, champion=version)])
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:

            def serves() -> bool:
                try:
                    found = client.get("/status").raise_for_status().json()
                except (httpx.HTTPError, ValueError):
                    return False
                asked = (True, self._generation, version)
                return (found.get("ready"), found.get("generation"), found.get("champion")) == asked

            self._process.wait_ready(serves, _READY_SECONDS)

    def ending(self) -> str:
        """Return how the process ended by itself, in words; empty while it runs. Its log may quote what it was asked.

        Ask once it no longer answers: a process that dies closes its connections a moment before it has a status.
        """
        deadline = time.monotonic() + _ENDING_SECONDS
        while (status := self._process.returncode) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return "" if status is None else f"The gateway's process ended with status {status}."


@contextmanager
def trial_gateway(passage: Passage) -> Iterator[TrialGateway]:
    """Start a gateway for a run, and end it with everything that it started and wrote, whatever happens to this process."""
    run = passage.run
    with (
        tempfile.TemporaryDirectory(prefix="understudy-trial-", ignore_cleanup_errors=True) as name,
        HeldPort() as port,
    ):
        home, keeper = Path(name), Keeper()
        keeper.clear(home)
        experiments = home / "experiments"
        experiments.mkdir()
        spec = experiments / f"{passage.experiment.name}.yaml"
        spec.write_text(yaml.safe_dump(passage.experiment.frozen(), allow_unicode=True), encoding="utf-8")
        command = [
            sys.executable, "-m", "understudy.gateway",
            "--model", run.model, "--host", "127.0.0.1", "--port", str(port.number),
        ]  # fmt: skip
        process = Process(
            f"The trial gateway of {run.model}",
            command,
            env=_environment(home, experiments, passage.session.settings.mlflow_uri),
            log=home / "gateway.log",
            cwd=home,
            keeper=keeper,
        )
        try:
            port.hand_over()
            process.start()
            yield TrialGateway(run.model, port.url, process, home / "flags.json")
        finally:
            process.stop(_GRACE_SECONDS)
            keeper.close()


def not_measured(error: UnderstudyError) -> Verdict:
    """Return the verdict of a trial that ended without an answer."""
    return Verdict(Outcome.ERROR, error.code.lower(), error.message)


def undeclared(passage: Passage, step: str) -> BadParameter:
    """Return the error of a trial that the run's frozen spec does not ask for."""
    return BadParameter(
        f"Run {passage.run.run_id} was registered without trial.{step}, so there is nothing to try. The experiment file has "
        "changed since; start a new run."
    )


def _environment(home: Path, experiments: Path, mlflow_uri: str) -> dict[str, str]:
    env = {
        name: value for name, value in os.environ.items() if name in _GIVEN or not name.startswith(_WITHHELD)
    }
    path = [str(Path(understudy.__file__).parents[1]), env.get("PYTHONPATH", "")]
    return env | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        # What MLflow downloads goes with the folder, also when nobody is left to clean up.
        "TMPDIR": str(home),
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "UNDERSTUDY_HOME": str(home),
        "UNDERSTUDY_EXPERIMENTS": str(experiments),
        "UNDERSTUDY_PSEUDONYM_KEY": secrets.token_hex(),
    }
