"""The ends of commands, as they come: a stream each for some, and a look at the list now and then for the rest."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from runtime.errors import DeadlineExceeded, Error, NotFound, Unavailable

if TYPE_CHECKING:
    from runtime.client.commands import Command, CommandClient

__all__ = ["Ends"]

# Commands with a stream of their own, which tells of an end at once.
WAITS = 32
# Commands that a look has found to be over, and whose last output is waited for.
OVER = 8
# How often the other ones are looked at; at most a tenth of the time goes into that.
LOOK_S = 0.5
_LOOK_SHARE = 10
# Commands of one answer of a look.
_PAGE = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class Ends:
    """Waits for commands to end.

    Parameters
    ----------
    client : CommandClient
    open_stream : callable
        ``open_stream(number, timeout_s)`` begins a call that ends when nothing more comes of a command's output.
    told : callable
        What a call has failed with, as an error of ours.
    deadline : float or None
        Time by ``time.monotonic`` at which waiting is over.
    retry_s : float
        For how long a server that cannot be reached is tried again.

    Concurrency: belongs to one thread; it has more of its own until the iteration ends.
    """

    def __init__(
        self,
        client: CommandClient,
        open_stream: Callable[[int, float | None], Any],
        told: Callable[[grpc.RpcError], Error],
        deadline: float | None,
        retry_s: float,
    ) -> None:
        self._client = client
        self._open_stream = open_stream
        self._told = told
        self._deadline = deadline
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        self._stop = threading.Event()

    def of(self, numbers: Sequence[int]) -> Generator[Command | None]:
        """Yield commands that have ended, whichever is first; None when the time is up.

        Raises
        ------
        NotFound
            If there is no such command.
        Error
            If the server cannot be asked.
        """
        later, over = deque(numbers), deque[int]()
        waits: set[concurrent.futures.Future[Command | None]] = set()
        last_words: set[concurrent.futures.Future[Command | None]] = set()
        look: concurrent.futures.Future[list[int]] | None = None
        pool = concurrent.futures.ThreadPoolExecutor(WAITS + OVER + 1, "commands")
        try:
            while waits or last_words or later or over:
                while later and len(waits) < WAITS:
                    waits.add(pool.submit(self._end, later.popleft()))
                while over and len(last_words) < OVER:
                    last_words.add(pool.submit(self._end, over.popleft()))
                if later and look is None:
                    look = pool.submit(self._look, list(later))
                pending: list[concurrent.futures.Future[Any]] = [*waits, *last_words, *([] if look is None else [look])]
                concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                if look is not None and look.done():
                    found = set(look.result()) & set(later)
                    look = None
                    over.extend(number for number in later if number in found)
                    later = deque(number for number in later if number not in found)
                for some in (waits, last_words):
                    for wait in [wait for wait in some if wait.done()]:
                        some.discard(wait)
                        yield wait.result()
        finally:
            self._stop.set()
            with self._lock:
                calls = list(self._calls)
            for call in calls:
                call.cancel()
            pool.shutdown(wait=False, cancel_futures=True)

    def _left_s(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _end(self, number: int) -> Command | None:
        """Wait for the end of a command; None when the time is up."""
        give_up, pause_s = time.monotonic() + self._retry_s, _FIRST_PAUSE_S
        while not self._stop.is_set():
            left_s = self._left_s()
            if left_s is not None and left_s <= 0:
                return None
            try:
                self._hear_out(number, left_s)
                command = self._client.get(number)
                if command.is_over:
                    return command
                give_up, pause_s = time.monotonic() + self._retry_s, _FIRST_PAUSE_S
            except Unavailable:
                if time.monotonic() + pause_s > give_up:
                    raise
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    def _hear_out(self, number: int, left_s: float | None) -> None:
        """Return when nothing more comes of a command's output, or the time is up."""
        call = self._open_stream(number, left_s)
        with self._lock:
            self._calls.add(call)
        try:
            if self._stop.is_set():
                call.cancel()
            for _ in call:
                pass
        except grpc.RpcError as error:
            told = self._told(error)
            if isinstance(told, NotFound):
                raise self._absent(number) from None
            if not self._stop.is_set() and not isinstance(told, DeadlineExceeded):
                raise told from None
        finally:
            with self._lock:
                self._calls.discard(call)

    def _look(self, numbers: Sequence[int]) -> list[int]:
        """Return, after a while, those that are over."""
        pause_s = LOOK_S
        last = max(numbers)
        while not self._stop.wait(pause_s):
            left_s = self._left_s()
            if left_s is not None and left_s <= 0:
                break
            began = time.monotonic()
            listed: dict[int, Command] = {}
            first = min(numbers)
            while first <= last:
                page = self._client.list(first=first, limit=_PAGE)
                listed.update((command.id, command) for command in page)
                first = page[-1].id + 1 if len(page) == _PAGE else last + 1
            for number in numbers:
                if number not in listed:
                    raise self._absent(number)
            if found := [number for number in numbers if listed[number].is_over]:
                return found
            pause_s = max(LOOK_S, _LOOK_SHARE * (time.monotonic() - began))
        return []

    def _absent(self, number: int) -> NotFound:
        return NotFound(f"{self._client.target}: there is no command {number}")
