"""Ports that are chosen before their server runs, and kept for it until then."""

from __future__ import annotations

import socket
import sys

__all__ = ["HeldPort"]


class HeldPort:
    """A port that is free on every address of this machine, and that nobody else is given while it is held.

    The socket here is bound and never listens. Linux gives its port to no one who asks for any port and to no outgoing
    connection, but a server that names it and sets SO_REUSEADDR may listen there, any number of times, one after the
    other. Other systems refuse that server, so there the port is let go when it is needed, and may be lost.

    Every address, because TensorFlow's server listens on all of them, and must not meet a connection of somebody else
    that has this port on one.

    Attributes
    ----------
    address : str
        ``HOST:PORT``.
    port : int
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket: socket.socket | None = _bound()
        self.port: int = self._socket.getsockname()[1]
        self.address = f"{host}:{self.port}"

    def lend(self) -> None:
        """Let a server have the port from now on; call it right before the server starts."""
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Let go of the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _bound() -> socket.socket:
    """Return a socket that is bound to some port of all addresses, of IPv6 too where there is such."""
    try:
        return _bind(socket.AF_INET6, "::")
    except OSError:
        return _bind(socket.AF_INET, "0.0.0.0")


def _bind(family: socket.AddressFamily, host: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, 0))
    except BaseException:
        made.close()
        raise
    return made
