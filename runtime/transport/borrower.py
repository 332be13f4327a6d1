"""The borrowing side of shared memory: leases of other processes claimed, their segments mapped once and kept."""

from __future__ import annotations

import array
import os
import socket
import threading
import time
from collections import deque

from runtime._ext.buffer_pool import Buffer, Memory
from runtime._ext.errors import DataLoss, NotFound, PermissionDenied, Unavailable
from runtime.transport import segments
from runtime.transport.lender import (
    CLAIM,
    FORGET,
    GRANTED,
    IDLE_S,
    RELEASE,
    REPLY,
    REQUEST,
    lender,
    peer_user,
)

__all__ = ["ANSWER_S", "claim", "num_borrowed"]

ANSWER_S = 2.0
"""How long a lender gets to answer a claim.

It answers from a thread of its own, within 50 us as a rule; one that is silent for so long is frozen, or its machine
busy. Short, because the tensor is then asked for in another way, and only there the lender may count as lost.
"""
_DESCRIPTOR_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)


class _Borrower:
    """A connection to one lender.

    The lender ends all leases when the connection closes, so it stays open as long as any is in use. Leases end from
    whichever thread drops the last view of the memory, perhaps in the middle of a claim: so `_ended` is without a lock,
    and does not wait.

    Attributes
    ----------
    is_closed : bool
        Whether nothing more can be claimed.
    """

    def __init__(self, address: str, answer_s: float) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._segments: dict[int, Memory] = {}
        self._used: dict[int, float] = {}  # segment to when it was last claimed or given back
        self._in_use: dict[int, int] = {}  # lease to segment
        self._unsent: deque[bytes] = deque()
        self._pid = os.getpid()
        self._is_broken = False
        self.is_closed = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.settimeout(answer_s)
            self._sock.connect("\0" + address[1:] if address.startswith("@") else address)
            user = peer_user(self._sock)
        except OSError as error:
            self._sock.close()
            raise Unavailable(f"the memory of {address} cannot be reached: {error}") from error
        if user != os.getuid():
            self._sock.close()
            raise PermissionDenied(f"{address} belongs to user {user}; memory is shared with processes of one's own "
                                   "user only")

    def __del__(self) -> None:
        sock = getattr(self, "_sock", None)
        if sock is not None:
            sock.close()

    @property
    def num_in_use(self) -> int:
        """Return how many leases have not ended."""
        return len(self._in_use)

    def claim(self, lease: int, nbytes: int, answer_s: float) -> Buffer:
        deadline = time.monotonic() + answer_s
        if not self._lock.acquire(timeout=answer_s):
            raise Unavailable(f"the memory of {self.address} is not answered for: others wait for it, too")
        try:
            if self.is_closed:
                raise Unavailable(f"the connection to the memory of {self.address} has ended")
            try:
                self._flush()
                self._wait_until(deadline)
                self._sock.send(REQUEST.pack(CLAIM, lease))
                while True:
                    self._wait_until(deadline)
                    reply, descriptors = self._answer()
                    what, is_read_only, number, segment, capacity, found = REPLY.unpack(reply)
                    if number == lease:
                        break
                    for descriptor in descriptors:  # the answer to a claim that was given up
                        os.close(descriptor)
            except OSError as error:
                self.close()
                raise Unavailable(f"the memory of {self.address} is not answered for: {error}") from error
            if what != GRANTED:
                raise NotFound(f"the lease of {nbytes} bytes at {self.address} has ended: it was not claimed in time")
            memory = self._memory(segment, capacity, descriptors)
            self._in_use[lease] = segment
            self._used[segment] = time.monotonic()
        finally:
            self._lock.release()
        if found != nbytes:
            self._ended(lease)
            raise DataLoss(f"the lease at {self.address} is for {found} bytes; {nbytes} were announced")
        return Buffer(memory, nbytes, not is_read_only, lambda _: self._ended(lease))

    def _wait_until(self, deadline: float) -> None:
        """Let what is done next with the socket wait no longer."""
        self._sock.settimeout(max(deadline - time.monotonic(), 1e-3))  # 0 would not wait at all

    def _answer(self) -> tuple[bytes, list[int]]:
        reply, ancillary, _, _ = self._sock.recvmsg(REPLY.size, _DESCRIPTOR_BYTES, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[:len(data) - len(data) % descriptors.itemsize])
        if len(reply) != REPLY.size:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ConnectionResetError("the connection has ended")
        return reply, list(descriptors)

    def _memory(self, segment: int, capacity: int, descriptors: list[int]) -> Memory:
        for descriptor in descriptors[:1]:
            self._segments[segment] = segments.map_segment(descriptor, capacity, segment)
        memory = self._segments.get(segment)
        if memory is None:
            self.close()
            raise DataLoss(f"{self.address} lends segment {segment}, of which it has not sent the descriptor")
        return memory

    def _ended(self, lease: int) -> None:
        if os.getpid() != self._pid:
            return  # a child, which has the memory from its parent: the lease is the parent's
        segment = self._in_use.pop(lease, None)
        if segment is not None:
            self._used[segment] = time.monotonic()
        self._unsent.append(REQUEST.pack(RELEASE, lease))
        self._flush()
        if self.is_closed and not self._in_use:
            self._sock.close()

    def _flush(self) -> None:
        """Send what ended leases have left to say, as far as that goes without waiting."""
        while self._unsent and not self._is_broken:
            try:
                packet = self._unsent.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                self._sock.send(packet, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._unsent.appendleft(packet)
                return
            except OSError:
                self._is_broken = self.is_closed = True  # the lender has gone; the mappings stay

    def trim(self, idle_s: float) -> None:
        """Unmap segments that nobody has used for so long."""
        before = time.monotonic() - idle_s
        if not self._lock.acquire(blocking=False):
            return  # somebody waits for the lender
        try:
            self._flush()
            in_use = set(self._in_use.values())
            for segment, used in list(self._used.items()):
                if segment not in in_use and used <= before:
                    self._segments.pop(segment, None)
                    self._used.pop(segment, None)
                    self._unsent.append(REQUEST.pack(FORGET, segment))
            self._flush()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Claim nothing more; memory that is in use stays so."""
        self.is_closed = True
        self._segments.clear()
        if not self._in_use:
            self._sock.close()


_borrowers: dict[str, _Borrower] = {}
_lock = threading.Lock()
_is_kept = False


def claim(address: str, lease: int, nbytes: int, answer_s: float = ANSWER_S) -> Buffer:
    """Return the memory of a lease.

    Parameters
    ----------
    address : str
        Of the lender's socket.
    lease, nbytes : int
        As they were announced.
    answer_s : float
        Seconds that the lender gets to answer.

    Returns
    -------
    Buffer
        The lease ends when its last view dies.

    Raises
    ------
    Unavailable
        The lender cannot be reached.
    PermissionDenied
        It belongs to another user.
    NotFound
        The lease has ended.
    DataLoss
        The lender does not keep to what was announced.

    Notes
    -----
    Waits for the lender's thread, some 50 us as a rule, and `answer_s` for one that is frozen. Safe from several
    threads.
    """
    global _is_kept
    with _lock:
        found = _borrowers.get(address)
        if found is None or found.is_closed:
            found = _borrowers[address] = _Borrower(address, answer_s)
            if not _is_kept:
                _is_kept = True
                lender().every_tick(_tick)
    return found.claim(lease, nbytes, answer_s)


def num_borrowed() -> int:
    """Return how many leases of others are in use here."""
    return sum(found.num_in_use for found in list(_borrowers.values()))


def _tick() -> None:
    """Give back what is idle; called in a thread that others wait for."""
    for address, found in list(_borrowers.items()):
        found.trim(IDLE_S)
        if found.is_closed:
            with _lock:
                if _borrowers.get(address) is found:
                    del _borrowers[address]


def _forget() -> None:
    """A child must not answer for what its parent has borrowed."""
    global _lock, _is_kept
    _borrowers.clear()
    _lock = threading.Lock()
    _is_kept = False


os.register_at_fork(after_in_child=_forget)
