"""Keys and values of lookup tables from the lines of a text file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument, OutOfRange
from runtime.dtypes import DataType, to_numpy
from runtime.ops.files.records import TextLines
from runtime.ops.state.table import HashTable, Table
from runtime.ops.string_conversions import parse_number

__all__ = ["LINE_NUMBER", "WHOLE_LINE", "fill_from_text_file"]

LINE_NUMBER, WHOLE_LINE = -1, -2
"""Columns that are no part of the line."""

_INTEGERS = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64, DataType.UINT8, DataType.UINT16,
                       DataType.UINT32, DataType.UINT64})
_NUMBERS = frozenset({DataType.INT32, DataType.INT64, DataType.FLOAT, DataType.DOUBLE})
_LINES_PER_PART = 1 << 16


def fill_from_text_file(table: HashTable, path: str, *, vocab_size: int, delimiter: bytes, key_index: int,
                        value_index: int, offset: int) -> None:
    """Fill a table, unless it is filled already.

    Parameters
    ----------
    path : str
        Already confined.
    vocab_size : int
        How many lines to take; -1 for all.
    delimiter : bytes
        What stands between the columns of a line.
    key_index, value_index : int
        A column, `LINE_NUMBER` or `WHOLE_LINE`.
    offset : int
        Added to line numbers.

    Raises
    ------
    InvalidArgument
        If the types do not fit, or a line is not what it should be.
    OutOfRange
        If there is no line.
    """
    _check_types(table, key_index, value_index)
    if table.is_initialized:
        return
    lines = _Lines(path, vocab_size, delimiter, max(key_index, value_index))
    key_of = lines.column(key_index, table.key_type, offset)
    value_of = lines.column(value_index, table.value_type, offset)

    def parts() -> Iterator[tuple[list[Any], Any]]:
        keys: list[Any] = []
        values: list[Any] = []
        found = False
        for _ in lines:
            found = True
            keys.append(key_of())
            values.append(value_of())
            if len(keys) >= _LINES_PER_PART:
                yield keys, _as_array(values, table.value_type)
                keys, values = [], []
        if not found:
            raise OutOfRange(f"Finished reading 0 of lines from {path}" if vocab_size == 0
                             else "Read less bytes than requested")
        yield keys, _as_array(values, table.value_type)

    table.fill(lambda: table.size(), parts)


def _as_array(values: list[Any], kind: DataType) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), to_numpy(kind))
    array[:] = values
    return array


def _check_types(table: Table, key_index: int, value_index: int) -> None:
    key, value = table.key_type, table.value_type
    if key_index == LINE_NUMBER and key is not DataType.INT64:
        raise InvalidArgument(f"Key index for line number requires table key dtype of int64, got {key.label}")
    if key_index == WHOLE_LINE and key not in _INTEGERS and key is not DataType.STRING:
        raise InvalidArgument(f"Key index for whole line requires string or integer table key, got {key.label}")
    if value_index == LINE_NUMBER and value is not DataType.INT64:
        raise InvalidArgument(f"Value index for line number requires table value dtype of int64, got {value.label}")
    if value_index == WHOLE_LINE and value not in _INTEGERS and value is not DataType.STRING:
        raise InvalidArgument("Value index for whole line requires table value dtype of integer or string, got "
                              f"{value.label}")


class _Lines:
    """The lines of a file, one after the other; `column` gives what takes a part of the current one."""

    def __init__(self, path: str, vocab_size: int, delimiter: bytes, last_column: int) -> None:
        self._path = path
        self._wanted = vocab_size
        self._delimiter = delimiter
        self._columns = last_column + 1
        self._number = 0
        self._line = b""
        self._fields: list[bytes] = []

    def __iter__(self) -> Iterator[None]:
        source = TextLines(self._path)
        try:
            number = 0
            while self._wanted < 0 or number < self._wanted:
                line = source.read()
                if line is None:
                    if self._wanted >= 0:
                        raise InvalidArgument(f"Invalid vocab_size in {self._path}: expected {self._wanted} but got "
                                              f"{number}")
                    return
                if not line:
                    raise InvalidArgument(f"Invalid content in {self._path}: empty line found at position "
                                          f"{source.position}.")
                self._number, self._line = number, line
                if self._columns > 0:
                    self._split(line)
                yield
                number += 1
        finally:
            source.close()

    def _split(self, line: bytes) -> None:
        self._fields = line.split(self._delimiter)
        if len(self._fields) < self._columns:
            raise InvalidArgument(f"Invalid number of columns in {self._path} line {self._number} "
                                  f"({line.decode('utf-8', 'replace')}) : expected at least {self._columns} "
                                  f"got {len(self._fields)}")

    def column(self, index: int, kind: DataType, offset: int) -> Callable[[], Any]:
        """Return a function that gives the current line's value of a column.

        Raises
        ------
        InvalidArgument
            If no value of this type is read from files.
        """
        if index == LINE_NUMBER:
            return lambda: self._number + offset
        def text() -> bytes:
            return self._line if index == WHOLE_LINE else self._fields[index]

        if kind is DataType.STRING:
            return text
        if kind not in _NUMBERS:
            raise InvalidArgument(f"Data type {kind.label} not supported.")
        dtype = to_numpy(kind)

        def number() -> Any:
            try:
                return parse_number(text(), dtype)
            except InvalidArgument:
                shown = text().decode("utf-8", "replace")
                raise InvalidArgument(
                    f"Field {shown} in line {self._number} is not a valid {kind.label}.") from None

        return number
