"""A gateway in front of real MLflow servers: routing, mirror, death and slowness of a server, and the change to another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import SPEC, Registered, logged, row
from tests.gateway.test_upstream import saying, silent, well
from tests.servers import RunningGateway, free_port, start_gateway, start_scoring_server, wait_until
from understudy.exposure import Exposure, publish
from understudy.registry import UPSTREAM_TAG

FRONTED = "fronted"
GOOD, BETTER, MORTAL, HERE, SILENT, LATE = "123456"
ROWS = [row(number) for number in range(60)]


@dataclass(frozen=True)
class Front:
    """A gateway, and the servers behind it by version."""

    gateway: RunningGateway
    servers: dict[str, httpx.Client]
    tag: Callable[[str, str], None]
    stop: Callable[[], None]

    def serve(self, champion: str, challenger: str | None = None, **changes: Any) -> Exposure:
        """Publish the next generation and wait until it is served, its challenger too."""
        exposed = {"run_id": "delay_test-v2-1", "stage": 1, "lease_expires_at": int(time.time()) + 600}
        exposure = Exposure(
            model=FRONTED,
            generation=self.gateway.status()["generation"] + 1,
            champion=champion,
            challenger=challenger,
            **(exposed if changes.get("percent") else {}),
            **changes,
        )
        publish(self.gateway.home / "flags.json", [exposure])
        self.gateway.wait_for_generation(exposure.generation, 90)
        return exposure

    def loaded(self, version: str) -> None:
        wait_until(lambda: version in self.gateway.status()["loaded"], f"load of version {version}", 90)

    def ask(self, rows: list[dict[str, Any]] = ROWS) -> httpx.Response:
        return self.gateway.client.post("/invocations", json={"dataframe_records": rows})

    def expected(self, version: str, rows: list[dict[str, Any]] = ROWS) -> list[Any]:
        features = [{name: one[name] for name in ("origin", "distance", "hour")} for one in rows]
        answer = self.servers[version].post("/invocations", json={"dataframe_records": features})
        found: list[Any] = answer.json()["predictions"]
        return found


@pytest.fixture(scope="module")
def front(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Six versions of a model: three with a server each, one without, one whose server is silent, one without a server yet."""
    import mlflow

    client = mlflow.MlflowClient(registered.uri, registered.uri)
    for source in (registered.good, registered.better, *[registered.good] * 4):
        client.copy_model_version(f"models:/delay/{source}", FRONTED)

    def tag(version: str, address: str) -> None:
        client.set_model_version_tag(FRONTED, version, UPSTREAM_TAG, address)

    folder = tmp_path_factory.mktemp(FRONTED)
    experiments = folder / "experiments"
    experiments.mkdir()
    (experiments / "delay_test.yaml").write_text(SPEC.format(model=FRONTED))
    client.set_registered_model_alias(FRONTED, "champion", GOOD)
    with ExitStack() as stack, ExitStack() as mortal:
        servers = {}
        for version, owner in ((GOOD, stack), (BETTER, stack), (MORTAL, mortal)):
            files = mlflow.artifacts.download_artifacts(
                f"models:/{FRONTED}/{version}", dst_path=str(folder / version)
            )
            servers[version] = owner.enter_context(start_scoring_server(Path(files), folder / version))
            tag(version, str(servers[version].base_url))
        tag(SILENT, stack.enter_context(saying(silent))[0])
        tag(LATE, f"http://127.0.0.1:{free_port()}")
        gateway = stack.enter_context(
            start_gateway(folder / "home", FRONTED, registered.uri, experiments, "--timeout", "20")
        )
        yield Front(gateway, servers, tag, mortal.close)


@pytest.fixture(autouse=True)
def _as_before(front: Front) -> Iterator[None]:
    yield
    front.serve(GOOD)


def test_champion_and_challenger_are_answered_by_their_servers(front: Front) -> None:
    front.serve(GOOD, BETTER, percent=50.0)
    front.loaded(BETTER)
    answer = front.ask()
    lines = logged(front.gateway)[-len(ROWS) :]
    assert Counter(line["version"] for line in lines).keys() == {GOOD, BETTER}
    expected = {version: front.expected(version) for version in (GOOD, BETTER)}
    assert answer.json()["predictions"] == [
        expected[line["version"]][number] for number, line in enumerate(lines)
    ]
    assert not [line for line in lines if line["fallback"] or line["error"]]
    status = front.gateway.status()
    assert status["served_by"] == {
        version: str(front.servers[version].base_url).rstrip("/") for version in (GOOD, BETTER)
    }
    page = front.gateway.client.get("/metrics").text
    assert (
        f'understudy_version_info{{compiled="upstream",digest="",role="champion",version="{GOOD}"}} 1.0'
        in page
    )
    assert (
        f'understudy_version_info{{compiled="upstream",digest="",role="challenger",version="{BETTER}"}} 1.0'
        in page
    )


