"""Ports that are chosen before their server runs, and kept for it until then."""

from __future__ import annotations

import socket
import sys

__all__ = ["HeldPort"]


class HeldPort:
    """A free port of the loopback address that nobody else is given while it is held.

    The socket here is bound and never listens. Linux gives its port to no one who asks for any port and to no outgoing
    connection, but a server that names it and sets SO_REUSEADDR may listen there, any number of times, one after the
    other. Other systems refuse that server, so there the port is let go when it is needed, and may be lost.

    Attributes
    ----------
    address : str
        ``HOST:PORT``.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket: socket.socket | None = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, 0))
        except BaseException:
            self._socket.close()
            raise
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def lend(self) -> None:
        """Let a server have the port from now on; call it right before the server starts."""
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Let go of the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
