"""Lookup tables: keys to values, with what each kind allows.

A table keeps a dictionary from keys to slots and an array with one row of values per slot, so that finding many keys is
one walk through the dictionary and one gather.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from runtime._ext.errors import Aborted, FailedPrecondition, InvalidArgument, Unimplemented
from runtime._ext.key_slots import assign_slots, find_slots
from runtime.dtypes import DataType, to_numpy
from runtime.ops.shapes import format_shape
from runtime.ops.summarize import formatter

__all__ = ["HashTable", "MutableTable", "Table"]

_LEAST_ROWS = 16


class Table:
    """A table of any kind; safe from several threads.

    Parameters
    ----------
    key_type, value_type : DataType
    key_shape, value_shape : tuple of int
        Of one key and of one value.
    """

    kind = "Table"

    def __init__(self, key_type: DataType, value_type: DataType, value_shape: tuple[int, ...] = (),
                 key_shape: tuple[int, ...] = ()) -> None:
        self.key_type = key_type
        self.value_type = value_type
        self.key_shape = key_shape
        self.value_shape = value_shape
        self._lock = threading.Lock()
        self._slots: dict[Any, int] = {}
        self._values = np.empty((0, *value_shape), to_numpy(value_type))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key_type.label}->{self.value_type.label} size {len(self._slots)}>"

    def size(self) -> int:
        """Return how many keys there are."""
        return len(self._slots)

    def find(self, keys: Any, default: Any) -> Any:
        """Return the value of every key, `default` for those that are absent.

        Parameters
        ----------
        keys : ndarray
            Shape ``(..., *key_shape)``.
        default : ndarray
            One value, or one for every key.

        Returns
        -------
        values : ndarray
            Shape ``(..., *value_shape)``.
        """
        listed = self.listed(keys)
        with self._lock:
            return self._found(listed, default).reshape(self.batch(keys) + self.value_shape)

    def insert(self, keys: Any, values: Any) -> None:
        """Set values of keys, where the kind allows it."""
        raise NotImplementedError

    def remove(self, keys: Any) -> None:
        """Remove the keys that are there, where the kind allows it."""
        raise NotImplementedError

    def replace(self, keys: Any, values: Any) -> None:
        """Replace all entries."""
        raise NotImplementedError

    def entries(self) -> tuple[Any, Any]:
        """Return all keys and, in the same order, their values."""
        with self._lock:
            keys = list(self._slots)
            slots = np.fromiter(self._slots.values(), np.intp, len(keys))
            return self.keys_array(keys), self._values[slots]

    # Keys as arrays and as Python objects

    def batch(self, keys: Any) -> tuple[int, ...]:
        """Return the shape of an array of keys without that of one key."""
        shape: tuple[int, ...] = keys.shape
        return shape[:len(shape) - len(self.key_shape)]

    def listed(self, keys: Any) -> list[Any]:
        """Return keys as objects that can be looked up: numbers, bytes, or tuples of these."""
        if not self.key_shape:
            return keys.reshape(-1).tolist()  # type: ignore[no-any-return]
        rows = keys.reshape((-1, *self.key_shape)).reshape(-1, int(np.prod(self.key_shape)))
        return list(map(tuple, rows.tolist()))

    def keys_array(self, keys: Sequence[Any]) -> Any:
        """Return listed keys as an array of shape ``(n, *key_shape)``."""
        array = np.empty((len(keys), *self.key_shape), to_numpy(self.key_type))
        if len(keys):
            flat = [part for key in keys for part in key] if self.key_shape else keys
            array.reshape(-1)[:] = flat
        return array

    def check_find(self, keys: Any, default: Any) -> None:
        """Check the shapes of what is asked for.

        Raises
        ------
        InvalidArgument
        """
        self.check_keys(keys)
        full = self.batch(keys) + self.value_shape
        if default.shape not in (self.value_shape, full):
            raise InvalidArgument(f"Expected shape {format_shape(self.value_shape)} or {format_shape(full)} for "
                                  f"default value, got {format_shape(default.shape)}")

    def check_entries(self, keys: Any, values: Any) -> None:
        """Check the shapes of keys and of their values.

        Raises
        ------
        InvalidArgument
        """
        self.check_keys(keys)
        full = self.batch(keys) + self.value_shape
        if values.shape != full:
            raise InvalidArgument(f"Expected shape {format_shape(full)} for value, got {format_shape(values.shape)}")

    def check_import(self, keys: Any, values: Any) -> None:
        """Check the shapes of what `replace` is to get.

        Raises
        ------
        InvalidArgument
        """
        self.check_entries(keys, values)

    def check_keys(self, keys: Any) -> None:
        """Check that keys have the shape of the table's keys at their end.

        Raises
        ------
        InvalidArgument
        """
        rank = len(self.key_shape)
        if rank and (keys.ndim < rank or keys.shape[keys.ndim - rank:] != self.key_shape):
            raise InvalidArgument(f"Input key shape {format_shape(keys.shape)} must end with the table's key shape "
                                  f"{format_shape(self.key_shape)}")

    # What the kinds share; called with the lock

    def _found(self, listed: list[Any], default: Any) -> Any:
        slots, missing = find_slots(self._slots, listed)
        if len(self._values):  # what is missing picks the last row for now
            found = self._values[slots]
        else:
            found = np.empty((len(listed), *self.value_shape), self._values.dtype)
        if missing:
            absent = slots < 0
            whole = default.ndim > len(self.value_shape)
            found[absent] = default.reshape(found.shape)[absent] if whole else default
        return found

    def _reserve(self, rows: int) -> None:
        have = len(self._values)
        if rows > have:
            grown = np.empty((max(rows, 2 * have, _LEAST_ROWS), *self.value_shape), self._values.dtype)
            grown[:have] = self._values
            self._values = grown


class HashTable(Table):
    """A table that is filled once."""

    kind = "HashTable"

    def __init__(self, key_type: DataType, value_type: DataType) -> None:
        super().__init__(key_type, value_type)
        self.is_initialized = False

    def size(self) -> int:
        """Return how many keys there are, 0 before the table is filled."""
        return len(self._slots) if self.is_initialized else 0

    def find(self, keys: Any, default: Any) -> Any:
        """Return the value of every key; see `Table.find`.

        Raises
        ------
        FailedPrecondition
            Before the table is filled.
        """
        if not self.is_initialized:
            raise FailedPrecondition("Table not initialized.")
        if default.ndim and default.size:
            default = default.reshape(-1)[0:1].reshape(())
        # Without the lock: nothing changes any more.
        return self._found(self.listed(keys), default).reshape(keys.shape)

    def initialize(self, keys: Any, values: Any) -> None:
        """Fill the table; filled already, only check that there are as many keys.

        Raises
        ------
        InvalidArgument
            If there are no keys, or not as many values.
        FailedPrecondition
            If a key comes twice with different values, or the table has been filled with a different number of keys.
        """
        if keys.shape != values.shape:
            raise InvalidArgument("keys and values should have the same dimension."
                                  f"{format_shape(keys.shape)} vs {format_shape(values.shape)}")
        if not keys.size:
            raise InvalidArgument("keys and values cannot be empty tensors.")
        self.fill(lambda: keys.size, lambda: [(keys.reshape(-1).tolist(), values.reshape(-1))])

    def fill(self, count: Callable[[], int], parts: Callable[[], Iterable[tuple[list[Any], Any]]]) -> None:
        """Fill the table part by part.

        Parameters
        ----------
        count : callable
            How many keys there will be; called only when the table is filled already.
        parts : callable
            Lists of keys with arrays of values.
        """
        with self._lock:
            if self.is_initialized:
                if count() != len(self._slots):
                    raise FailedPrecondition("Table was already initialized with different data.")
                return
            try:
                for keys, values in parts():
                    self._add(keys, values)
                self.is_initialized = True
            finally:
                if not self.is_initialized:
                    self._slots.clear()

    def _add(self, keys: list[Any], values: Any) -> None:
        before = len(self._slots)
        places = assign_slots(self._slots, [], keys)
        count = len(self._slots)
        # New keys get ascending slots: one that is not above all before it is the slot of a key that was there.
        highest = np.maximum.accumulate(np.concatenate([[before - 1], places[:-1]]))
        fresh = places > highest
        self._reserve(count)
        self._values[before:count] = values[fresh]
        if count - before == len(keys):
            return
        repeated = np.nonzero(~fresh)[0]
        differs = self._values[places[repeated]] != values[repeated]
        if differs.any():
            place = repeated[int(differs.argmax())]
            raise FailedPrecondition(
                "HashTable has different value for same key. Key "
                f"{_shown(keys[place], self.key_type)} has {_shown(self._values[places[place]], self.value_type)} and "
                f"trying to add value {_shown(values[place], self.value_type)}")

    def insert(self, keys: Any, values: Any) -> None:
        """Refuse: the table does not change."""
        raise Unimplemented("Insert not supported by InitializableLookupTable implementations")

    def remove(self, keys: Any) -> None:
        """Refuse: the table does not change."""
        raise Unimplemented("Remove not supported by InitializableLookupTable implementations")

    def replace(self, keys: Any, values: Any) -> None:
        """Fill the table, as `initialize` does."""
        self.initialize(keys, values)

    def entries(self) -> tuple[Any, Any]:
        """Return all keys and their values.

        Raises
        ------
        Aborted
            Before the table is filled.
        """
        if not self.is_initialized:
            raise Aborted("HashTable is not initialized.")
        return super().entries()


class MutableTable(Table):
    """A table whose keys come and go; each value has the same shape."""

    kind = "MutableHashTable"

    def __init__(self, key_type: DataType, value_type: DataType, value_shape: tuple[int, ...] = ()) -> None:
        super().__init__(key_type, value_type, value_shape)
        self._free: list[int] = []

    def insert(self, keys: Any, values: Any) -> None:
        """Set the values of keys; of equal keys the last one counts."""
        with self._lock:
            self._insert(self.listed(keys), values)

    def remove(self, keys: Any) -> None:
        """Remove the keys that are there."""
        text = self._values.dtype.kind == "O"
        with self._lock:
            for key in self.listed(keys):
                slot = self._slots.pop(key, None)
                if slot is not None:
                    self._free.append(slot)
                    if text:
                        self._values[slot] = None  # let go of the object

    def replace(self, keys: Any, values: Any) -> None:
        """Replace all entries."""
        with self._lock:
            self._slots.clear()
            self._free.clear()
            self._values = self._values[:0]
            self._insert(self.listed(keys), values)

    def _insert(self, listed: list[Any], values: Any) -> None:
        self._reserve(len(self._slots) + len(self._free) + len(listed))
        places = assign_slots(self._slots, self._free, listed)
        self._values[places] = values.reshape((len(listed), *self.value_shape))


def _shown(value: Any, kind: DataType) -> str:
    """Return a key or value as messages have it."""
    if kind is DataType.STRING:
        return value.decode("utf-8", "replace")  # type: ignore[no-any-return]
    if kind in (DataType.FLOAT, DataType.DOUBLE):
        return f"{float(value):g}"
    return formatter(kind)(value)
