"""One client's connection: uvicorn's own, with an end to what a slow or endless request may take."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from understudy.gateway import protocol

__all__ = ["AnswerNow", "Connection", "Deliver"]

Deliver = Callable[[Sequence[tuple[bytes, bytes]], bytes], None]
"""Takes the headers, which are well-formed, and the body of an answer with status 200."""

AnswerNow = Callable[[Mapping[str, Any], bytes, Deliver, Callable[[], None]], bool]
"""Takes the ASGI scope of a request, its whole body, and two things of which it calls one, once, at once or before the event loop
waits for anything again: the first with the answer; the second if there is none after all, and then the application is called.
Returns whether it will; if not it has done nothing, and the application is called."""

_HEAD_BYTES = 64 * 1024
# What is remembered, for all connections together.
_KNOWN_HEADS = 256
_KNOWN_HEAD_BYTES = 1024
_Head = tuple[Mapping[str, Any], int]
_Deferred = tuple[RequestResponseCycle, Any]


class Connection(HttpToolsProtocol):
    """A connection whose requests must arrive whole within some time, with a head and framing of bounded size.

    uvicorn leaves this to a proxy in front of it; the gateway may stand without one.

    A request that can be answered in the same turn of the event loop is, and its answer leaves in one write: a task, the
    messages that ASGI passes to and fro, and a second write for the body would together cost more than many a model. A client
    sends the same head with every request, so the heads of such requests are remembered: one that comes again, byte for byte,
    with a body of the same length behind it and nothing else, means what it meant before and is not parsed again.

    Args:
        answer_now: Answers what needs no waiting for anything but its line in the log.
        max_body_bytes: Largest body that the application reads.
        receive_seconds: Time from the first byte of a request to its last; also for a connection that sends nothing.
        server: What uvicorn passes on.
    """

    _heads: ClassVar[dict[bytes, _Head]] = {}

    def __init__(
        self, *, answer_now: AnswerNow, max_body_bytes: int, receive_seconds: float, **server: Any
    ) -> None:
        super().__init__(**server)
        self._answer_now = answer_now
        self._at_head = False
        self._deferred: _Deferred | None = None
        self._asked_already = False
        self._just_answered: _Head | None = None
        # The request whose answer will be delivered in this turn: as it came if it was not parsed.
        self._owed: bytes | _Deferred | None = None
        self._early: list[bytes] = []
        self._ends = False
        self._answered_at = 0.0
        # Small chunks have more framing than content.
        self._most_bytes = 2 * max_body_bytes + _HEAD_BYTES
        self._seconds = receive_seconds
        self._began: float | None = None
        self._in_head = True
        self._received = 0
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._began = self.loop.time()
        self._timer = self.loop.call_later(self._seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, up to the bounds."""
        if self._owed is not None:
            self._early.append(data)
        elif not (self._resting and self._known_and_answered(data)):
            self._read(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open for an answer that is about to be delivered."""
        self._ends = self._owed is not None
        return self._ends

    def shutdown(self) -> None:
        """Close, after the answer that is about to be delivered."""
        if self._owed is not None:
            self._ends = True
        else:
            super().shutdown()

    def _read(self, data: bytes) -> None:
        resting = self._resting
        self._just_answered = None
        self._received += len(data)
        super().data_received(data)
        self._asked_already = False
        if resting and self._just_answered is not None:
            self._learn(data, *self._just_answered)
        if self._received > (_HEAD_BYTES if self._in_head else self._most_bytes):
            self._refuse(
                "431 Request Header Fields Too Large", f"The headers are larger than {_HEAD_BYTES} bytes."
            )

    def on_message_begin(self) -> None:
        """Note when a request begins."""
        super().on_message_begin()
        self._began = self.loop.time()
        self._in_head = True
        self._received = 0

    def on_headers_complete(self) -> None:
        """Note that the rest is the body."""
        self._at_head = True
        super().on_headers_complete()
        self._at_head = self._in_head = False

    def on_body(self, body: bytes) -> None:
        """Let the application read a long body while it arrives."""
        super().on_body(body)
        if self._deferred is not None and len(self._deferred[0].body) > HIGH_WATER_LIMIT:
            self._start_deferred()

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        super().on_message_complete()
        self._began = None
        self._received = 0
        if self._deferred is not None and not self._answered_now(self._deferred):
            self._start_deferred()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Call the application, but not for a request whose body may be here in a moment."""
        if self._at_head and cycle.scope["method"] == "POST" and not cycle.waiting_for_100_continue:
            self._deferred = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _start_deferred(self) -> None:
        if self._deferred is not None:
            (cycle, app), self._deferred = self._deferred, None
            super()._start_asgi_task(cycle, app)

    def _answered_now(self, deferred: _Deferred) -> bool:
        """Answer a whole request in this turn, unless the connection ends with it or its client is slow to read."""
        cycle, _ = deferred
        if not cycle.keep_alive or cycle.flow.write_paused or self.transport.is_closing():
            return False
        if self._asked_already or not self._takes(deferred, cycle.scope, bytes(cycle.body)):
            return False
        self._deferred = None
        self._just_answered = cycle.scope, len(cycle.body)
        return True

    def _takes(self, owed: bytes | _Deferred, scope: Mapping[str, Any], body: bytes) -> bool:
        self._owed = owed
        if not self._answer_now(scope, body, self._deliver, self._leave):
            self._owed = None
            return False
        return True

    def _deliver(self, headers: Sequence[tuple[bytes, bytes]], told: bytes) -> None:
        """Write the answer that is owed, and go on."""
        owed, self._owed = self._owed, None
        if self.transport.is_closing():
            return
        parts = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in chain(self.server_state.default_headers, headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", told)
        self.transport.write(b"".join(parts))
        if isinstance(owed, tuple):
            cycle, _ = owed
            cycle.response_started = cycle.response_complete = True
            cycle.on_response()
        else:
            self.server_state.total_requests += 1
        if self._early or self._ends:
            self._go_on()

    def _leave(self) -> None:
        """Let the application answer what is owed."""
        owed, self._owed = self._owed, None
        if self.transport.is_closing():
            return
        self._asked_already = True
        if isinstance(owed, tuple):
            super()._start_asgi_task(*owed)
        elif owed is not None:
            self._read(owed)
        self._asked_already = False
        self._go_on()

    def _go_on(self) -> None:
        """Read what came while an answer was owed, and end if that is what came."""
        early, self._early = b"".join(self._early), []
        if early:
            self.data_received(early)
        if self._ends and self._owed is None:
            super().shutdown()

    @property
    def _resting(self) -> bool:
        """Whether everything that came was answered, so that what comes next is the beginning of a request."""
        if self.cycle is None:
            return not self._received
        return self._began is None and self.cycle.response_complete and not self.pipeline

    def _known_and_answered(self, data: bytes) -> bool:
        """Answer what is nothing but one request with a known head, in this turn."""
        end = data.find(b"\r\n\r\n", 0, _KNOWN_HEAD_BYTES) + 4
        known = self._heads.get(data[:end])
        if (
            known is None
            or known[1] != len(data) - end
            or self.flow.write_paused
            or self.transport.is_closing()
        ):
            return False
        self._answered_at = self.loop.time()  # which it is about to be
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()
        if not self._takes(data, known[0], data[end:]):
            self._asked_already = True
            return False
        self._began = None
        return True

    def _learn(self, data: bytes, scope: Mapping[str, Any], length: int) -> None:
        """Remember the head of what was answered on the spot, if it came in one piece with its body and nothing else."""
        end = data.find(b"\r\n\r\n", 0, _KNOWN_HEAD_BYTES) + 4
        if data.startswith(b"POST ") and end + length == len(data):
            if len(self._heads) >= _KNOWN_HEADS:
                self._heads.clear()
            self._heads[data[:end]] = scope, length

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle, of which uvicorn does not know where requests were not parsed."""
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    @property
    def _busy(self) -> bool:
        """Whether a request is whole and its answer on its way."""
        cycle = self.cycle
        return cycle is not None and not (cycle.response_complete or cycle.more_body)

    def _look(self) -> None:
        """Refuse a request that takes too long. One timer a connection, not one a request, keeps this cheap."""
        now = self.loop.time()
        ours = self._busy or self.flow.read_paused  # then it is this side that is late
        due = (now if ours or self._began is None else self._began) + self._seconds
        if due > now:
            self._timer = self.loop.call_at(due, self._look)
        elif self.scope is None:
            self.transport.close()  # not a byte of a request has come, so there is nothing to answer
        else:
            self._refuse("408 Request Timeout", f"The request did not arrive within {self._seconds:g} s.")

    def _refuse(self, status: str, why: str) -> None:
        """Say why, unless an answer is on its way already, and close."""
        if self.transport.is_closing():
            return
        if self._owed is not None:
            self._ends = True
            return
        cycle = self.cycle
        if not self._busy and (cycle is None or cycle.response_complete or not cycle.response_started):
            body = protocol.error_body(protocol.bad_request(why))
            lines = (
                f"HTTP/1.1 {status}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
                "\r\n",
            )
            self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()
