"""Partial runs: a step whose feeds come, and whose fetches go, in several calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime._ext.executor import DataflowRun, StepContext

__all__ = ["PartialRun"]

Done = Callable[["list[Any] | None", "BaseException | None"], None]


class PartialRun:
    """One partial run between its setup and its last call.

    Feeds and fetches are numbered as in the signature. Whoever speaks the protocol checks names and dependencies
    first; here a number that was used is refused too, so that no mistake goes unnoticed.

    Safe from several threads.
    """

    def __init__(self, run: DataflowRun, step: StepContext) -> None:
        self._run = run
        self._fed: set[int] = set()
        self._fetched: set[int] = set()
        self._lock = threading.Lock()
        self.step = step

    def feed(self, index: int, value: Any) -> None:
        """Give a feed its value; what depends on it runs with the next `fetch` or `finish`.

        Raises
        ------
        InvalidArgument
            If it was given before.
        Internal
            If the value is of another type.
        """
        with self._lock:
            if index in self._fed:
                raise InvalidArgument(f"feed {index} of the partial run has been given already")
            self._run.feed(index, value)
            self._fed.add(index)

    def fetch(self, indices: Sequence[int], done: Done) -> None:
        """Have ``done(values, error)`` called once, when these fetches are there or the run has failed.

        Raises
        ------
        InvalidArgument
            If one was fetched before.
        """
        with self._lock:
            again = self._fetched.intersection(indices)
            if again:
                raise InvalidArgument(f"fetch {min(again)} of the partial run has been taken already")
            self._fetched.update(indices)
        self._run.fetch(indices, done)

    def finish(self, done: Done) -> None:
        """Have ``done(None, error)`` called once, when everything has run; all feeds must have been given."""
        self._run.finish(done)

    def call(self, feeds: Sequence[tuple[int, Any]], fetches: Sequence[int], last: bool, done: Done) -> None:
        """Give feeds, and have ``done(outputs, error)`` called once these fetches are there or the run has failed.

        Parameters
        ----------
        feeds : sequence of (int, ndarray)
        fetches : sequence of int
            Without any, too, what the feeds have made ready runs.
        last : bool
            No call follows: `done` waits until everything has run.

        Raises
        ------
        InvalidArgument, Internal
            As `feed` and `fetch`.
        """
        for index, value in feeds:
            self.feed(index, value)

        def fetched(outputs: list[Any] | None, error: BaseException | None) -> None:
            if error is not None or not last:
                done(outputs, error)
            else:
                self.finish(lambda _, failure: done(None if failure is not None else outputs, failure))

        self.fetch(fetches, fetched)

    def cancel(self, error: BaseException) -> None:
        """End the run; calls that wait get the error."""
        self.step.cancel(error)
