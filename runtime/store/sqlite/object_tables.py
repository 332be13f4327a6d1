"""How often each object is referred to by rows: the tables that decide whether a file may go."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import ClassVar

from runtime.objects.value import ObjectRef, UnusedObject, Value
from runtime.store.sqlite.writer import Tables

__all__ = ["ObjectTables", "value_columns", "value_of"]


class ObjectTables(Tables):
    """References to objects, for the tables of every plane that has values."""

    PLANE: ClassVar[str] = "objects"
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]] = (
        ("CREATE TABLE objects (digest BLOB PRIMARY KEY, size INTEGER NOT NULL, refs INTEGER NOT NULL) WITHOUT ROWID",),
        # From here on an object may be named by its place: who does not know of that must not open the file.
        (),
    )

    connection: sqlite3.Connection

    def refer(self, ref: ObjectRef) -> None:
        """Count one more row that refers to an object."""
        self.connection.execute(
            "INSERT INTO objects VALUES (?, ?, 1) ON CONFLICT (digest) DO UPDATE SET refs = refs + 1",
            (ref.digest, ref.size),
        )

    def release(self, ref: ObjectRef) -> None:
        """Count one row less, and note when none is left."""
        last = self.connection.execute("DELETE FROM objects WHERE digest = ? AND refs <= 1", (ref.digest,))
        if last.rowcount:
            self.note(UnusedObject(ref.digest))
        else:
            self.connection.execute("UPDATE objects SET refs = refs - 1 WHERE digest = ?", (ref.digest,))

    def all_objects(self) -> list[tuple[bytes, int]]:
        """Return name and size of every object that rows refer to."""
        return self.connection.execute("SELECT digest, size FROM objects").fetchall()

    def referred(self, digests: Iterable[bytes]) -> set[bytes]:
        """Return which of these objects a row refers to."""
        find = "SELECT 1 FROM objects WHERE digest = ?"
        return {digest for digest in digests if self.connection.execute(find, (digest,)).fetchone() is not None}


def value_columns(value: Value) -> tuple[bytes | None, bytes | None, int, int]:
    """Return the columns data, digest, size and crc of a value."""
    ref = value.ref
    if ref is None:
        return value.data, None, len(value.data), 0
    return None, ref.digest, ref.size, ref.crc


def value_of(data: bytes | None, digest: bytes | None, size: int, crc: int) -> Value:
    """Return the value that columns say."""
    return Value(data or b"") if digest is None else Value(b"", ObjectRef(digest, size, crc))
