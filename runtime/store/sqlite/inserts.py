"""Many rows with few statements: one costs as much as several rows. What rows have in common is given once."""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

__all__ = ["insert"]

# Rows of one statement. More of them gain nothing.
_AT_ONCE = 25


def insert(
    connection: sqlite3.Connection,
    into: str,
    values: tuple[str, ...],
    common: Sequence[Any],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Insert rows.

    Parameters
    ----------
    into : str
        The table, perhaps with its columns.
    values : tuple of str
        For each column, ``?`` for the next value of a row, ``?N`` for the N-th of those that are common to all, from 1
        on, or SQL.
    common : sequence
    rows : sequence of sequence
        All of the same length.

    Raises
    ------
    sqlite3.IntegrityError
        A row cannot be there beside another one; rows before it may have been inserted.
    """
    execute = connection.execute
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        execute(_statement(into, values, len(common), len(some)), [*common, *itertools.chain.from_iterable(some)])


@functools.lru_cache(256)
def _statement(into: str, values: tuple[str, ...], num_common: int, num_rows: int) -> str:
    width = values.count("?")
    rows = []
    for row in range(num_rows):
        numbers = itertools.count(num_common + row * width + 1)
        rows.append(f"({', '.join(f'?{next(numbers)}' if value == '?' else value for value in values)})")
    return f"INSERT INTO {into} VALUES {', '.join(rows)}"