def test_what_does_not_fit_the_signature_is_refused_before_any_server_is_asked(front: Front) -> None:
    answer = front.ask([row(1, distance="far")])
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")


def test_the_mirror_asks_the_challengers_server(front: Front) -> None:
    front.serve(GOOD, BETTER, mirror=True)
    front.loaded(BETTER)
    rows = [row(number) for number in range(900, 905)]
    assert front.ask(rows).json()["predictions"] == front.expected(GOOD, rows)
    mirrored = wait_until(
        lambda: found if len(found := logged(front.gateway, "mirrors")) >= len(rows) else None, "mirror"
    )
    assert [line["prediction"] for line in mirrored[-len(rows) :]] == pytest.approx(
        [answer[1] for answer in front.expected(BETTER, rows)]
    )


def test_a_challengers_server_that_is_silent_costs_its_deadline_and_no_answer(front: Front) -> None:
    front.serve(GOOD, SILENT, percent=100.0)
    front.loaded(SILENT)
    answer = front.ask()
    assert answer.json()["predictions"] == front.expected(GOOD)
    exposed = [line for line in logged(front.gateway)[-len(ROWS) :] if line["arm"] == "challenger"]
    assert exposed
    assert {line["fallback"] for line in exposed} == {True}
    assert {line["error"].partition(":")[0] for line in exposed} <= {"Timeout", "UpstreamTimeout"}


def test_a_champion_may_move_from_a_server_into_the_gateway_and_back_without_a_lost_request(
    front: Front,
) -> None:
    expected = front.expected(GOOD, ROWS[:3])
    for champion in (HERE, MORTAL, GOOD):
        publish(
            front.gateway.home / "flags.json",
            [Exposure(model=FRONTED, generation=front.gateway.status()["generation"] + 1, champion=champion)],
        )
        versions, until = set[str](), time.monotonic() + 90
        while champion not in versions and time.monotonic() < until:
            answer = front.ask(ROWS[:3])
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"] == expected
            versions.add(answer.headers["x-understudy-version"])
        assert champion in versions
    assert front.gateway.status()["served_by"].keys() == {GOOD}


def test_a_version_is_not_loaded_before_its_server_is_well(front: Front) -> None:
    front.serve(GOOD, LATE, percent=50.0)
    trouble = wait_until(lambda: front.gateway.status()["challenger_error"], "trouble")
    wait_until(lambda: "UpstreamUnreachable" in front.gateway.status()["challenger_error"], trouble, 90)
    assert front.ask().json()["predictions"] == front.expected(GOOD)
    with saying(well) as (address, _):
        front.tag(LATE, address)
        front.loaded(LATE)


def test_a_tag_that_is_no_address_is_named_and_nothing_of_it_is_shown(front: Front) -> None:
    front.tag(LATE, "http://ann:secret@127.0.0.1:80")
    front.serve(GOOD, LATE, percent=50.0)
    wait_until(lambda: "BadUpstream" in (front.gateway.status()["challenger_error"] or ""), "refusal", 90)
    assert "secret" not in front.gateway.client.get("/status").text
    assert "secret" not in front.gateway.log.read_text()


def test_when_the_server_of_a_version_dies_the_champion_answers_and_without_one_the_error_has_a_name(
    front: Front,
) -> None:
    """Runs last: the server does not come back."""
    front.serve(GOOD, MORTAL, percent=100.0)
    front.loaded(MORTAL)
    assert not [line for line in _exposed(front) if line["fallback"]]
    front.stop()
    assert {line["error"].partition(":")[0] for line in _exposed(front)} == {"UpstreamUnreachable"}
    wait_until(lambda: _exposed(front) and front.gateway.status()["breaker"]["state"] == "open", "opening")

    with saying(well) as (address, _):
        front.tag(LATE, address)
        front.serve(LATE)
        assert front.ask(ROWS[:2]).json() == {"predictions": [0.25, 0.5]}
    answer = front.ask(ROWS[:2])
    assert (answer.status_code, answer.json()["error_code"]) == (503, "UPSTREAM_UNREACHABLE")
    assert logged(front.gateway)[-1]["error"].startswith("UpstreamUnreachable")
    page = front.gateway.client.get("/metrics").text
    for version in (MORTAL, LATE):
        assert f'kind="UpstreamUnreachable",version="{version}"}}' in page


def _exposed(front: Front) -> list[dict[str, Any]]:
    """Return the events of the challenger's arm after one more request, which everybody must get answered as before."""
    answer = front.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == front.expected(GOOD)
    return [line for line in logged(front.gateway)[-len(ROWS) :] if line["arm"] == "challenger"]
