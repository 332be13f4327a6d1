"""A barrier: tuples that come together key by key, component by component, and leave when they are whole."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Cancelled, Error, InvalidArgument, OutOfRange
from runtime.dtypes import DataType
from runtime.ops.shapes import format_shape
from runtime.ops.state.queue import Queue
from runtime.ops.state.stores import PriorityStore

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.ops.registry import Shape
    from runtime.ops.state.waiting import Done

__all__ = ["FIRST_INDEX", "Barrier"]

FIRST_INDEX = -(1 << 63)
"""Index of the keys that came first."""


class Barrier:
    """A barrier; safe from several threads.

    Parameters
    ----------
    name : str
    component_types : sequence of DataType
    shapes : sequence of shape
        Of the components of one tuple.
    """

    def __init__(self, name: str, component_types: Sequence[DataType], shapes: Sequence[Shape]) -> None:
        self.name = name
        self.component_types = tuple(component_types)
        self.shapes = tuple(shapes)
        self._lock = threading.Lock()
        self._index = FIRST_INDEX
        self._closed = False
        self._cancels = False
        # Of each key its index and its components, None where one is missing.
        self._incomplete: dict[bytes, tuple[int, list[Any]]] = {}
        self._ready = Queue("PriorityQueue", f"{name}_queue", [DataType.INT64, DataType.STRING, *component_types],
                            [(), (), *shapes], -1, PriorityStore())

    def __repr__(self) -> str:
        return f"<Barrier {self.name} with {self._ready.size()} ready and {len(self._incomplete)} incomplete>"

    def ready_size(self) -> int:
        """Return how many tuples are whole."""
        return self._ready.size()

    def incomplete_size(self) -> int:
        """Return how many keys miss components."""
        return len(self._incomplete)

    def insert(self, step: StepContext, component: int, keys: Sequence[bytes], values: Any, done: Done) -> None:
        """Give one component of each key; ``done(None, None)``.

        Parameters
        ----------
        values : ndarray
            Shape ``(keys, ...)``.

        Raises
        ------
        InvalidArgument
            If a key has this component already, or the values are empty.
        Cancelled
            If the barrier is closed, and takes no more or not this key.
        """
        if keys and not values.size:
            raise InvalidArgument(f"Tensors with no elements are not supported {self.name}: received shape "
                                  f"{format_shape(values.shape)}")
        ready: list[tuple[Any, ...]] = []
        with self._lock:
            if self._closed and (self._cancels or (keys and not self._incomplete)):
                raise Cancelled(f"Barrier {self.name} is closed.  Pending enqueues cancelled: {int(self._cancels)}.  "
                                f"Number of new insertions: {len(keys)}.  Number of incomplete keys: "
                                f"{len(self._incomplete)}.")
            has_new, problem = False, None
            try:
                for number, key in enumerate(keys):
                    has_new |= self._insert_one(number, key, component, values[number, ...], ready)
            except Error as error:  # what has become whole before leaves all the same
                problem = error
            self._index += has_new
            closes = self._closed and not self._incomplete and bool(ready)
        if not ready:
            done(None, problem)
            return

        def finish(_: Any, error: BaseException | None) -> None:
            if error is None and closes:
                self._close_queue(step, False, lambda _, error: done(None, problem or error))
            else:
                done(None, problem or error)

        self._ready.enqueue(step, ready, finish)

    def _insert_one(self, number: int, key: bytes, component: int, value: Any, ready: list[tuple[Any, ...]]) -> bool:
        """Give a component of one key, with the lock held; return whether the key is new."""
        entry = self._incomplete.get(key)
        is_new = entry is None
        if entry is None:
            if self._closed:
                raise Cancelled(f"Barrier {self.name} is closed, but attempted to insert a brand new key: "
                                f"{key.decode('utf-8', 'replace')}.  Pending enqueues cancelled: "
                                f"{int(self._cancels)}.  Insertion index: {number}.  Number of incomplete keys: "
                                f"{len(self._incomplete)}.")
            entry = self._incomplete[key] = self._index, [None] * len(self.component_types)
        index, components = entry
        if components[component] is not None:
            raise InvalidArgument(f"Key {key.decode('utf-8', 'replace')} already has a value for component "
                                  f"{component} in barrier {self.name}")
        components[component] = value
        if all(found is not None for found in components):
            del self._incomplete[key]
            ready.append((np.array(index), _text(key), *components))
        return is_new

    def take(self, step: StepContext, count: int, done: Done, *, allow_fewer: bool) -> None:
        """Take `count` whole tuples, those of early keys first; ``done([(index, key, ...), ...], None)``.

        When the barrier is closed with fewer left: those if `allow_fewer` and there are any, else OutOfRange, unless
        keys may still be completed.
        """
        with self._lock:
            if self._closed:
                available = self._ready.size()
                if allow_fewer:
                    count = min(count, available)
                if available < max(count, 1) and (allow_fewer or not self._incomplete):
                    raise OutOfRange(f"Barrier '{self.name}' is closed and has insufficient elements (requested "
                                     f"{count}, total size {available})")
        self._ready.dequeue(step, count, done, allow_fewer=allow_fewer)

    def shut(self, step: StepContext, done: Done, *, cancel_pending: bool) -> None:
        """Close the barrier: keys that are there may still be completed, unless `cancel_pending`.

        Raises
        ------
        Cancelled
            If it is closed already, and not about to be closed harder.
        """
        with self._lock:
            if self._closed and (self._cancels or not cancel_pending):
                raise Cancelled(f"Barrier '{self.name}' is already closed.")
            self._closed, self._cancels = True, cancel_pending
            ends = cancel_pending or not self._incomplete
            if ends:
                self._incomplete.clear()
        if ends:
            self._close_queue(step, cancel_pending, done)
        else:
            done(None, None)

    def _close_queue(self, step: StepContext, cancel_pending: bool, done: Done) -> None:
        self._ready.shut(step, lambda _, error: done(None, error), cancel_pending_enqueues=cancel_pending)

    def close(self) -> None:
        """Close the barrier at once, for whoever waits."""
        with self._lock:
            self._closed = self._cancels = True
            self._incomplete.clear()
        self._ready.close()


def _text(key: bytes) -> Any:
    array = np.empty((), object)
    array[()] = key
    return array
