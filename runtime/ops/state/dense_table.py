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
from runtime.dtypes import DataType, to_numpy
from runtime.ops.shapes import format_shape
from runtime.ops.state.table import Table

__all__ = ["DenseTable", "hash64"]

_MAX_BUCKETS = 1 << 28
_EMPTY, _USED, _DELETED = 0, 1, 2
_WORD = (1 << 64) - 1
_FACTOR = 0xC6A4A7935BD1E995
_SEED = 0xDECAFCAFFE


def hash64(text: bytes) -> int:
    """Return the 64-bit hash that decides a string's first bucket.

    Source: MurmurHash64A, with the seed that TensorFlow uses.
    """
    size = len(text)
    result = _SEED ^ (size * _FACTOR & _WORD)
    whole = size & ~7
    for start in range(0, whole, 8):
        word = int.from_bytes(text[start:start + 8], "little") * _FACTOR & _WORD
        word = (word ^ word >> 47) * _FACTOR & _WORD
        result = (result ^ word) * _FACTOR & _WORD
    if whole < size:
        result = (result ^ int.from_bytes(text[whole:], "little")) * _FACTOR & _WORD
    result = (result ^ result >> 47) * _FACTOR & _WORD
    return result ^ result >> 47


def _hash_part(part: Any) -> int:
    return hash64(part) if isinstance(part, bytes) else int(part) & _WORD


def _hash(key: Any) -> int:
    if not isinstance(key, tuple):
        return _hash_part(key)
    if len(key) == 1:
        return _hash_part(key[0])
    result = 0
    for part in key:
        result ^= (_hash_part(part) + 0x9E3779B97F4A7800 + (result << 10) + (result >> 4)) & _WORD
    return result


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
        self._check_marks(listed)
        with self._lock:
            return self._found(listed, default).reshape(self.batch(keys) + self.value_shape)

    def insert(self, keys: Any, values: Any) -> None:
        """Set the values of keys, in order."""
        listed = self._listed_row(keys)
        rows = values.reshape((len(listed), *self.value_shape))
        with self._lock:
            wanted = len(self._slots) + len(listed)
            buckets = len(self._states)
            if wanted > buckets * self._max_load:
                while wanted > buckets * self._max_load:
                    buckets <<= 1
                self._rebuild(buckets)
            for position, key in enumerate(listed):
                if key == self._empty_key or key == self._deleted_key:
                    self._values_at(listed[:position], rows)
                    self._check_marks([key])
                if key not in self._slots:
                    self._place(key)
            self._values_at(listed, rows)

    def remove(self, keys: Any) -> None:
        """Remove the keys that are there; their buckets are marked as deleted."""
        with self._lock:
            for key in self._listed_row(keys):
                self._check_marks([key])
                slot = self._slots.pop(key, None)
                if slot is not None:
                    self._states[slot] = _DELETED

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

    def _values_at(self, listed: Sequence[Any], rows: Any) -> None:
        slots = self._slots
        places = np.fromiter((slots[key] for key in listed), np.intp, len(listed))
        self._values[places] = rows[:len(listed)]

    def _place(self, key: Any) -> None:
        """Give a new key the first bucket on its way that holds no key."""
        mask = len(self._states) - 1
        bucket, probes = _hash(key) & mask, 0
        while self._states[bucket] == _USED:
            probes += 1
            bucket = (bucket + probes) & mask
        self._states[bucket] = _USED
        self._slots[key] = bucket

    def _rebuild(self, num_buckets: int) -> None:
        """Lay the entries out anew, in the order of their buckets."""
        values, slots = self._values, sorted(self._slots.items(), key=lambda entry: entry[1])
        self._lay_out(num_buckets)
        for key, _ in slots:
            self._place(key)
        old = np.fromiter((slot for _, slot in slots), np.intp, len(slots))
        new = np.fromiter((self._slots[key] for key, _ in slots), np.intp, len(slots))
        self._values[new] = values[old]

    def _check_marks(self, listed: Sequence[Any]) -> None:
        for key, name in ((self._empty_key, "empty_key"), (self._deleted_key, "deleted_key")):
            if key in listed:
                raise InvalidArgument(f"Using the {name} as a table key is not allowed")
