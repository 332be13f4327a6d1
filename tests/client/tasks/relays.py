"""A way to a server that can be cut at any moment, and led to another server."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["Relay"]


class Relay:
    """Hands bytes on between clients and a server of 127.0.0.1; a context manager.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of the server; may be set anew, for connections that come then.

    Attributes
    ----------
    target : str
        What clients connect to.
    num_connections : int
        How many have been made.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.num_connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10.0)
        self.cut()
        for thread in self._threads:
            thread.join(10.0)

    def cut(self) -> None:
        """Break all connections."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.num_connections += 1
                host, _, port = self.address.rpartition(":")
                try:
                    far = socket.create_connection((host, int(port)), 10.0)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self._open |= {near, far}
                for one, other in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._hand_on, args=(one, other), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _hand_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(one)
        one.close()
