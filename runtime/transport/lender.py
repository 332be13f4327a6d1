"""The lending side of shared memory: leases, and the unix socket on which others claim them.

A lease is made for one receiver and told to it over whatever connects the two. The receiver claims it on the socket,
and gets the descriptor of the segment if it has not mapped that one yet. From then on the lease belongs to this
connection: it ends when the receiver says so, or when the connection closes, as it does when the receiver dies. A lease
that nobody claims ends by itself. Nothing of this has a name in a file system, so nothing stays behind.

The socket is served by one thread of the process, which also gives back memory that is idle for long.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import secrets
import selectors
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from runtime._ext.buffer_pool import Buffer
from runtime._ext.errors import Unavailable
from runtime.transport import segments

__all__ = ["CLAIM", "FORGET", "GONE", "GRANTED", "RELEASE", "REPLY", "REQUEST", "Lender", "lender", "num_lent",
           "peer_user"]

logger = logging.getLogger(__name__)

CLAIM_TIMEOUT_S = 30.0
"""How long a lease waits to be claimed."""
IDLE_S = 30.0
"""How long a segment that nobody uses is kept."""
_TICK_S = 5.0
_MAX_CONNECTIONS = 1000
_BACKLOG = 128

# Packets of the socket, each one a message.
REQUEST = struct.Struct("<BxxxxxxxQ")
CLAIM, RELEASE, FORGET = 1, 2, 3
REPLY = struct.Struct("<BBxxxxxxQQQQ")  # what, is read-only, lease, segment, capacity, bytes
GRANTED, GONE = 1, 2


class _Lease:
    __slots__ = ("buffer", "expires", "is_read_only", "owner")

    def __init__(self, buffer: Buffer, is_read_only: bool, expires: float, owner: object) -> None:
        self.buffer = buffer
        self.owner = owner
        self.is_read_only = is_read_only
        self.expires = expires


class _Connection:
    """A receiver: what it has claimed, and which segments it has mapped."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.leases: dict[int, _Lease] = {}
        self.segments: set[int] = set()


