"""A table in the layout of open addressing, bucket for bucket as TensorFlow lays it out.

What is exported (and saved in checkpoints) are the buckets, empty ones included, and whoever imports them probes for
keys where their hashes say. So the places are part of the format. Here they only matter for that: keys are found by a
dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.key_slots import hash64, place_keys
from runtime.dtypes import DataType, to_numpy
from runtime.ops.shapes import format_shape
from runtime.ops.state.table import Table

__all__ = ["DenseTable"]

_MAX_BUCKETS = 1 << 28
_EMPTY, _USED, _DELETED = 0, 1, 2
_COMBINING = np.uint64(0x9E3779B97F4A7800)


def _hashes(keys: Any) -> Any:
    """Return the hashes of keys, one in a row of parts, as uint64."""
    parts = [_part_hashes(keys[:, place]) for place in range(keys.shape[1])]
    if len(parts) == 1:
        return parts[0]
    result = np.zeros(len(keys), np.uint64)
    for part in parts:
        result = result ^ (part + _COMBINING + (result << np.uint64(10)) + (result >> np.uint64(4)))
    return result


def _part_hashes(parts: Any) -> Any:
    return hash64(parts.tolist()) if parts.dtype.kind == "O" else parts.astype(np.int64).view(np.uint64)


class DenseTable(Table):
    """A table of buckets.

    Parameters
    ----------
    key_type, value_type, value_shape
        As for `Table`.
    empty_key, deleted_key : ndarray
        Two keys that mark buckets and are no keys of entries; scalars or vectors.
    num_buckets : int
        A power of two.
    max_load : float
        More entries than this part of the buckets double their number.
    """

    kind = "MutableDenseHashTable"

    def __init__(self, key_type: DataType, value_type: DataType, value_shape: tuple[int, ...], empty_key: Any,
                 deleted_key: Any, num_buckets: int, max_load: float) -> None:
        if not 0 < max_load < 1:
            raise InvalidArgument(f"max_load_factor must be between 0 and 1, got: {max_load:g}")
        if len(value_shape) > 1:
            raise InvalidArgument(f"Empty value must be a scalar or a vector, got shape {format_shape(value_shape)}")
        if empty_key.ndim > 1:
            raise InvalidArgument(f"Empty key must be a scalar or a vector, got shape {format_shape(empty_key.shape)}")
        if empty_key.shape != deleted_key.shape:
            raise InvalidArgument("Empty and deleted keys must have same shape, got shapes: "
                                  f"{format_shape(empty_key.shape)} and {format_shape(deleted_key.shape)}")
        super().__init__(key_type, value_type, value_shape, empty_key.shape)
        (self._empty_key,), (self._deleted_key,) = self.listed(empty_key), self.listed(deleted_key)
        self._width = int(np.prod(self.key_shape))
        self._marks = (empty_key.reshape(1, -1), deleted_key.reshape(1, -1))
        if self._empty_key == self._deleted_key:
            raise InvalidArgument("Empty and deleted keys cannot be equal")
        self._max_load = max_load
        self._lay_out(num_buckets)

    def _lay_out(self, num_buckets: int) -> None:
        if num_buckets < 4 or num_buckets & (num_buckets - 1):
            raise InvalidArgument(f"Number of buckets must be at least 4 and a power of 2, got: {num_buckets}")
        if num_buckets > _MAX_BUCKETS:
            raise ResourceExhausted(f"{num_buckets} buckets are more than the {_MAX_BUCKETS} that a table may have")
        self._states = bytearray(num_buckets)
        shape, dtype = (num_buckets, *self.value_shape), to_numpy(self.value_type)
        self._values = np.full(shape, b"", dtype) if self.value_type is DataType.STRING else np.zeros(shape, dtype)
        self._slots = {}

    def check_import(self, keys: Any, values: Any) -> None:
        """Check the shapes of buckets: keys and values are vectors, even where those of the table are scalars."""
        self.check_keys(keys)
        rank = len(self.key_shape) or 1
        full = keys.shape[:max(keys.ndim - rank, 0)] + (self.value_shape or (1,))
        if values.shape != full:
            raise InvalidArgument(f"Expected shape {format_shape(full)} for value, got {format_shape(values.shape)}")

    def _listed_row(self, keys: Any) -> list[Any]:
        """Return keys that lie in one row as listed, which is all that the layout foresees."""
        count = keys.shape[0] if keys.ndim else 1
        if keys.size != count * int(np.prod(self.key_shape)):
            raise InvalidArgument(f"Expected key shape {format_shape((count, *self.key_shape))} got "
                                  f"{format_shape(keys.shape)}")
        return self.listed(keys)

    def find(self, keys: Any, default: Any) -> Any:
        """Return the value of every key; see `Table.find`.

        Raises
        ------
        InvalidArgument
            If one of the keys marks buckets.
        """
        listed = self._listed_row(keys)
        self._check_marks(listed, self._first_mark(keys, len(listed)))
        with self._lock:
            return self._found(listed, default).reshape(self.batch(keys) + self.value_shape)

    def insert(self, keys: Any, values: Any) -> None:
        """Set the values of keys, in order.

        Raises
        ------
        InvalidArgument
            If one of the keys marks buckets; those before it are in the table.
        """
        listed = self._listed_row(keys)
        count = self._first_mark(keys, len(listed))
        with self._lock:
            wanted = buckets = len(self._states)
            while len(self._slots) + len(listed) > wanted * self._max_load:
                wanted <<= 1
            if wanted > buckets:
                self._rebuild(wanted)
            hashes = _hashes(keys.reshape(len(listed), self._width)[:count])
            places = place_keys(self._slots, self._states, listed[:count], hashes)
            self._values[places] = values.reshape((len(listed), *self.value_shape))[:count]
        self._check_marks(listed, count)

    def remove(self, keys: Any) -> None:
        """Remove the keys that are there; their buckets are marked as deleted."""
        listed = self._listed_row(keys)
        count = self._first_mark(keys, len(listed))
        with self._lock:
            for key in listed[:count]:
                slot = self._slots.pop(key, None)
                if slot is not None:
                    self._states[slot] = _DELETED
        self._check_marks(listed, count)

    def replace(self, keys: Any, values: Any) -> None:
        """Take over buckets as `entries` gave them out."""
        buckets = keys.shape[0] if keys.ndim else 0
        listed = self.listed(keys)
        with self._lock:
            self._lay_out(buckets)
            self._values[...] = values.reshape(self._values.shape)
            for slot, key in enumerate(listed):
                if key == self._deleted_key:
                    self._states[slot] = _DELETED
                elif key != self._empty_key:
                    self._states[slot] = _USED
                    self._slots[key] = slot

    def entries(self) -> tuple[Any, Any]:
        """Return the keys and the values of all buckets; empty and deleted ones have the keys that mark them.

        Returns
        -------
        keys, values : ndarray
            Two dimensions each.
        """
        with self._lock:
            marks = {_EMPTY: self._empty_key, _DELETED: self._deleted_key}
            keys = [marks.get(state) for state in self._states]
            for key, slot in self._slots.items():
                keys[slot] = key
            # Scalars leave as vectors of one.
            values = self._values.reshape(-1, 1) if not self.value_shape else self._values
            return self.keys_array(keys).reshape(len(keys), -1), values.copy()

    def _rebuild(self, num_buckets: int) -> None:
        """Lay the entries out anew, in the order of their buckets."""
        values, entries = self._values, sorted(self._slots.items(), key=lambda entry: entry[1])
        keys = [key for key, _ in entries]
        self._lay_out(num_buckets)
        hashes = _hashes(self.keys_array(keys).reshape(len(keys), self._width))
        self._values[place_keys(self._slots, self._states, keys, hashes)] = values[[slot for _, slot in entries]]

    def _first_mark(self, keys: Any, count: int) -> int:
        """Return the place of the first key that marks buckets, `count` when there is none."""
        rows = keys.reshape(count, self._width)
        marks = (rows == self._marks[0]).all(axis=1) | (rows == self._marks[1]).all(axis=1)
        return int(marks.argmax()) if marks.any() else count

    def _check_marks(self, listed: Sequence[Any], first: int) -> None:
        if first < len(listed):
            name = "empty_key" if listed[first] == self._empty_key else "deleted_key"
            raise InvalidArgument(f"Using the {name} as a table key is not allowed")
