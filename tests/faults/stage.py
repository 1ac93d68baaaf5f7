"""One gateway with a challenger whose mood can be set, and what scenarios do with them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.load import Answer, Load, percentile
from tests.gateway.conftest import MODEL, SPEC, Registered, logged, row, split
from tests.servers import RunningGateway, start_gateway, wait_until
from understudy.exposure import CHALLENGER, Exposure, assign, publish

__all__ = [
    "GOOD",
    "UNITS",
    "Found",
    "Stage",
    "exchange_files",
    "lost",
    "moody_version",
    "settled",
    "start_stage",
    "times",
]

GOOD = "good"
UNITS = range(64)
"""Numbers of the rows that are asked about."""

_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Found:
    """What a scenario found.

    Attributes:
        requests: Requests that were sent.
        lost: Those that were not answered with 200.
        wrong: Answers that are not what the version that gave them answers, or that came from a version that had no business
            to answer.
        quiet: Median and 99th percentile of the champion's time to answer without the fault, in ms.
        troubled: The same with it.
        dropped: Rows that the mirror had no room for.
        breaker: What the challenger's breaker did.
        measured: Further figures, by name and unit.
        notes: What else was seen, for the report.
        fallbacks: Rows that the champion answered in the challenger's place, by reason.
    """

    requests: int
    lost: int
    wrong: int
    quiet: tuple[float, float] | None = None
    troubled: tuple[float, float] | None = None
    dropped: int | None = None
    breaker: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    notes: str = ""
    fallbacks: Counter[str] = field(default_factory=Counter)

    @property
    def held(self) -> bool:
        """Whether nothing was lost and nothing wrong."""
        return self.requests > 0 and (self.lost, self.wrong) == (0, 0)


@dataclass
class Stage:
    """A gateway under test.

    Attributes:
        gateway: The process.
        registered: The well-behaved versions; ``good`` is the champion.
        moody: The version whose mood stands in the file.
        mood: That file.
        answers: The body of what each well-behaved version answers to each row number while there is no challenger.
    """

    gateway: RunningGateway
    registered: Registered
    moody: str
    mood: Path
    answers: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def champion(self) -> str:
        """The version that is in production."""
        return self.registered.good

    @property
    def shielded(self) -> list[int]:
        """Row numbers that the champion answers at 50 % and below."""
        return [unit for unit in UNITS if not _exposed(unit)]

    @property
    def exposed(self) -> list[int]:
        """Row numbers that the challenger answers at 50 %."""
        return [unit for unit in UNITS if _exposed(unit)]

    def publish(self, *, wait: bool = True, **changes: Any) -> Exposure:
        """Publish the next generation and wait until it is served."""
        base = Exposure(MODEL, self.gateway.status()["generation"] + 1, self.champion)
        if changes.get("percent"):
            base = replace(base, run_id="delay_test-v2-1", stage=1, lease_expires_at=int(time.time()) + 3600)
        exposure = replace(base, **changes)
        publish(self.gateway.home / "flags.json", [exposure])
        if wait:
            self.gateway.wait_for_generation(exposure.generation, 120)
        return exposure

    def learn(self, version: str) -> None:
        """Note what a champion answers, one row at a time as the load asks."""
        self.answers[version] = {}
        for unit in UNITS:
            answer = self.gateway.client.post("/invocations", json=split([row(unit)]))
            assert answer.headers["x-understudy-version"] == version
            self.answers[version][unit] = answer.content

    def load(self, units: Sequence[int], rate: float, threads: int = 4) -> Load:
        """Return a load of this gateway, to be entered."""
        return Load(self.gateway.url, units, rate, threads)

    def wrong(self, answers: Sequence[Answer], *versions: str) -> int:
        """Count answers that came from none of the versions, or that those do not give."""
        return sum(
            answer.status == 200
            and (
                answer.version not in versions or answer.content != self.answers[answer.version][answer.unit]
            )
            for answer in answers
        )

    def fallbacks(self, since: float) -> Counter[str]:
        """Count the rows that the champion answered in the challenger's place since a Unix second, by reason."""
        return Counter(
            str(event["error"]).partition(":")[0]
            for event in logged(self.gateway)
            if event["fallback"] and event["received_at"] >= since
        )

    def breaker(self) -> tuple[int, int]:
        """Return how often the gateway said that a breaker opened, and that one closed again."""
        told = self.gateway.log.read_text()
        return told.count("[BREAKER_OPEN]"), told.count("[BREAKER_CLOSED]")

    def metric(self, name: str) -> float:
        """Return the value of a metric, named as the page has it: with its labels, if it has any."""
        page = self.gateway.client.get("/metrics").text
        return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split(" ")[1])

    def wait_for_mirror(self) -> None:
        """Wait until the mirror has nothing left to do."""
        wait_until(
            lambda: self.metric("understudy_mirror_waiting") == 0, "the end of the mirror's queue", 120
        )

    def mirrored(self) -> dict[str, float]:
        """Return what has become of the rows that were offered to the mirror."""
        fates = ("scored", "failed", "dropped")
        return {fate: self.metric(f'understudy_mirror_rows_total{{fate="{fate}"}}') for fate in fates}

    def starts(self) -> int:
        """Return how often a process was started for the present challenger."""
        return int(self.metric(f'understudy_challenger_starts_total{{version="{self.moody}"}}'))


