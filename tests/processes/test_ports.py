from __future__ import annotations

import socket

from understudy.processes.ports import HeldPort


def test_held_ports_are_all_different() -> None:
    held = [HeldPort() for _ in range(50)]
    try:
        assert len({port.number for port in held}) == 50
    finally:
        for port in held:
            port.release()


def test_a_server_can_listen_on_a_port_that_is_held_for_it() -> None:
    with HeldPort() as port:
        port.hand_over()
        with (
            socket.create_server(("127.0.0.1", port.number)) as server,
            socket.create_connection(("127.0.0.1", port.number), timeout=5),
        ):
            connection, _ = server.accept()
            connection.close()


def test_a_preferred_port_is_taken_when_it_is_free() -> None:
    with HeldPort() as free:
        number = free.number
    with HeldPort(number) as port:
        assert port.number == number


def test_a_preferred_port_that_somebody_uses_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with HeldPort(number) as port:
            assert port.number != number


def test_a_preferred_port_that_somebody_holds_is_left_alone() -> None:
    with HeldPort() as first, HeldPort(first.number) as second:
        assert second.number != first.number


def test_the_address_names_the_port() -> None:
    with HeldPort() as port:
        assert port.url == f"http://127.0.0.1:{port.number}"
