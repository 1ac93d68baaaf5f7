"""A connection answers on the spot what it can, and leaves everything else to the application, as if there were no difference."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import uvicorn

from tests.gateway.conftest import logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.gateway.connection import Connection, Deliver

NOW, LATER, MAYBE = b"now", b"later", b"maybe"
BIG = 1 << 20


class Counting(Connection):
    """Counts the requests that are parsed."""

    parsed = 0

    def on_message_begin(self) -> None:
        type(self).parsed += 1
        super().on_message_begin()


class Doors:
    """Both ways to an answer. Bodies that start with ``now`` are answered on the spot; each answer repeats the body's size.

    Those that start with ``maybe`` are to be answered on the spot, and then are not.

    Args:
        at_once: Whether an answer on the spot is there at once, or by the end of the turn of the event loop.
    """

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.asked = 0
        self.now: list[bytes] = []
        self.later: list[bytes] = []

    def answer_now(
        self, scope: Mapping[str, Any], body: bytes, deliver: Deliver, leave: Callable[[], None]
    ) -> bool:
        self.asked += 1
        if not body.startswith((NOW, MAYBE)):
            return False
        if body.startswith(NOW):
            self.now.append(body)
            told = b"now %d" % len(body)
            leave = partial(deliver, [(b"content-length", b"%d" % len(told))], told)
        if self.at_once:
            leave()
        else:
            asyncio.get_running_loop().call_soon(leave)
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.later.append(body)
        await asyncio.sleep(0)
        told = b"later %d" % len(body)
        headers = [(b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


@pytest.fixture(params=["at once", "by the end of the turn"])
def doors(request: pytest.FixtureRequest) -> Doors:
    return Doors(request.param == "at once")


@pytest.fixture
def address(doors: Doors) -> Iterator[tuple[str, int]]:
    Counting.parsed = 0
    Connection._heads.clear()
    protocol = partial(Counting, answer_now=doors.answer_now, max_body_bytes=2 * BIG, receive_seconds=30.0)
    server = uvicorn.Server(
        uvicorn.Config(
            doors,
            port=0,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=1,
        )  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "start of the server")
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


def post(body: bytes, *lines: str) -> bytes:
    head = ["POST /invocations HTTP/1.1", "host: here", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def talk(address: tuple[str, int], *pieces: bytes, answers: int = 1) -> list[tuple[str, str]]:
    """Send pieces, each once the one before has left, and return status and body of the answers in their order."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = connection.makefile("rb")
        for piece in pieces:
            connection.sendall(piece)
        found = []
        while len(found) < answers:
            status = reader.readline().decode().split(" ", 1)[1].strip()
            headers = dict(line.decode().strip().split(": ", 1) for line in iter(reader.readline, b"\r\n"))
            found.append((status, reader.read(int(headers.get("content-length", "0"))).decode()))
        return found


def test_a_whole_request_is_answered_on_the_spot_and_the_application_never_hears_of_it(
    doors: Doors, address: tuple[str, int]
) -> None:
    assert talk(address, post(NOW)) == [("200 OK", "now 3")]
    assert doors.later == []


def test_what_cannot_be_answered_on_the_spot_reaches_the_application_whole(
    doors: Doors, address: tuple[str, int]
) -> None:
    assert talk(address, post(LATER)) == [("200 OK", "later 5")]
    assert doors.later == [LATER]


@pytest.mark.parametrize("body", [NOW * 100, LATER * 100])
def test_a_request_in_pieces_is_answered_once_it_is_whole(body: bytes, address: tuple[str, int]) -> None:
    request = post(body)
    pieces = [request[at : at + 37] for at in range(0, len(request), 37)]
    kind = body[:5].decode().removesuffix("no")
    assert talk(address, *pieces) == [("200 OK", f"{kind} {len(body)}")]