def settled(load: Load, seconds: float) -> list[Answer]:
    """Return the answers to what is asked from now on, once what was asked before has settled."""
    time.sleep(_SETTLE_SECONDS)
    since = time.monotonic()
    time.sleep(seconds)
    return load.since(since)


def times(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return the median and the 99th percentile of the time to answer, in ms."""
    return percentile(answers, 0.5), percentile(answers, 0.99)


def lost(answers: Sequence[Answer]) -> int:
    """Count what was not answered with 200."""
    return sum(answer.status != 200 for answer in answers)


@cache
def _exposed(unit: int) -> bool:
    half = Exposure(MODEL, 1, "1", "2", "delay_test-v2-1", 1, 50.0, lease_expires_at=1 << 40)
    return assign(half, row(unit)["tailnum"], time.time()) == CHALLENGER


def moody_version(mood: Path) -> str:
    """Register a challenger whose mood stands in a file and return its version."""
    import mlflow

    mood.write_text(GOOD)
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parents[1] / "gateway" / "moody_model.py"),
            model_config={"mood": str(mood)},
            registered_model_name=MODEL,
            pip_requirements=["mlflow"],
        )
    return str(info.registered_model_version)


def exchange_files(artifacts: Path, of: str, donor: str) -> None:
    """Put the estimator of one logged model in the place of another's, where MLflow keeps them."""

    def estimator(model_id: str) -> Path:
        (found,) = (path for path in artifacts.rglob("model.*") if model_id in path.parts)
        return found

    estimator(of).write_bytes(estimator(donor).read_bytes())


@contextmanager
def start_stage(
    folder: Path,
    registered: Registered,
    moody: str,
    mood: Path,
    *options: str,
    breaker: str = "{}",
    forked: bool = False,
) -> Iterator[Stage]:
    """Run a gateway whose experiment has a breaker of one's own and yield it with the champion's answers known."""
    experiments = folder / "experiments"
    experiments.mkdir(parents=True)
    (experiments / "delay_test.yaml").write_text(SPEC.format(model=MODEL) + f"breaker: {breaker}\n")
    mood.write_text(GOOD)
    home = folder / "home"
    with start_gateway(home, MODEL, registered.uri, experiments, *options, forked=forked) as gateway:
        stage = Stage(gateway, registered, moody, mood)
        stage.learn(stage.champion)
        yield stage
    mood.write_text(GOOD)
