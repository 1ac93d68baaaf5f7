"""One flag document, three readers, one answer: the gateway, and OpenFeature's flagd provider with the file and over HTTP."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.schemas.protobuf.flagd.sync.v1 import sync_pb2, sync_pb2_grpc

from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.exposure import CHALLENGER, CONTROL, UNEXPOSED, Exposure, assign

COUNT = 100_000
BATCH = 5_000
DEADLINE_MS = 10_000


class SyncedOverHttp(sync_pb2_grpc.FlagSyncServiceServicer):  # type: ignore[misc]
    """What the flagd daemon does with an HTTP source: fetches the flags, and hands them to in-process providers."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.asked: list[int] = []

    def SyncFlags(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - as gRPC names it
        etag = ""
        while context.is_active():
            answer = self.gateway.client.get("/flags", headers={"If-None-Match": etag})
            self.asked.append(answer.status_code)
            if answer.status_code == 200:
                etag = answer.headers["etag"]
                yield sync_pb2.SyncFlagsResponse(flag_configuration=answer.text)
            time.sleep(0.05)


@contextmanager
def sync_source(gateway: RunningGateway) -> Iterator[tuple[int, SyncedOverHttp]]:
    source = SyncedOverHttp(gateway)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    sync_pb2_grpc.add_FlagSyncServiceServicer_to_server(source, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, source
    finally:
        server.stop(None).wait()


@contextmanager
def client_of(domain: str, **config: Any) -> Iterator[Any]:
    """Return an OpenFeature client of a provider of its own."""
    provider = FlagdProvider(deadline_ms=DEADLINE_MS, **config)
    api.set_provider_and_wait(provider, domain)
    try:
        yield api.get_client(domain)
    finally:
        api.shutdown()


def over_http(port: int) -> dict[str, Any]:
    return {
        "resolver_type": ResolverType.IN_PROCESS,
        "host": "127.0.0.1",
        "port": port,
        "sync_metadata_disabled": True,
    }


def from_file(gateway: RunningGateway) -> dict[str, Any]:
    path = str(gateway.home / "flags.json")
    return {"resolver_type": ResolverType.FILE, "offline_flag_source_path": path}


def arm(client: Any, one: dict[str, Any]) -> str:
    context = EvaluationContext(one["tailnum"], {"origin": one["origin"]})
    return str(client.get_string_details(MODEL, "none", context).variant)


def test_a_hundred_thousand_units_get_one_arm_from_the_gateway_from_the_file_and_over_http(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    rings = (("origin=JFK", 50.0), ("origin=LGA", 20.0))
    exposed = expose(
        challenger=registered.better, percent=5.0, stage=2, rings=rings, contained=("origin=LGA",)
    )
    rows = [row(number) for number in range(COUNT)]
    wanted = [assign(exposed, one["tailnum"], time.time(), {"origin": one["origin"]}) for one in rows]
    for start in range(0, COUNT, BATCH):
        answer = gateway.client.post("/invocations", json=split(rows[start : start + BATCH]), timeout=60)
        assert answer.status_code == 200, answer.text
    served = {event["event_id"]: event["arm"] for event in logged(gateway)}
    assert [served[one["event_id"]] for one in rows] == wanted
    with client_of("file", **from_file(gateway)) as client:
        assert [arm(client, one) for one in rows] == wanted
    with sync_source(gateway) as (port, _), client_of("http", **over_http(port)) as client:
        assert [arm(client, one) for one in rows] == wanted
    by_origin = Counter(zip((one["origin"] for one in rows), wanted, strict=True))
    assert by_origin["LGA", UNEXPOSED] == sum(one["origin"] == "LGA" for one in rows)
    assert by_origin["JFK", CHALLENGER] > 9 * by_origin["EWR", CHALLENGER] > 0
    assert by_origin["JFK", UNEXPOSED] == 0


def test_what_is_withdrawn_or_lapses_reaches_every_reader(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    one = next(
        found
        for found in (row(3 * number) for number in range(100))
        if assign(Exposure(MODEL, 1, "1", "2", "r", 1, 50.0, 4_000_000_000), found["tailnum"], 0.0)
        == CHALLENGER
    )
    expose(challenger=registered.better, percent=50.0)
    with (
        sync_source(gateway) as (port, source),
        client_of("file", **from_file(gateway)) as file,
        client_of("http", **over_http(port)) as http,
    ):
        readers = {"file": file, "http": http}
        assert {name: arm(client, one) for name, client in readers.items()} == dict.fromkeys(
            readers, CHALLENGER
        )
        wait_until(lambda: 304 in source.asked, "an answer that says nothing has changed")
        # Nothing is published after this; the document itself says when everybody goes back.
        lapsing = int(time.time()) + 3
        expose(challenger=registered.better, percent=50.0, lease_expires_at=lapsing)
        wait_until(
            lambda: all(arm(client, one) == UNEXPOSED for client in readers.values()), "the end of the lease"
        )
        assert time.time() >= lapsing
        assert gateway.client.post("/invocations", json=split([one])).headers["x-understudy-arm"] == UNEXPOSED
        expose(challenger=registered.better, percent=50.0)
        wait_until(lambda: arm(http, one) == CHALLENGER, "the new lease over HTTP")
        expose()
        wait_until(
            lambda: all(arm(client, one) == UNEXPOSED for client in readers.values()), "the withdrawal"
        )


def test_control_is_the_champion_by_name_so_that_an_sdk_can_serve_it(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.better, percent=50.0)
    flag = json.loads(gateway.client.get("/flags").text)["flags"][MODEL]
    assert flag["variants"] == {
        UNEXPOSED: registered.good,
        CONTROL: registered.good,
        CHALLENGER: registered.better,
    }
