"""``make demo``: two real challengers go through the whole lifecycle on real flights.

First the way back is practised on a sandbox. Version 2 is better and is promoted; version 3 looks fine offline, is caught
while a few aircraft see it, and is rolled back; then the rollback DAG takes production back to version 1. Everything is real:
Airflow, MLflow, the gateway, the flights. Time is compressed only by the soak settings of the spec and the speed of the
replayed traffic.
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from examples.flights.airflow_api import AirflowApi
from examples.flights.flights import Flights, prepare
from examples.flights.story import Step, Story
from understudy.errors import UnderstudyError
from understudy.stack import Stack, exit_on_sigterm

MODEL, EXPERIMENT = "flight-delay", "flight_delay"
DAG, ROLLBACK_DAG = f"experiment__{EXPERIMENT}", "rollback"
WARM_UP_ROWS = 6_000
ROWS_PER_SECOND, ROWS_PER_SECOND_IDLE = 800.0, 100.0
RUN_DEADLINE, DOOR_DEADLINE = 300.0, 60.0

_T = TypeVar("_T")


def main() -> int:
    """Run the demo; return 0 when every step ended as it should."""
    _quiet()
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    keep = bool(os.environ.get("KEEP"))
    with tempfile.TemporaryDirectory(prefix="understudy-demo-", ignore_cleanup_errors=True) as scratch:
        try:
            with exit_on_sigterm(), Demo(Path(scratch), console) as demo:
                demo.run()
                demo.summary()
                if keep:
                    demo.keep_open()
                return 0 if demo.story.as_told else 1
        except KeyboardInterrupt:
            console.print("Stopped; no process is left behind.")
            return 130
        except (UnderstudyError, RuntimeError, OSError) as error:
            console.print(f"The demo broke off: {error}", style="red", markup=False)
            return 1


def _quiet() -> None:
    """Keep the libraries' own chatter out of the story; what matters is recorded and shown."""
    warnings.filterwarnings("ignore")
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Demo:
    """The stack, the traffic and the story.

    Args:
        state: Scratch folder for everything that is written.
        console: Where to tell the story.
    """

    def __init__(self, state: Path, console: Console) -> None:
        self.console = console
        self.story = Story(console)
        self.began = time.monotonic()
        self.data = state / "data"
        self.stack = Stack(state, data=self.data, started=self._started)
        self.pool = ThreadPoolExecutor(1)
        self.overheads: list[float] = []
        self.door_seconds = 0.0

    def __enter__(self) -> Demo:
        with self.console.status("Starting MLflow and Airflow, preparing 336,776 flights …"):
            prepared: Future[Flights] = self.pool.submit(prepare, self.data)
            self.stack.start()
            try:
                self.flights = prepared.result()
            except BaseException:
                self.stack.stop()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if hasattr(self, "traffic"):
                self.traffic.stop()
        finally:
            self.stack.stop()
            self.pool.shutdown(wait=False, cancel_futures=True)

    def run(self) -> None:
        """Walk through the whole story."""
        os.environ.update({name: value for name, value in self.stack.env().items() if name != "PATH"})
        self.airflow = AirflowApi(self.stack.airflow_url, "admin", self.stack.logins["admin"])
        self._open_production()
        self._practise_the_way_back()
        self._version_2_through_the_registry_door()
        self._version_3_through_the_api()
        self._rollback_dag()

    def _open_production(self) -> None:
        from examples.flights.traffic import Replayer
        from understudy.session import session

        self.registry = session().registry
        with self.console.status("Training version 1 and putting it into production …"):
            self._train(1)
            self.registry.make_champion(MODEL, "1", move_stage=True)
            self.stack.start_gateway(MODEL)
        self.traffic = Replayer(self.stack.gateway_url, self.flights, rows_per_second=1500)
        self.traffic.start()
        with self.console.status("Training versions 2 and 3 while the first ten days of April are flown …"):
            for number in (2, 3):
                self._train(number)
            self._until(
                lambda: self.traffic.progress.sent >= WARM_UP_ROWS, 120, "the first flights are served"
            )
            self._until(lambda: self.airflow.knows(DAG), 60, f"Airflow knows {DAG}")
        self.traffic.rows_per_second = ROWS_PER_SECOND
        self.story.note(
            f"Version 1 serves; {self.traffic.progress.sent:,} flights answered, {ROWS_PER_SECOND:g} a second from here."
        )

    def _practise_the_way_back(self) -> None:
        from understudy.drill.run import drill

        self.story.title(
            "Before many are exposed: the way back is practised on a sandbox, with planted faults."
        )
        self.traffic.rows_per_second = ROWS_PER_SECOND_IDLE
        with self.console.status("") as status:
            found = drill(MODEL, actor="make demo", progress=lambda part, what: status.update(f"{what} …"))
        for one in found["scenarios"]:
            self.story.note(one["sentence"])
        self.traffic.rows_per_second = ROWS_PER_SECOND
        self.story.tell(
            Step(
                "the way back is practised",
                found["passed"],
                f"{found['sentence']} {found['seconds']:.0f} s.",
            )
        )

    def _train(self, number: int) -> None:
        from examples.flights.train import train_version

        # MLflow talks on stderr while it registers; that belongs into a log, not between the lines of the story.
        with (self.stack.state / "training.log").open("a") as log, contextlib.redirect_stderr(log):
            train_version(number, self.flights)

    def _version_2_through_the_registry_door(self) -> None:
        self.story.title(
            "Version 2: better features, better learner. Somebody sets its alias `challenger` in MLflow."
        )
        began = time.monotonic()
        self.registry.set_alias(MODEL, "challenger", "2")
        dag_run = f"registry__{MODEL}:2"
        self._until(
            lambda: self.airflow.state(DAG, dag_run) is not None,
            DOOR_DEADLINE,
            "the registry door starts the run",
        )
        self.door_seconds = time.monotonic() - began
        self.story.note(f"The registry door started {DAG} after {self.door_seconds:.1f} s.")
        ended = self._follow(dag_run)
        champion = self.registry.alias(MODEL, "champion")
        self.story.tell(
            Step(
                "version 2 is promoted",
                ended["state"] == "promoted" and champion == "2",
                f"{ended['ending']} Alias champion is on {champion}.",
            )
        )

    def _version_3_through_the_api(self) -> None:
        self.story.title(
            "Version 3: fine offline, but its live feed is read with the wrong clock. Started through the API."
        )
        reason = "The streaming feed should replace the nightly tables."
        ended = self._follow(self.airflow.start(DAG, {"version": "3", "reason": reason}))
        champion = self.registry.alias(MODEL, "champion")
        caught = self.story.caught(ended["run"])
        self.story.tell(
            Step(
                "version 3 is rolled back",
                ended["state"] == "rolled_back" and champion == "2" and caught is not None,
                f"{caught or ended['ending']} Champion stays {champion}.",
            )
        )

    def _rollback_dag(self) -> None:
        self.story.title("And back: the rollback DAG takes production to the previous registered version.")
        conf = {
            "model": MODEL,
            "reason": "Demonstration of the way back.",
            "target_version": None,
            "dry_run": False,
        }
        began = time.monotonic()
        run_id = self.airflow.start(ROLLBACK_DAG, conf)
        self._until(
            lambda: self.airflow.state(ROLLBACK_DAG, run_id) in ("success", "failed"),
            90,
            "the rollback DAG ends",
        )
        champion = self.registry.alias(MODEL, "champion")
        result = self.airflow.result(ROLLBACK_DAG, run_id, "restore") or {"seconds": {}}
        seconds = {name: f"{value:.2f} s" for name, value in result["seconds"].items()}
        missed = [name for name, found in result.get("objectives", {}).items() if not found["met"]]
        self.story.tell(
            Step(
                "champion is back on 1",
                self.airflow.state(ROLLBACK_DAG, run_id) == "success" and champion == "1",
                f"Alias champion is on {champion}. {result.get('why', '')} Zero exposure after "
                f"{seconds.get('zero_exposure')}, every gateway after {seconds.get('gateways')}, proven by its recorded answers "
                f"after {seconds.get('probe')} of work, {time.monotonic() - began:.1f} s with Airflow around it. Objectives "
                f"missed: {', '.join(missed) or 'none'}.",
            )
        )

    def _follow(self, dag_run: str) -> dict[str, Any]:
        """Tell each verdict as it falls, until the DAG run has ended; return the model's state."""
        key = f"{DAG}/{dag_run}"
        with self.console.status("") as status:

            def ended() -> bool:
                self._check()
                # Days fly by while the evidence is gathered; between the stages nobody needs to wait for them.
                exposed = self.story.exposed(MODEL)
                self.traffic.rows_per_second = ROWS_PER_SECOND if exposed else ROWS_PER_SECOND_IDLE
                status.update(self.story.follow(key, self.traffic.progress.clock))
                return self.airflow.state(DAG, dag_run) in ("success", "failed")

            self._until(ended, RUN_DEADLINE, f"{dag_run} ends")
        self.story.follow(key, self.traffic.progress.clock)
        self.overheads += self.airflow.overheads(DAG, dag_run)
        return self.story.state(MODEL)

    def summary(self) -> None:
        """Print the table of what was promised and what came."""
        self.story.summary()
        facts = Table(show_header=False, box=None)
        facts.add_row(
            "flights served", f"{self.traffic.progress.sent:,} ({self.traffic.progress.failed} refused)"
        )
        facts.add_row("outcomes received", f"{self.traffic.progress.outcomes:,}")
        if self.overheads:
            median, worst = statistics.median(self.overheads), max(self.overheads)
            facts.add_row(
                "overhead per task beyond its work",
                f"median {median:.2f} s, worst {worst:.2f} s over {len(self.overheads)} tasks",
            )
        facts.add_row("alias set to run started", f"{self.door_seconds:.1f} s")
        facts.add_row("whole demo", f"{time.monotonic() - self.began:.0f} s")
        self.console.print(facts)

    def keep_open(self) -> None:
        """Leave the pages open until Ctrl-C."""
        table = Table(show_header=False, box=None)
        table.add_row("Airflow", f"{self.stack.airflow_url}  (login admin / {self.stack.logins['admin']})")
        table.add_row("Understudy in it", f"{self.stack.airflow_url}/plugin/understudy")
        table.add_row("MLflow", self.stack.mlflow_url)
        table.add_row("Gateway", f"{self.stack.gateway_url}/status")
        table.add_row("State", str(self.stack.state))
        table.add_row("Join from a shell", f"set -a; . {self.stack.state}/env")
        self.console.print(table)
        self.console.print("Ctrl-C stops everything and removes the state.")
        while True:
            self._check()
            time.sleep(1)

    def _started(self, name: str, seconds: float) -> None:
        self.story.note(f"{name} is ready after {seconds:.1f} s.")

    def _check(self) -> None:
        self.stack.check()
        if self.traffic.problem is not None:
            raise RuntimeError(f"the traffic broke off: {self.traffic.problem}")

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            self.stack.check()
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"waited {seconds:g} s in vain until {what}; logs are in {self.stack.state}"
                )
            time.sleep(0.25)


if __name__ == "__main__":
    sys.exit(main())