def test_a_long_body_is_read_by_the_application_while_it_arrives(
    doors: Doors, address: tuple[str, int]
) -> None:
    assert talk(address, post(NOW + bytes(BIG))) == [("200 OK", f"later {BIG + 3}")]
    assert doors.now == []


def test_pipelined_requests_are_answered_in_their_order(address: tuple[str, int]) -> None:
    bodies = [NOW, LATER, NOW * 2, NOW * 3, LATER * 2, LATER * 3, NOW * 4]
    expected = [("200 OK", f"{'now' if body.startswith(NOW) else 'later'} {len(body)}") for body in bodies]
    # A request behind one that is waited for may be answered by either way.
    found = talk(address, b"".join(map(post, bodies)), answers=len(bodies))
    assert [told.split()[1] for _, told in found] == [told.split()[1] for _, told in expected]
    assert found[:2] == expected[:2]


def test_what_was_answered_on_the_spot_is_not_answered_again_with_the_next_request(
    doors: Doors, address: tuple[str, int]
) -> None:
    get = b"GET /ping HTTP/1.1\r\nhost: here\r\n\r\n"
    found = talk(address, post(NOW) + get + post(NOW * 2), answers=3)
    assert [told.split()[1] for _, told in found] == ["3", "0", "6"]
    assert doors.now.count(NOW) == 1


def ask(connection: socket.socket, sent: bytes, answers: int = 1) -> list[str]:
    """Send something and return the bodies of the answers to it."""
    connection.sendall(sent)
    reader = connection.makefile("rb")
    found = []
    while len(found) < answers:
        assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = dict(line.decode().strip().split(": ", 1) for line in iter(reader.readline, b"\r\n"))
        found.append(reader.read(int(headers["content-length"])).decode())
    return found


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=30) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


def test_a_head_that_comes_again_is_not_parsed_again(doors: Doors, connection: socket.socket) -> None:
    bodies = [NOW + b"a", NOW + b"b", NOW + b"c"]
    assert [ask(connection, post(body, "x: again")) for body in bodies] == [["now 4"]] * 3
    assert doors.now == bodies
    assert Counting.parsed == 1


def test_a_head_is_known_to_every_connection(address: tuple[str, int], connection: socket.socket) -> None:
    ask(connection, post(NOW, "x: everywhere"))
    with socket.create_connection(address, timeout=30) as another:
        assert ask(another, post(NOW, "x: everywhere")) == ["now 3"]
        assert ask(another, post(LATER)) == ["later 5"]
    assert Counting.parsed == 2


def test_every_length_of_body_is_known_by_its_own_head(doors: Doors, connection: socket.socket) -> None:
    bodies = [NOW + b"x" * (number % 3) for number in range(9)]
    assert [ask(connection, post(body)) for body in bodies] == [[f"now {len(body)}"] for body in bodies]
    assert doors.now == bodies


def test_a_known_head_whose_body_cannot_be_answered_on_the_spot_reaches_the_application(
    doors: Doors, connection: socket.socket
) -> None:
    bodies = [NOW + b"..", LATER, NOW + b"..", LATER]
    assert [ask(connection, post(body)) for body in bodies] == [["now 5"], ["later 5"]] * 2
    assert doors.later == [LATER] * 2
    assert doors.asked == 4


def test_a_known_head_with_less_or_more_behind_it_than_its_body_is_parsed(
    doors: Doors, connection: socket.socket
) -> None:
    one = post(NOW)
    ask(connection, one)
    # A request behind one whose answer has not left yet is not answered on the spot.
    either = ["now 3", "now 3" if doors.at_once else "later 3"]
    assert ask(connection, one + one, answers=2) == either
    connection.sendall(one + one[:-1])
    assert ask(connection, one[-1:], answers=2) == either
    assert ask(connection, one) == ["now 3"]
    assert len(doors.now) + len(doors.later) == 6


