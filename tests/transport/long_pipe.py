"""A long fat pipe in user space: bytes take their time, no more than so many are under way, and the line can be cut."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time

__all__ = ["LongPipe"]

_PIECE_BYTES = 64 << 10


class _Line:
    """One direction of one connection."""

    def __init__(self, pipe: LongPipe, source: socket.socket, to: socket.socket) -> None:
        self._pipe = pipe
        self._ends = source, to
        self._under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self.most_bytes = 0
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        pipe = self._pipe
        free_at = time.monotonic()
        with contextlib.suppress(OSError):
            while data := self._ends[0].recv(_PIECE_BYTES):
                # The line carries so many bytes a second, one after the other, and each arrives after the delay.
                free_at = max(free_at, time.monotonic()) + len(data) / pipe.bytes_per_s
                with self._changed:
                    self._under_way.append((free_at + pipe.delay_s, data))
                    self._bytes += len(data)
                    self.most_bytes = max(self.most_bytes, self._bytes)
                    self._changed.notify_all()
                    while self._bytes >= pipe.capacity_bytes and not self._ended:
                        self._changed.wait(1.0)
        self._end()

    def _give(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._changed:
                    while not self._under_way and not self._ended:
                        self._changed.wait(1.0)
                    if not self._under_way:
                        break
                    due, data = self._under_way[0]
                time.sleep(max(0.0, due - time.monotonic()))
                self._ends[1].sendall(data)
                with self._changed:
                    self._under_way.popleft()
                    self._bytes -= len(data)
                    self._changed.notify_all()
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class LongPipe:
    """The way to a server.

    Parameters
    ----------
    address : str
    delay_s : float
        In each direction.
    bytes_per_s : float

    Attributes
    ----------
    target : str
    capacity_bytes : int
        What is under way in one direction when the line is full.
    """

    def __init__(self, address: str, delay_s: float, bytes_per_s: float) -> None:
        host, port = address.split(":")
        self._to = (host, int(port))
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.capacity_bytes = int(delay_s * bytes_per_s)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._lines: list[_Line] = []
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                # What the sockets themselves hold must not count for much.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
                far = socket.create_connection(self._to)
                far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)
                self.num_connections += 1
                self._open += [near, far]
                self._lines += [_Line(self, near, far), _Line(self, far, near)]

    @property
    def most_bytes(self) -> int:
        """Return how many bytes were under way in one direction, at most."""
        return max((line.most_bytes for line in self._lines), default=0)

    def cut(self) -> None:
        """Cut every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self._listener.close()
        self.cut()
        for one in self._open:
            one.close()
