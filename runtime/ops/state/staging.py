"""Staging areas: tuples of tensors that wait for whoever takes them, in order or by key, within bounds."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled, Error, InvalidArgument, ResourceExhausted
from runtime.ops.state.waiting import Completion, Done, Waiting, call_all

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext

__all__ = ["StagingArea", "StagingMap"]

_PUT, _TAKE = "Stage operation was cancelled", "Unstage operation was cancelled"
_STRING_BYTES = 24  # what TensorFlow counts for a string, however long

Tuple = Sequence[Any]


def _nbytes(tensors: Tuple) -> int:
    return sum(_STRING_BYTES * array.size if array.dtype.kind == "O" else array.nbytes for array in tensors)


class _Bounded:
    """What both kinds have in common: bounds, and lanes of those that wait for room and for tuples.

    Parameters
    ----------
    capacity : int
        Most tuples at a time; 0 for no limit.
    memory_limit : int
        Most bytes at a time; 0 for no limit.
    """

    def __init__(self, capacity: int, memory_limit: int, in_order: bool) -> None:
        self.capacity = capacity
        self.memory_limit = memory_limit
        self._bytes = 0
        self._lock = threading.Lock()
        self._putting = Waiting(self._lock, after=self._drive)
        self._taking = Waiting(self._lock, in_order, after=self._drive)

    def size(self) -> int:
        """Return how many tuples there are."""
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._clear()
            self._bytes = 0
            completions = self._drive()
        call_all(completions)

    def close(self) -> None:
        """Remove everything and end those that wait."""
        with self._lock:
            self._clear()
            self._bytes = 0
            completions = self._putting.fail(lambda: Cancelled(_PUT)) + self._taking.fail(lambda: Cancelled(_TAKE))
        call_all(completions)

    def _check_bytes(self, nbytes: int) -> None:
        if 0 < self.memory_limit < nbytes:
            raise ResourceExhausted(f"Attempted to insert tensors with combined size of '{nbytes}' bytes into Staging "
                                    f"Area with a memory limit of '{self.memory_limit}'.")

    def _has_room(self, nbytes: int) -> bool:
        return self.memory_limit <= 0 or self._bytes + nbytes <= self.memory_limit

    def _has_place(self) -> bool:
        return self.capacity <= 0 or self.size() < self.capacity

    def _drive(self) -> list[Completion]:
        """Let those that wait try until nobody gets further, with the lock held."""
        completions: list[Completion] = []
        while done := self._taking.drive() + self._putting.drive():
            completions += done
        return completions

    def _submit(self, lane: Waiting, step: StepContext, action: Callable[[], Any], done: Done, cancelled: str) -> None:
        """Do `action`, with the lock, until it gives something else than None."""

        def attempt() -> tuple[Any, BaseException | None] | None:
            try:
                result = action()
            except Error as error:
                return None, error
            return None if result is None else (result, None)

        what = "room in" if lane is self._putting else "tensors in"
        lane.submit(step, attempt, done, cancelled, lambda: f"{what} {self!r}")


class StagingArea(_Bounded):
    """Tuples in the order in which they came; safe from several threads."""

    def __init__(self, capacity: int, memory_limit: int) -> None:
        super().__init__(capacity, memory_limit, in_order=False)
        self._tuples: deque[Tuple] = deque()

    def __repr__(self) -> str:
        return f"<StagingArea of {len(self._tuples)} capacity {self.capacity} memory {self.memory_limit}>"

    def size(self) -> int:
        """Return how many tuples there are."""
        return len(self._tuples)

    def put(self, step: StepContext, tensors: Tuple, done: Done) -> None:
        """Add a tuple, when there is room for it; ``done(True, None)``.

        Raises
        ------
        ResourceExhausted
            If there never will be.
        """
        nbytes = _nbytes(tensors)
        self._check_bytes(nbytes)

        def action() -> bool | None:
            if not (self._has_room(nbytes) and self._has_place()):
                return None
            self._bytes += nbytes
            self._tuples.append(tensors)
            return True

        self._submit(self._putting, step, action, done, _PUT)

    def take(self, step: StepContext, done: Done) -> None:
        """Remove the oldest tuple, when there is one; ``done(tuple, None)``."""

        def action() -> Tuple | None:
            if not self._tuples:
                return None
            tensors = self._tuples.popleft()
            self._bytes -= _nbytes(tensors)
            return tensors

        self._submit(self._taking, step, action, done, _TAKE)

    def peek(self, step: StepContext, index: int, done: Done) -> None:
        """Give the tuple at a place, when there is one, and leave it there."""
        self._submit(self._taking, step, lambda: self._tuples[index] if index < len(self._tuples) else None, done,
                     _TAKE)

    def _clear(self) -> None:
        self._tuples.clear()


class StagingMap(_Bounded):
    """Tuples by key, put together and taken apart piece by piece; safe from several threads.

    Parameters
    ----------
    width : int
        Tensors of a whole tuple.
    is_ordered : bool
        Whether what is taken without a key has the smallest one; else the oldest.
    """

    def __init__(self, width: int, capacity: int, memory_limit: int, is_ordered: bool) -> None:
        super().__init__(capacity, memory_limit, in_order=False)
        self._width = width
        self._whole: dict[int, list[Any]] = {}
        self._parts: dict[int, list[Any]] = {}
        self._sorted: list[int] | None = [] if is_ordered else None

    def __repr__(self) -> str:
        return f"<StagingMap of {len(self._whole)} and {len(self._parts)} incomplete>"

    def size(self) -> int:
        """Return how many whole tuples there are."""
        return len(self._whole)

    def incomplete_size(self) -> int:
        """Return how many tuples miss tensors."""
        return len(self._parts)

    def put(self, step: StepContext, key: int, indices: Sequence[int], tensors: Tuple, done: Done) -> None:
        """Add tensors of a tuple, when there is room; ``done(True, None)``.

        Parameters
        ----------
        indices : sequence of int
            Places of the tensors, ascending.

        Raises
        ------
        InvalidArgument
            If the indices do not fit.
        ResourceExhausted
            If there never will be room.
        """
        _check_order(indices)
        nbytes = _nbytes(tensors)
        self._check_bytes(nbytes)
        is_whole = len(indices) == self._width

        def action() -> bool | None:
            if not self._has_room(nbytes) or (is_whole and not self._has_place()):
                return None
            if is_whole:
                self._complete(key, list(tensors))
            else:
                self._add(key, indices, tensors)
            self._bytes += nbytes
            return True

        self._submit(self._putting, step, action, done, _PUT)

    def take(self, step: StepContext, key: int, indices: Sequence[int], done: Done) -> None:
        """Remove tensors of the tuple with this key, when there is one; ``done(tensors, None)``."""
        _check_order(indices)
        self._submit(self._taking, step, lambda: self._removed(key, indices) if key in self._whole else None, done,
                     _TAKE)

    def peek(self, step: StepContext, key: int, indices: Sequence[int], done: Done) -> None:
        """Give tensors of the tuple with this key, when there is one, and leave them there."""
        _check_order(indices)
        self._submit(self._taking, step, lambda: self._picked(key, indices) if key in self._whole else None, done,
                     _TAKE)

    def take_any(self, step: StepContext, indices: Sequence[int], done: Done) -> None:
        """Remove tensors of some tuple, when there is one; ``done((key, tensors), None)``."""
        _check_order(indices)

        def action() -> tuple[int, Tuple] | None:
            if not self._whole:
                return None
            key = self._sorted[0] if self._sorted is not None else next(iter(self._whole))
            return key, self._removed(key, indices)

        self._submit(self._taking, step, action, done, _TAKE)

    def _add(self, key: int, indices: Sequence[int], tensors: Tuple) -> None:
        present = self._parts.get(key)
        known = present or [None] * self._width
        for index in indices:
            self._check_index(key, index)
            if known[index] is not None:
                raise InvalidArgument(f"The tensor for index '{index}' for key '{key}' was already initialized "
                                      f"'{self._width}'.")
        for index, tensor in zip(indices, tensors, strict=True):
            known[index] = tensor
        if present is not None and all(tensor is not None for tensor in known):
            del self._parts[key]
            self._complete(key, known)
        else:
            self._parts[key] = known

    def _complete(self, key: int, tensors: list[Any]) -> None:
        if key in self._whole:  # the first one stays
            return
        self._whole[key] = tensors
        if self._sorted is not None:
            insort(self._sorted, key)

    def _check_index(self, key: int, index: int) -> None:
        if not 0 <= index < self._width:
            raise InvalidArgument(f"Index '{index % (1 << 64)}' for key '{key}' was out of bounds '{self._width}'.")

    def _picked(self, key: int, indices: Sequence[int]) -> Tuple:
        tensors = self._whole[key]
        for index in indices:
            self._check_index(key, index)
            if tensors[index] is None:
                raise InvalidArgument(f"Tensor at index '{index}' for key '{key}' has already been removed.")
        return [tensors[index] for index in indices]

    def _removed(self, key: int, indices: Sequence[int]) -> Tuple:
        picked = self._picked(key, indices)
        tensors = self._whole[key]
        for index in indices:
            tensors[index] = None
        self._bytes -= _nbytes(picked)
        if all(tensor is None for tensor in tensors):
            del self._whole[key]
            if self._sorted is not None:
                del self._sorted[bisect_left(self._sorted, key)]
        return picked

    def _clear(self) -> None:
        self._whole.clear()
        self._parts.clear()
        if self._sorted is not None:
            self._sorted.clear()


def _check_order(indices: Sequence[int]) -> None:
    if any(left >= right for left, right in zip(indices, indices[1:], strict=False)):
        raise InvalidArgument("Indices are not strictly ordered")
