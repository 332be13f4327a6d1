"""Many rows with few statements: each costs as much as the insertion of several rows."""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

__all__ = ["insert"]

# Rows of one statement. More of them gain nothing.
_AT_ONCE = 25


def insert(connection: sqlite3.Connection, into: str, marks: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows.

    Parameters
    ----------
    into : str
        The table, perhaps with its columns.
    marks : str
        The values of a row: a question mark for each that the rows have, and what all of them have in common.

    Raises
    ------
    sqlite3.IntegrityError
        A row cannot be there beside another one; rows before it may have been inserted.
    """
    num_joined = len(rows) - len(rows) % _AT_ONCE
    for start in range(0, num_joined, _AT_ONCE):
        values = list(itertools.chain.from_iterable(rows[start : start + _AT_ONCE]))
        connection.execute(_statement(into, marks, _AT_ONCE), values)
    if num_joined < len(rows):
        connection.executemany(_statement(into, marks, 1), rows[num_joined:] if num_joined else rows)


@functools.lru_cache(64)
def _statement(into: str, marks: str, number: int) -> str:
    return f"INSERT INTO {into} VALUES {', '.join([f'({marks})'] * number)}"
