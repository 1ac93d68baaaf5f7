"""What the gateway and the challenger's process say to each other, and how it is cut into frames.

A frame is its length in four bytes, big endian, and a MessagePack array that starts with the kind of message. Both ends
are of one installation, so there is no version in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from understudy.gateway.config import TrafficColumns

__all__ = [
    "LARGEST_ANSWER",
    "OUT_OF_MEMORY",
    "Answer",
    "Ask",
    "Body",
    "Copy",
    "FromHosted",
    "Ready",
    "Rehearsed",
    "Splitter",
    "Start",
    "ToHosted",
    "Unloadable",
    "frame",
    "read_from_hosted",
    "read_to_hosted",
]

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes of the longest message that the challenger's process may send."""

OUT_OF_MEMORY = 12
"""Exit code of a challenger's process that reached its limit: what it still holds would fail every later call too."""

_LENGTH = struct.Struct(">I")


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request as it came in, for a process that reads it again.

    Attributes:
        content: Its body.
        content_type: Its ``Content-Type`` header.
    """

    content: bytes
    content_type: str | None


class Start(msgspec.Struct, array_like=True, tag=0):
    """The first message: what to load and what to keep to.

    Attributes:
        model: Registered model name.
        version: Its version.
        traffic: The columns of its requests.
        folder: Where its files go; files of an earlier start of the same version may lie there.
        digest: What its files must hash to, if that is known.
        events_dir: Root of the event log.
        memory: Bytes of data that the process may hold.
        timeout: Seconds that a server which answers for the version has for it.
    """

    model: str
    version: str
    traffic: TrafficColumns
    folder: str
    digest: str | None
    events_dir: str
    memory: int
    timeout: float


class Ask(msgspec.Struct, array_like=True, tag=1):
    """Rows that a caller waits for.

    Attributes:
        number: Names the call.
        body: The request.
        rows: Which of its rows; nothing is all of them.
        until: Monotonic seconds of this machine after which nobody waits any more.
    """

    number: int
    body: Body
    rows: list[int] | None
    until: float


class Copy(msgspec.Struct, array_like=True, tag=2):
    """Rows that the champion has answered and the challenger may rehearse on.

    Attributes:
        request_id: Correlation id of the request.
        trace_id: Its W3C trace id.
        received_at: Unix seconds.
        run_id: The run that is on.
        body: The request.
        rows: Which of its rows; nothing is all of them.
        event_ids: Name of the event of each of those rows.
        event_times: Unix second of each of those events.
    """

    request_id: str
    trace_id: str | None
    received_at: float
    run_id: str | None
    body: Body
    rows: list[int] | None
    event_ids: list[str]
    event_times: list[float]


class Ready(msgspec.Struct, array_like=True, tag=0):
    """The version is loaded and answers.

    Attributes:
        digest: What its files hash to.
        compiled: How it was compiled; nothing where it answers through MLflow.
        upstream: Address of the server that answers for it, if there is one.
    """

    digest: str
    compiled: str | None
    upstream: str | None


class Unloadable(msgspec.Struct, array_like=True, tag=1):
    """The version cannot be loaded; the process ends."""

    reason: str


class Answer(msgspec.Struct, array_like=True, tag=2):
    """What came of a call.

    Attributes:
        number: The call.
        answers: One per row, JSON-safe; nothing where there is an error.
        cpu_ms: CPU time of the call, divided over its rows.
        error: Why there is no usable answer.
    """

    number: int
    answers: list[Any] | None
    cpu_ms: float
    error: str | None


class Rehearsed(msgspec.Struct, array_like=True, tag=3):
    """What came of some copies, in the order they were sent.

    Attributes:
        copies: How many are done with.
        written: Their rows that are in the event log.
        failed: Their rows that could not be logged.
    """

    copies: int
    written: int
    failed: int


ToHosted = Start | Ask | Copy
FromHosted = Ready | Unloadable | Answer | Rehearsed


def frame(message: ToHosted | FromHosted) -> bytearray:
    """Return a message as a frame.

    Raises:
        TypeError: Something in it has no place in MessagePack.
        OverflowError: An integer in it has more than 64 bits.
        ValueError: Text in it is not valid Unicode, or it nests too deeply.
    """
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return buffer


class Splitter:
    """Cuts a stream of bytes into frames.

    Args:
        longest: Bytes of the longest frame that is accepted.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytearray]:
        """Take what has arrived and return every frame that is complete.

        Raises:
            ValueError: A frame is announced that is longer than the longest.
        """
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._longest:
                raise ValueError(
                    f"a frame of {length} bytes is announced, at most {self._longest} are accepted"
                )
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            yield self._buffer[start + _LENGTH.size : end]
            start = end
        del self._buffer[:start]


def read_to_hosted(data: bytearray) -> ToHosted:
    """Return a message to the challenger's process."""
    return _to_hosted.decode(data)


def read_from_hosted(data: bytearray) -> FromHosted:
    """Return a message from the challenger's process.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _from_hosted.decode(data)


def _plain(value: Any) -> Any:
    """Return what MLflow's server would put in the place of a value that JSON does not know."""
    # Imported here so that the challenger's process has said hello before it loads anything heavy.
    from mlflow.utils.proto_json_utils import NumpyEncoder

    return NumpyEncoder().default(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_to_hosted = msgspec.msgpack.Decoder(ToHosted)
_from_hosted = msgspec.msgpack.Decoder(FromHosted)
