"""Bytes in flight: one bound for the whole process on what requests and answers may hold at once.

Messages have no size limit of their own, so many large ones at a time could exhaust the memory of the machine and
take everybody's work with them. Beyond the bound a call is refused with RESOURCE_EXHAUSTED, and the others live.
"""

from __future__ import annotations

import threading
from typing import Any

from runtime.errors import ResourceExhausted

# Answers below this size are counted only while their handler runs: watching each one until it is on the wire
# would cost more than the memory it holds for those microseconds.
WATCHED_ANSWER_BYTES = 64 << 10


class Account:
    """The bytes in flight of one server; all accounts of the process together make its use.

    Handlers read and write ``used`` directly: this is on the path of every call, and only the server's own loop
    thread ever changes it.

    Parameters
    ----------
    limit : int
        Bytes that all accounts of the process may hold before this server refuses calls.

    Attributes
    ----------
    used : int
        Bytes held now by this server's calls.
    num_calls : int
        Calls answered so far.
    """

    __slots__ = ("limit", "num_calls", "others", "used")

    _open: list[Account] = []  # noqa: RUF012 - the process's accounts, deliberately shared
    _lock = threading.Lock()

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.num_calls = 0
        self.others: tuple[Account, ...] = ()

    def open(self) -> None:
        """Count this account with the process's others, and theirs with it."""
        with self._lock:
            if self not in self._open:
                self._open.append(self)
            self._introduce()

    def close(self) -> None:
        """Forget this account."""
        with self._lock:
            if self in self._open:
                self._open.remove(self)
            self.others = ()
            self._introduce()

    @classmethod
    def _introduce(cls) -> None:
        for account in cls._open:
            account.others = tuple(other for other in cls._open if other is not account)

    def fits(self, nbytes: int) -> bool:
        """Return whether ``nbytes`` more stay within the limit."""
        total = self.used + nbytes
        for other in self.others:
            total += other.used
        return total <= self.limit

    def refusal(self, nbytes: int, what: str) -> ResourceExhausted:
        """Return the error for a message of ``nbytes`` that does not fit."""
        if nbytes > self.limit:
            return ResourceExhausted(
                f"{what} of {nbytes} bytes is larger than max_bytes_in_flight ({self.limit} bytes): raise that "
                "setting or send it in parts"
            )
        held = self.used + sum(other.used for other in self.others)
        return ResourceExhausted(
            f"{what} of {nbytes} bytes does not fit: {held} bytes are in flight and max_bytes_in_flight is "
            f"{self.limit} bytes; retry when other calls have ended or raise that setting"
        )

    def hold_answer(self, nbytes: int, context: Any) -> None:
        """Count an answer until gRPC has sent it.

        Raises
        ------
        ResourceExhausted
            If it does not fit.
        """
        if not self.fits(nbytes):
            raise self.refusal(nbytes, "an answer")
        self.used += nbytes

        def release(_context: Any) -> None:
            self.used -= nbytes

        context.add_done_callback(release)
