"""Free TCP ports on this machine, kept free until the server that is meant to have them binds."""

from __future__ import annotations

import socket
import sys
from types import TracebackType

__all__ = ["HeldPort"]


class HeldPort:
    """A port that nobody else is given while it is held.

    The socket is bound but never listens. On Linux a server that sets ``SO_REUSEADDR``, as every server started here
    does, may bind the same port beside it, so the port can stay held for as long as the server lives. Elsewhere it has
    to be released just before the server starts.

    Args:
        preferred: Port to take if it is free; 0 leaves the choice to the system, as does a preferred port in use.
        host: Interface to bind.
    """

    def __init__(self, preferred: int = 0, host: str = "127.0.0.1") -> None:
        self._host = host
        self._socket = self._bind(preferred) if preferred else self._bind(0)
        self.number: int = self._socket.getsockname()[1]

    def _bind(self, port: int) -> socket.socket:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if port:
            # Two bound sockets with SO_REUSEADDR may share a port, so a held one only shows without the option.
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                try:
                    probe.bind((self._host, port))
                except OSError:
                    port = 0
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((self._host, port))
        except OSError:
            held.bind((self._host, 0))
        return held

    @property
    def url(self) -> str:
        """Base URL of a server on this port."""
        return f"http://{self._host}:{self.number}"

    def hand_over(self) -> None:
        """Make way for the server, where the system would not let both bind."""
        if not sys.platform.startswith("linux"):
            self.release()

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()

    def __enter__(self) -> HeldPort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
