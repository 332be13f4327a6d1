"""The fleet's file, looked at from outside of the server that has it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from runtime.errors import FailedPrecondition, NotFound
from runtime.store.sqlite.database import store_error
from runtime.store.sqlite.fleet_tables import FleetTables

__all__ = ["open_fleet"]


@contextlib.contextmanager
def open_fleet(path: Path, *, writes: bool = False) -> Iterator[FleetTables]:
    """Give the rows of a fleet's file; a server may be using it meanwhile.

    Parameters
    ----------
    path : Path
    writes : bool
        Whether rows are changed: only machines', which no server keeps in memory. Stored when the context ends.

    Raises
    ------
    NotFound
        If there is no such file.
    FailedPrecondition
        If another version of this program has written it.
    Unavailable
        If it cannot be read, or is locked for long.
    """
    if not path.exists():
        raise NotFound(f"{path} is not there: no server has kept a fleet in this data directory (--data-dir)")
    # A file with a write-ahead log cannot be read without making the files beside it: hence never "ro".
    where = f"file:{quote(str(path))}?mode=rw"
    try:
        connection = sqlite3.connect(where, uri=True, timeout=10.0, isolation_level=None)
        with contextlib.closing(connection):
            if not writes:
                connection.execute("PRAGMA query_only=ON")
            found = connection.execute("SELECT version FROM versions WHERE plane = ?", (FleetTables.PLANE,))
            version = found.fetchone()
            if version is None or version[0] != len(FleetTables.MIGRATIONS):
                raise FailedPrecondition(f"{path} was written by another version of this program")
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield FleetTables(connection, 0)
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise store_error(error, str(path)) from error
