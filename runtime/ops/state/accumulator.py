"""Gradient accumulators: sums of gradients of enough workers, and a step that tells which gradients are too old."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Cancelled, InvalidArgument
from runtime._ext.row_sums import add_rows
from runtime.dtypes import DataType
from runtime.ops.objects import kept
from runtime.ops.partial_shapes import matches
from runtime.ops.shapes import format_shape
from runtime.ops.state.waiting import Done, Waiting, call_all

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.ops.registry import Shape

__all__ = ["Accumulator", "DenseAccumulator", "SparseAccumulator"]

_CANCELLED = "TakeGrad operation was cancelled"


class Accumulator:
    """What both kinds have in common; safe from several threads.

    Parameters
    ----------
    dtype : DataType
    shape : shape
        Of a gradient, as far as it is known.
    is_mean : bool
        Whether the result is the mean or the sum.

    Attributes
    ----------
    count : int
        Gradients since the last result.
    global_step : int
        Gradients of an earlier local step are dropped.
    """

    def __init__(self, name: str, dtype: DataType, shape: Shape, is_mean: bool) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.is_mean = is_mean
        self.count = 0
        self.global_step = 0
        self._lock = threading.Lock()
        self._waiting = Waiting(self._lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.dtype.label} {format_shape(self.shape)} with {self.count}>"

    def set_global_step(self, step: int) -> None:
        """Set the step from which on gradients count."""
        with self._lock:
            self.global_step = step

    def take(self, step: StepContext, num_required: int, done: Done) -> None:
        """Give the result of the gradients so far, as soon as there are enough, and start anew with the next step.

        Raises
        ------
        InvalidArgument
            If `num_required` is not positive.
        """
        if num_required <= 0:
            raise InvalidArgument(f"Argument num_required must be positive, but was {num_required}")

        def attempt() -> tuple[Any, None] | None:
            if self.count < num_required:
                return None
            self.global_step += 1
            result = self._result()
            self.count = 0
            self._clear()
            return result, None

        self._waiting.submit(step, attempt, done, _CANCELLED,
                             lambda: f"{num_required} gradients in {self!r}")

    def close(self) -> None:
        """End everything that waits."""
        with self._lock:
            completions = self._waiting.fail(lambda: Cancelled(_CANCELLED))
        call_all(completions)

    def _counted(self, local_step: int, add: Any) -> None:
        """Call `add` with the lock when a gradient of this step counts."""
        with self._lock:
            if local_step < self.global_step:
                return
            add()
            self.count += 1
            completions = self._waiting.drive()
        call_all(completions)

    def _result(self) -> Any:
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError

    def _divided(self, total: Any, counts: Any) -> Any:
        if total.dtype.kind in "iu":
            return (total / counts).astype(total.dtype)
        return np.divide(total, np.asarray(counts).astype(total.dtype))


class DenseAccumulator(Accumulator):
    """An accumulator of whole tensors."""

    def __init__(self, name: str, dtype: DataType, shape: Shape, is_mean: bool) -> None:
        super().__init__(name, dtype, shape, is_mean)
        self._total: Any = None
        self._is_own = False

    def apply(self, local_step: int, gradient: Any) -> None:
        """Add a gradient.

        Raises
        ------
        InvalidArgument
            If its shape is not that of the others.
        """

        def add() -> None:
            if self.count and self._total.shape != gradient.shape:
                raise _mismatch(self._total.shape, gradient.shape)
            if not matches(self.shape, gradient.shape):
                raise _mismatch(self.shape, gradient.shape)
            if not self.count:
                # Kept as it is until another one comes, unless it views the bytes of a request.
                self._total, self._is_own = kept(gradient), False
            elif self._is_own:
                np.add(self._total, gradient, out=self._total)
            else:
                self._total, self._is_own = np.asarray(np.add(self._total, gradient)), True

        self._counted(local_step, add)

    def _result(self) -> Any:
        return np.asarray(self._divided(self._total, self.count)) if self.is_mean else self._total

    def _clear(self) -> None:
        self._total = None


class SparseAccumulator(Accumulator):
    """An accumulator of rows with their indices, which ascend; a row counts for itself in the mean."""

    def __init__(self, name: str, dtype: DataType, shape: Shape, is_mean: bool) -> None:
        super().__init__(name, dtype, shape, is_mean)
        self._indices: Any = None  # as they are given out
        self._slots: Any = None  # where the row of each lies
        self._values: Any = None  # rows in the order in which they first came, with room for more
        self._counts: Any = None  # of each row
        self._used = 0
        self._ascends = True

    def apply(self, local_step: int, indices: Any, values: Any, shape: Any, has_known_shape: bool) -> None:
        """Add rows.

        Parameters
        ----------
        indices : ndarray
            Shape ``(n,)``, int64.
        values : ndarray
            Shape ``(n, ...)``.
        shape : ndarray
            Of the whole gradient, when `has_known_shape`.

        Raises
        ------
        InvalidArgument
            If the shapes do not fit.
        """

        def add() -> None:
            self._check(indices, values, shape if has_known_shape else None)
            if self.count:
                self._merge(indices, values)
            else:
                self._begin(indices.copy(), values.copy(), np.ones(len(indices), np.int64), _ascends(indices))

        self._counted(local_step, add)

    def _check(self, indices: Any, values: Any, shape: Any) -> None:
        if indices.ndim != 1:
            raise InvalidArgument(f"Input indices should be vector but received shape: {format_shape(indices.shape)}")
        if not values.ndim:
            raise InvalidArgument("Values cannot be 0-dimensional.")
        if len(values) != len(indices):
            raise InvalidArgument(f"Expected {len(indices)} non-empty input values, got {len(values)}")
        dims = self.shape or ()
        if shape is not None:
            if len(dims) > shape.size:
                raise InvalidArgument(f"Shape mismatch: expected shape rank at least {len(dims)}, got {shape.size}")
            for place, (dim, given) in enumerate(zip(dims, shape.reshape(-1).tolist())):
                if dim is not None and dim != given:
                    raise InvalidArgument(f"Shape mismatch: expected shape dim {place} to be {dim}, got {given}")
        if dims and dims[0] is not None and len(indices):
            beyond = indices >= dims[0]
            if beyond.any():
                place = int(np.argmax(beyond))
                raise InvalidArgument(f"Shape mismatch: index of slice {place} exceeded limits of shape; index is "
                                      f"{int(indices[place])} exceeded {dims[0]}")
        if self.count:
            if self._values.ndim != values.ndim:
                raise InvalidArgument(f"Shape mismatch: expected values rank {self._values.ndim}, got {values.ndim}")
            dims = self._values.shape
        elif len(dims) > values.ndim:
            raise InvalidArgument(f"Shape mismatch: expected values rank at least {len(dims)}, got {values.ndim}")
        for place in range(1, len(dims)):
            if dims[place] is not None and dims[place] != values.shape[place]:
                raise InvalidArgument(f"Shape mismatch: expected values dim {place} to be {dims[place]}, got "
                                      f"{values.shape[place]}")

    def _begin(self, indices: Any, values: Any, counts: Any, ascends: bool) -> None:
        """Hold these rows, each of which lies where its index does."""
        self._indices, self._values, self._counts = indices, values, counts
        self._slots = np.arange(len(indices))
        self._used = len(indices)
        self._ascends = ascends

    def _merge(self, indices: Any, values: Any) -> None:
        """Merge rows as two ascending lists; rows that do not ascend keep their place behind what came before them."""
        if not (self._ascends and _ascends(indices)):
            self._merge_slowly(indices, values)
            return
        places = np.searchsorted(self._indices, indices)
        is_known = self._indices.take(places, mode="clip") == indices if len(self._indices) else places < 0
        known = np.flatnonzero(is_known)
        slots = self._slots[places[known]]
        _add(self._values, slots, values, known)
        self._counts[slots] += 1
        if len(known) == len(indices):
            return
        fresh = np.flatnonzero(~is_known)
        end = self._used + len(fresh)
        if end > len(self._values):
            self._reserve(max(end, 2 * len(self._values)))
        self._values[self._used:end] = values[fresh]
        self._counts[self._used:end] = 1
        came = np.arange(len(fresh))
        at = places[fresh] + came
        is_old = np.ones(end, bool)
        is_old[at] = False
        merged, slots = np.empty(end, np.int64), np.empty(end, np.intp)
        merged[is_old], merged[at] = self._indices, indices[fresh]
        slots[is_old], slots[at] = self._slots, self._used + came
        self._indices, self._slots, self._used = merged, slots, end

    def _reserve(self, rows: int) -> None:
        used = self._used
        values = np.empty((rows, *self._values.shape[1:]), self._values.dtype)
        counts = np.empty(rows, np.int64)
        values[:used], counts[:used] = self._values[:used], self._counts[:used]
        self._values, self._counts = values, counts

    def _merge_slowly(self, indices: Any, values: Any) -> None:
        merged, old, new = _merged(self._indices.tolist(), indices.tolist())
        total = np.zeros((len(merged), *values.shape[1:]), values.dtype)
        counts = np.zeros(len(merged), np.int64)
        total[old] = self._values[self._slots]
        counts[old] = self._counts[self._slots]
        total[new] += values
        counts[new] += 1
        self._begin(merged, total, counts, False)

    def _result(self) -> Any:
        values = self._values[self._slots]
        if self.is_mean:
            values = self._divided(values, self._counts[self._slots].reshape(-1, *[1] * (values.ndim - 1)))
        first = self.shape[0] if self.shape else None
        shape = np.array([-1 if first is None else first, *values.shape[1:]], np.int64)
        return self._indices, values, shape

    def _clear(self) -> None:
        self._indices = self._slots = self._values = self._counts = None
        self._used = 0


def _add(total: Any, targets: Any, rows: Any, sources: Any) -> None:
    """Add rows to different rows of a total."""
    if total.dtype in (np.float32, np.float64) and rows.flags.c_contiguous and rows.flags.aligned and len(sources):
        width = math.prod(rows.shape[1:])
        add_rows(total.reshape(len(total), width), targets.astype(np.int64), rows.reshape(len(rows), width),
                 sources.astype(np.int64))
    else:
        total[targets] += rows[sources]


def _mismatch(expected: Shape, got: Shape) -> InvalidArgument:
    return InvalidArgument(f"Shape mismatch: expected {format_shape(expected)}, got {format_shape(got)}")


def _ascends(indices: Any) -> bool:
    return bool((indices[1:] > indices[:-1]).all())


def _merged(old: list[int], new: list[int]) -> tuple[Any, Any, Any]:
    """Return the merged indices, and the places of the old and of the new ones in them."""
    merged: list[int] = []
    old_places, new_places = [], []
    i = j = 0
    while i < len(old) or j < len(new):
        takes_old = j == len(new) or (i < len(old) and old[i] <= new[j])
        takes_new = i == len(old) or (j < len(new) and new[j] <= old[i])
        merged.append(old[i] if takes_old else new[j])
        if takes_old:
            old_places.append(len(merged) - 1)
            i += 1
        if takes_new:
            new_places.append(len(merged) - 1)
            j += 1
    return np.array(merged, np.int64), np.array(old_places, np.intp), np.array(new_places, np.intp)