class Lender:
    """The leases of this process.

    Attributes
    ----------
    address : str
        Of the socket: ``@`` and an abstract name, or a path where there are none.

    Notes
    -----
    Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, _Lease] = {}
        self._connections: dict[socket.socket, _Connection] = {}
        self._housekeeping: list[Callable[[], None]] = []
        self._path = ""
        self._pid = os.getpid()
        self._listener, self.address = self._listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        threading.Thread(target=self._serve, name="tensor-runtime-segments", daemon=True).start()

    def _listen(self) -> tuple[socket.socket, str]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            name = f"tensor-runtime-{secrets.token_hex(8)}"  # a path has 107 characters at most
            try:
                listener.bind(f"\0{name}")
                address = f"@{name}"
            except OSError:  # no abstract names here
                folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
                address = self._path = os.path.join(folder, name)
                listener.bind(address)
                os.chmod(address, 0o600)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise Unavailable(f"memory cannot be lent to other processes: no unix socket: {error}") from error
        return listener, address

    def lend(self, buffer: Buffer, is_read_only: bool, owner: object = None) -> int:
        """Make a lease, which holds the buffer until it ends.

        Parameters
        ----------
        buffer : Buffer
            Of a segment.
        is_read_only : bool
            Whether others see the same memory, so that the receiver must not write.
        owner : object, optional
            Held with the buffer: an array, which is then not changed in place by those who look at its references.

        Returns
        -------
        int
            Random 64 bits, by which it can be claimed.
        """
        number = secrets.randbits(64)
        with self._lock:
            self._waiting[number] = _Lease(buffer, is_read_only, time.monotonic() + CLAIM_TIMEOUT_S, owner)
        return number

    def revoke(self, number: int) -> tuple[Buffer, object] | None:
        """End a lease that nobody has claimed, and return the buffer and its owner; None when there is none."""
        with self._lock:
            lease = self._waiting.pop(number, None)
        return None if lease is None else (lease.buffer, lease.owner)

    @property
    def num_leases(self) -> int:
        """Return how many leases there are."""
        with self._lock:
            return len(self._waiting) + sum(len(found.leases) for found in self._connections.values())

    def every_tick(self, work: Callable[[], None]) -> None:
        """Have something done every few seconds, in the thread that serves the socket."""
        self._housekeeping.append(work)

    def _serve(self) -> None:
        next_tick = time.monotonic() + _TICK_S
        while True:
            for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                try:
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._read(self._connections[key.fileobj])  # type: ignore[index]
                except Exception:
                    logger.exception("a request for shared memory failed")
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [number for number, lease in self._waiting.items() if lease.expires <= now]
            dropped = [self._waiting.pop(number) for number in late]
        if dropped:
            logger.info("leases of shared memory were not claimed", extra={"leases": len(dropped)})
        del dropped
        try:
            segments.pool().trim(IDLE_S)
            for work in self._housekeeping:
                work()
        except Exception:
            logger.exception("giving back shared memory failed")

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        user = peer_user(sock)
        if user != os.getuid() or len(self._connections) >= _MAX_CONNECTIONS:
            logger.warning("a connection for shared memory was refused", extra={"user": user})
            sock.close()
            return
        with self._lock:
            self._connections[sock] = _Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, connection: _Connection) -> None:
        while True:
            try:
                packet = connection.sock.recv(REQUEST.size + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            kind, number = REQUEST.unpack(packet) if len(packet) == REQUEST.size else (0, 0)
            if kind == CLAIM:
                if not self._claim(connection, number):
                    self._close(connection)
                    return
            elif kind == RELEASE:
                with self._lock:
                    lease = connection.leases.pop(number, None)
                del lease  # outside of the lock: its memory goes back to the pool
            elif kind == FORGET:
                connection.segments.discard(number)
            else:  # the end, or no packet of ours
                self._close(connection)
                return

    def _claim(self, connection: _Connection, number: int) -> bool:
        """Answer a claim; tell whether the answer could be sent."""
        with self._lock:
            lease = self._waiting.pop(number, None)
            if lease is not None:
                connection.leases[number] = lease
        ancillary: list[tuple[int, int, Any]] = []
        if lease is None:
            reply = REPLY.pack(GONE, 0, number, 0, 0, 0)
        else:
            memory = lease.buffer.memory
            reply = REPLY.pack(GRANTED, lease.is_read_only, number, memory.name, memory.capacity, lease.buffer.nbytes)
            if memory.name not in connection.segments:
                connection.segments.add(memory.name)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory.descriptor]))]
        try:
            connection.sock.sendmsg([reply], ancillary)
        except OSError:  # gone, or it does not read its answers
            return False
        return True

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        with self._lock:
            self._connections.pop(connection.sock, None)
            leases = list(connection.leases.values())
            connection.leases.clear()
        connection.sock.close()
        del leases  # outside of the lock: their memory goes back to the pool

    def remove(self) -> None:
        """Remove the socket's file, if it has one."""
        if self._path and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def peer_user(sock: socket.socket) -> int:
    """Return the user at the other end of a unix socket."""
    _, user, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


_lender: Lender | None = None
_lender_lock = threading.Lock()


def lender() -> Lender:
    """Return this process's lender, made on first use.

    Raises
    ------
    Unavailable
        There can be no unix socket here.
    """
    global _lender
    with _lender_lock:
        if _lender is None:
            import atexit

            _lender = Lender()
            atexit.register(_lender.remove)
        return _lender


def num_lent() -> int:
    """Return how many leases this process has given that have not ended."""
    with _lender_lock:
        found = _lender
    return 0 if found is None else found.num_leases


def _forget() -> None:
    """A child has not the thread, and its parent's leases are not its own."""
    global _lender, _lender_lock
    _lender = None
    _lender_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
