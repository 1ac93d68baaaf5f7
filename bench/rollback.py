"""A hundred rollbacks by the engine and a hundred by the command, with a real MLflow server and two gateways.

Each begins with a run that exposes a quarter of the units in both gateways, and ends when everything is read back and proven.
Beside it somebody keeps asking both gateways whether they still expose anybody. Engine and command take turns, so that whatever
else the machine does hits them alike. The command's time begins before its process does. Writes docs/performance.md; takes about
fifteen minutes.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.performance import models
from bench.performance.report import DOCS, made, store
from bench.performance.series import Return, Rollbacks
from understudy.processes.ports import HeldPort
from understudy.processes.process import Process
from understudy.stack import Stack

if TYPE_CHECKING:
    from understudy.session import Session
    from understudy.spec import Experiment

ROUNDS = 100
GATEWAYS = 2
_MODEL = "logistic"
_PAUSE = 0.005
_PATIENCE = 120.0


def main(rounds: int = ROUNDS, docs: Path = DOCS) -> None:
    """Measure, print one line a rollback, and write the report.

    Args:
        rounds: How many rollbacks by each way.
        docs: Where the report goes.
    """
    found: list[Return] = []
    warnings.simplefilter("ignore")  # scikit-learn has something to say about every probe
    with (
        tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder,
        _installation(Path(folder)) as site,
    ):
        for number in range(rounds):
            for by, act in (("engine", _by_engine), ("command", _by_command)):
                found.append(site.measured(f"{by}-{number}", by, act))
                print(
                    f"{by:8} zero {found[-1].zero:6.3f} s  verified {found[-1].verified:6.3f} s", flush=True
                )
    store(docs, Rollbacks(made("rollback", rounds=rounds, gateways=GATEWAYS), found))


def _by_engine(key: str, env: dict[str, str]) -> None:
    from understudy import rollback

    rollback.execute(_MODEL, "Measured.", "bench", key)


def _by_command(key: str, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "understudy.cli", "rollback", _MODEL, "--reason", "Measured.", "--json"]
    subprocess.run(command, env=env | {"PYTHONWARNINGS": "ignore"}, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class _Site:
    """The installation that is measured.

    Attributes:
        doors: Its store and registry.
        experiment: What its runs follow.
        gateways: Addresses of its gateways.
        env: The environment of its processes.
    """

    doors: Session
    experiment: Experiment
    gateways: Sequence[HeldPort]
    env: dict[str, str]

    def measured(self, key: str, by: str, act: Callable[[str, dict[str, str]], None]) -> Return:
        """Expose version 2, roll it back, and return when nobody was exposed and when all was proven."""
        self.expose(key)
        with _Watch(self.gateways) as watch:
            began = time.perf_counter()
            act(key, self.env)
            verified = time.perf_counter() - began
            zero = max(watch.ended()) - began
        return Return(by, round(zero, 4), round(verified, 4), self._steps())

    def expose(self, key: str, *, prove: bool = False) -> None:
        """Begin a run that exposes a quarter of the units, and wait until every gateway does."""
        from understudy.store import exposures, runs

        with self.doors.store.write() as connection:
            now = self.doors.store.clock()
            exposures.adopt(connection, _MODEL, models.CHAMPION, actor="bench", at=now)
            run = runs.create(
                connection, key=key, spec=self.experiment.frozen(), spec_digest=self.experiment.digest(),
                version=models.NEXT, champion=models.CHAMPION, actor="bench", reason="Measured.", airflow={}, at=now,
            )  # fmt: skip
        exposures.publish_flags(self.doors.store, self.doors.settings)
        if prove:
            self._prove(run)
        with self.doors.store.write() as connection:
            now = self.doors.store.clock()
            raised = exposures.raise_to(connection, run.run_id, 1, models.PERCENT, 3600.0, at=now)
        exposures.publish_flags(self.doors.store, self.doors.settings)
        self.doors.registry.set_alias(_MODEL, "challenger", models.NEXT)
        deadline = time.monotonic() + _PATIENCE
        while not all(_exposes(_status(port), raised.generation) for port in self.gateways):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The gateways do not expose generation {raised.generation}.")
            time.sleep(0.05)

    def _prove(self, run: Any) -> None:
        """Take the rollback point to which every rollback leads."""
        from understudy.points.take import save, take
        from understudy.scoring import read_dataset

        holdout = read_dataset(self.doors.settings.data / self.experiment.data.holdout, "holdout")
        champion = self.doors.registry.as_found(_MODEL, models.CHAMPION)
        point = take(self.doors, run, self.experiment, champion, holdout)
        with self.doors.store.write() as connection:
            save(connection, point)

    def _steps(self) -> dict[str, float]:
        from understudy.store import ledger

        with self.doors.store.read() as connection:
            (done,) = ledger.entries(connection, model=_MODEL, newest=1, actions=("rollback.finished",))
        assert not done.body["problems"], done.body["problems"]
        return dict(done.body["seconds"])


class _Watch:
    """Asks gateways again and again whether they expose anybody, each in a thread of its own."""

    def __init__(self, gateways: Sequence[HeldPort]) -> None:
        self._at = [0.0] * len(gateways)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(place, port)) for place, port in enumerate(gateways)
        ]

    def __enter__(self) -> _Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ended(self) -> list[float]:
        """Wait until no gateway exposes anybody, and return when each was first seen so."""
        for thread in self._threads:
            thread.join(_PATIENCE)
        assert all(self._at), "a gateway still exposes somebody"
        return self._at

    def _look(self, place: int, port: HeldPort) -> None:
        asking = http.client.HTTPConnection("127.0.0.1", port.number, timeout=30)
        while not self._stop.is_set():
            asking.request("GET", "/status")
            if not json.loads(asking.getresponse().read())["exposed"]:
                self._at[place] = time.perf_counter()
                return
            time.sleep(_PAUSE)


def _status(port: HeldPort) -> dict[str, Any]:
    asking = http.client.HTTPConnection("127.0.0.1", port.number, timeout=30)
    asking.request("GET", "/status")
    found: dict[str, Any] = json.loads(asking.getresponse().read())
    asking.close()
    return found


def _exposes(status: dict[str, Any], generation: int) -> bool:
    return bool(
        status["exposed"] and status["generation"] == generation and status["challenger_error"] is None
    )


@contextmanager
def _installation(folder: Path) -> Iterator[_Site]:
    models.write_specs(folder / "experiments")
    _write_data(folder)
    with (
        Stack(
            folder / "stack",
            experiments=folder / "experiments",
            expectations=folder / "expectations",
            data=folder / "data",
            airflow=False,
        ) as stack,
        ExitStack() as stops,
    ):
        models.register(stack.mlflow_url, folder, (_MODEL,))
        ports = [stops.enter_context(HeldPort()) for _ in range(GATEWAYS)]
        env = stack.env() | {"UNDERSTUDY_GATEWAY_URLS": ",".join(port.url for port in ports)}
        os.environ.update(env)
        for port in ports:
            stops.enter_context(_gateway(folder, port, env))
        from understudy.session import session
        from understudy.spec import find

        site = _Site(session(), find(folder / "experiments", f"{_MODEL}_bench"), ports, env)
        site.expose("first", prove=True)
        _by_engine("first", env)
        yield site


@contextmanager
def _gateway(folder: Path, port: HeldPort, env: dict[str, str]) -> Iterator[None]:
    name = f"gateway-{port.number}"
    command = [sys.executable, "-m", "understudy.gateway", "--model", _MODEL, "--port", str(port.number)]
    port.hand_over()
    with Process(name, command, env=env, log=folder / f"{name}.log", cwd=folder) as process:
        process.wait_ready(lambda: _answers(port), _PATIENCE)
        yield


def _answers(port: HeldPort) -> bool:
    try:
        return bool(_status(port)["ready"])
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _write_data(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    (folder / "data").mkdir()
    (folder / "expectations").mkdir()
    rng = np.random.default_rng(3)
    columns = [f"f{number:02}" for number in range(models.FEATURES)]
    rows = pd.DataFrame(rng.normal(size=(2_000, models.FEATURES)), columns=columns)
    rows["label"] = (rng.random(len(rows)) < 0.5).astype(int)
    for name in ("reference", "holdout"):
        rows.to_parquet(folder / "data" / f"{name}.parquet")
    enough = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 100}}
    suite = {"name": "rows", "expectations": [enough | {"severity": "critical"}]}
    (folder / "expectations" / "rows.json").write_text(json.dumps(suite))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
