"""Opening the file: who may, whether it is ours, and in which version its tables are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from runtime.errors import DataLoss, Error, FailedPrecondition, ResourceExhausted, Unavailable
from runtime.store import failpoints
from runtime.store.sqlite.tail_log import TailFile, TailLog

__all__ = ["LOG_SUFFIX", "MEMORY", "SET_TAIL", "Database", "Schema", "store_error"]

MEMORY = ":memory:"
"""In place of a path: a store that ends with the process."""

logger = logging.getLogger(__name__)

LOG_SUFFIX = ".tail"
"""What the name of the log has behind that of the file."""
SET_TAIL = "UPDATE tail SET number = ?"
"""Says up to which record of the log the tables know the history."""

# "TRST": what tells our files from other SQLite files.
_APPLICATION_ID = 0x54525354
_STATEMENTS_CACHED = 256
_CACHE_KIB = 32 * 1024
# Readers are several; what they read is in the system's cache too.
_READER_CACHE_KIB = 8 * 1024
# The log is copied into the file when it has so many pages of 4 KiB; each time costs two syncs of the disk.
_CHECKPOINT_PAGES = 8192
# After such a copy the log keeps this many bytes of disk at most.
_LOG_BYTES = 64 << 20


class Schema(Protocol):
    """One plane's tables as far as opening the file is concerned."""

    PLANE: ClassVar[str]
    """Its name in the file."""
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]]
    """The statements that lead from each version to the next; version 0 is the empty file."""

    @classmethod
    def replay(cls, connection: sqlite3.Connection, records: Sequence[bytes]) -> None:
        """Put into the tables what the log says that a crash has left."""
        ...


class Database:
    """One SQLite file, locked for this process, with all tables in the versions that this program knows.

    Parameters
    ----------
    path : Path or None
        The file; None for one in memory.
    schemas : sequence of Schema
        The planes that have tables in it.
    connection : sqlite3.Connection, optional
        An open connection to use in place of a new one, with the content that it has (a test's disk in memory).
    log : TailLog, optional
        The log beside such a connection; beside a file there is always one.

    Attributes
    ----------
    log : TailLog or None
        What it had is in the tables.

    Raises
    ------
    FailedPrecondition
        Another server uses the file, a newer version has written it, or it belongs to another program.
    DataLoss
        It is damaged.
    Unavailable, ResourceExhausted
        It cannot be opened or written.
    """

    def __init__(
        self,
        path: Path | None,
        schemas: Sequence[type[Schema]],
        connection: sqlite3.Connection | None = None,
        log: TailLog | None = None,
    ) -> None:
        self.path = path
        self.log = log if path is None else TailFile(path.with_name(path.name + LOG_SUFFIX))
        self._lock: int | None = None
        self.epoch = 0
        try:
            if path is not None:
                self._lock = _lock(path)
            self.writer = connection if connection is not None else self.connect()
            self._migrate(schemas)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise store_error(error, self.name) from error
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return MEMORY if self.path is None else str(self.path)

    def connect(self) -> sqlite3.Connection:
        """Return a further connection, for one thread at a time."""
        connection = sqlite3.connect(
            MEMORY if self.path is None else self.path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS_CACHED,
            timeout=10.0,
        )
        try:
            if self.path is not None:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def reader(self) -> sqlite3.Connection:
        """Return a connection that cannot write."""
        if self.path is None:
            return self.writer
        connection = self.connect()
        connection.execute(f"PRAGMA cache_size=-{_READER_CACHE_KIB}")
        connection.execute("PRAGMA query_only=ON")
        return connection

    def check(self) -> list[str]:
        """Return what SQLite finds wrong in the file: nothing, as a rule. Reads all of it."""
        found = [row[0] for row in self.writer.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close the file and let others have it."""
        writer = getattr(self, "writer", None)
        if writer is not None and self.path is not None:
            with contextlib.suppress(sqlite3.Error):
                writer.close()
        if self.log is not None:
            self.log.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _replay(self, schemas: Sequence[type[Schema]], epoch: int) -> int:
        """Put into the tables what the opening ``epoch`` has left in the log; return the number of its last record."""
        (known,) = self.writer.execute("SELECT number FROM tail").fetchone()
        found = [] if self.log is None else list(self.log.records())
        records = [(number, record) for opening, number, record in found if opening == epoch and number > known]
        if any(opening > epoch for opening, _, _ in found):
            logger.warning(
                "%s is older than the log beside it, which is not used: the last tasks may be missing", self.name
            )
        if not records:
            return int(known)
        for schema in schemas:
            schema.replay(self.writer, [record for _, record in records])
        known = records[-1][0]
        self.writer.execute(SET_TAIL, (known,))
        failpoints.hit("store.replay")
        return int(known)

    def _migrate(self, schemas: Sequence[type[Schema]]) -> None:
        writer = self.writer
        application = writer.execute("PRAGMA application_id").fetchone()[0]
        is_empty = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != _APPLICATION_ID and not (application == 0 and is_empty):
            raise FailedPrecondition(f"{self.name} is an SQLite file of another program (application id {application})")
        writer.execute("BEGIN IMMEDIATE")
        try:
            if is_empty:
                writer.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                writer.execute("CREATE TABLE versions (plane TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID")
                writer.execute("CREATE TABLE openings (epoch INTEGER NOT NULL)")
                writer.execute("INSERT INTO openings VALUES (0)")
            if writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'tail'").fetchone() is None:
                writer.execute("CREATE TABLE tail (number INTEGER NOT NULL)")
                writer.execute("INSERT INTO tail VALUES (0)")
            versions = dict(writer.execute("SELECT plane, version FROM versions"))
            for schema in schemas:
                self._migrate_plane(schema, versions.get(schema.PLANE, 0))
            # Numbers that must not come back after a restart begin with the count of openings.
            writer.execute("UPDATE openings SET epoch = epoch + 1")
            self.epoch = writer.execute("SELECT epoch FROM openings").fetchone()[0]
            last = self._replay(schemas, self.epoch - 1)
            failpoints.hit("store.migrate")
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise
        if self.log is not None:
            self.log.begin(self.epoch, last)

    def _migrate_plane(self, schema: type[Schema], version: int) -> None:
        known = len(schema.MIGRATIONS)
        if version > known:
            raise FailedPrecondition(
                f"{self.name} was written by a newer version: its {schema.PLANE} tables have version {version}, this "
                f"program knows {known}; use that version, or another data directory"
            )
        for statements in schema.MIGRATIONS[version:]:
            for statement in statements:
                self.writer.execute(statement)
        if version < known:
            self.writer.execute(
                "INSERT INTO versions VALUES (?, ?) ON CONFLICT (plane) DO UPDATE SET version = excluded.version",
                (schema.PLANE, known),
            )


def _lock(path: Path) -> int:
    """Make the file with its folder, readable by this user alone, and lock it for this process."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise store_error(error, str(path)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise store_error(error, str(path)) from error
        raise FailedPrecondition(
            f"{path} is in use by another server{f' (process {holder})' if holder else ''}; stop that one or choose "
            "another data directory"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def store_error(error: BaseException, name: str) -> Error:
    """Return the domain error for what SQLite or the system says about a file."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return ResourceExhausted(f"{name}: no space left: {error}")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DataLoss(f"{name} is damaged: {error}")
        return Unavailable(f"{name}: {error}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"{name}: no space left: {error}")
    return Unavailable(f"{name}: {error}")