def test_a_request_in_chunks_teaches_no_head(doors: Doors, connection: socket.socket) -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    whole, other = head + b"3\r\nnow\r\n0\r\n\r\n", head + b"3;a\r\nnow\r\n0\r\n\r\n"
    assert [ask(connection, sent) for sent in (whole, whole, other)] == [["now 3"]] * 3
    assert doors.now == [NOW] * 3
    assert Counting.parsed == 3
    assert not [head for head in Connection._heads if b"chunked" in head]


@pytest.mark.parametrize("known", [False, True])
def test_a_connection_stays_open_while_it_is_used_and_not_for_ever_after(
    address: tuple[str, int], connection: socket.socket, known: bool
) -> None:
    request = post(NOW, f"x: in use {known}")
    if known:
        with socket.create_connection(address, timeout=30) as another:
            ask(another, request)
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        assert ask(connection, request) == ["now 3"]
    assert Counting.parsed == 1
    assert connection.recv(1) == b""


def test_an_answer_that_is_not_to_be_had_after_all_comes_from_the_application(
    doors: Doors, connection: socket.socket
) -> None:
    # The first is parsed, the second known by its head.
    bodies = [MAYBE, MAYBE, NOW + b"..", MAYBE]
    assert [ask(connection, post(body, "x: maybe")) for body in bodies] == [["later 5"]] * 2 + [
        ["now 5"],
        ["later 5"],
    ]
    assert doors.later == [MAYBE] * 3
    assert doors.asked == 4
    assert ask(connection, post(MAYBE) + post(NOW) + post(LATER), answers=3)[0] == "later 5"


def test_what_a_client_sends_before_its_answer_left_is_read_after_that(
    doors: Doors, address: tuple[str, int]
) -> None:
    bodies = [kind + b"." * number for number in range(40) for kind in (NOW, MAYBE, NOW, LATER)]
    asked = b"".join(map(post, bodies))
    pieces = [asked[at : at + 61] for at in range(0, len(asked), 61)]
    found = talk(address, *pieces, answers=len(bodies))
    assert [int(told.split()[1]) for _, told in found] == list(map(len, bodies))
    assert sorted(doors.now + doors.later) == sorted(bodies)


@pytest.mark.parametrize("known", [False, True])
def test_a_client_that_sends_no_more_still_gets_its_answer(
    connection: socket.socket, address: tuple[str, int], known: bool
) -> None:
    request = post(NOW, f"x: no more {known}")
    if known:
        with socket.create_connection(address, timeout=30) as another:
            ask(another, request)
    connection.sendall(request)
    connection.shutdown(socket.SHUT_WR)
    assert b"".join(iter(partial(connection.recv, 4096), b"")).endswith(b"now 3")


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(address: tuple[str, int]) -> None:
    request = post(NOW, "expect: 100-continue")
    found = talk(address, request[: -len(NOW)], request[-len(NOW) :], answers=2)
    assert found == [("100 Continue", ""), ("200 OK", "later 3")]


def test_a_connection_that_is_to_close_is_answered_and_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(post(NOW, "connection: close"))
        told = b"".join(iter(partial(connection.recv, 4096), b""))
    assert told.endswith(b"later 3")
    assert b"connection: close" in told


def test_a_gateway_logs_each_request_once_whichever_way_it_takes(gateway: RunningGateway) -> None:
    assert gateway.status()["champion_how"].startswith("compiled to ")
    before = len(logged(gateway))
    url = gateway.client.base_url
    good = json.dumps(split([row(number) for number in range(3)])).encode()
    bad = json.dumps(split([row(1, event_time="soon")])).encode()
    spaced = json.dumps({**split([row(4)]), "params": None}).encode()
    asked = b"".join(post(body, "content-type: application/json") for body in (good, bad, spaced, good))
    found = talk((url.host, url.port or 0), asked, answers=4)
    assert [status[:3] for status, _ in found] == ["200", "400", "200", "200"]
    assert found[0] == found[3]
    assert len(logged(gateway)) - before == 3 + 1 + 3
