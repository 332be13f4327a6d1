"""A server's file of values, opened by a client of the same machine, which writes payloads there itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import os
import secrets
import weakref
from collections.abc import Sequence

from typing_extensions import Buffer

from runtime import wire
from runtime._ext.value_writer import write_values
from runtime.objects.head import answer_to, open_values
from runtime.objects.locks import lock, unlock
from runtime.transport.place import here

__all__ = ["NearFile", "NotNear", "hello_to"]

_CHALLENGE_BYTES = 32
# What a place in a file can be.
_LAST_LOCK = (1 << 63) - 2


class NotNear(Exception):
    """The payloads cannot be written to a file of the server's: they have to be sent."""


def hello_to(*, may_begin: bool) -> wire.runtime_v1.NearRequest:
    """Return the first message to a server.

    Parameters
    ----------
    may_begin : bool
        Whether tasks may begin before they are made, and be made one by one.

    Raises
    ------
    NotNear
        This machine does not say what identifies its boot.
    """
    boot_id = here().boot_id
    if not boot_id:
        raise NotNear
    challenge = secrets.token_bytes(_CHALLENGE_BYTES)
    return wire.runtime_v1.NearRequest(boot_id=boot_id, challenge=challenge, may_begin=may_begin)


class NearFile:
    """The file, opened and locked, and the thread that writes to it.

    The lock tells the server that writes may still be going on: it is let go when the last one has ended, or with the
    process.

    Attributes
    ----------
    proof : bytes
        What shows the server that this process can read the file.
    """

    def __init__(self, file: int, lock_at: int, proof: bytes) -> None:
        self.proof = proof
        self._file = file
        self._lock_at = lock_at
        self._closing: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "near-uploads")
        self._writes: set[concurrent.futures.Future[list[int]]] = set()
        _files.add(self)

    @classmethod
    def open(cls, hello: wire.runtime_v1.NearRequest, reply: wire.runtime_v1.NearReply) -> NearFile:
        """Open and lock the file that a server tells of; uses the disk.

        Raises
        ------
        NotNear
            It is not there, not to be written to by this user, another one, or cannot be locked.
        """
        told = reply.file
        if not told.path or told.boot_id != hello.boot_id or reply.lock_at > _LAST_LOCK:
            raise NotNear
        opened = open_values(told.path, told.device, told.number, os.O_RDWR)
        if opened is None:
            raise NotNear
        file, proof = opened
        try:
            challenges = hello.challenge + reply.challenge
            # A server that cannot read the file itself is not to have others write to it.
            if not hmac.compare_digest(told.proof, answer_to(b"server", challenges, proof)):
                raise NotNear
            try:
                lock(file, reply.lock_at)
            except OSError as error:
                raise NotNear from error
            return cls(file, reply.lock_at, answer_to(b"client", challenges, proof))
        except BaseException:
            os.close(file)
            raise

    def write(self, values: list[tuple[int, Sequence[Buffer]]], *, are_synced: bool) -> asyncio.Future[list[int]]:
        """Write values to their places, after those before them; return the CRC-32C of each. See `write_values`."""
        write = self._thread.submit(write_values, self._file, values, are_synced)
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return asyncio.wrap_future(write)

    def close(self) -> concurrent.futures.Future[None]:
        """Begin nothing any more, and let the lock go when nothing is being written; return when that was done."""
        if self._closing is None:
            for write in list(self._writes):
                write.cancel()
            self._closing = self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
        return self._closing

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            # Also where a process that was forked off meanwhile has the description, too.
            unlock(file, self._lock_at)
            os.close(file)

    def forget(self) -> None:
        """Close the descriptor of a process that was forked off: the lock is its parent's."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1


_files: weakref.WeakSet[NearFile] = weakref.WeakSet()


def _forget_all() -> None:
    for file in list(_files):
        file.forget()
    _files.clear()


os.register_at_fork(after_in_child=_forget_all)
