"""The tables of the fleet plane; see `runtime.store.fleet`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from runtime.fleet.model import Certificate, Machine, MachineReport, Server
from runtime.store.sqlite.writer import Tables

__all__ = ["FleetTables"]

_SERVER = (
    "number, fingerprint, key_fingerprint, leaf, as_sent, not_before, not_after, ips, enrolled_by, enrolled_at, "
    "last_seen, ip, position, unhealthy_since, cause"
)
_MACHINE = "uuid, report, is_stale, first_seen, last_seen, reporter, owner, has_moved"


class FleetTables(Tables):
    """Servers, assignments and machines in an SQLite file."""

    PLANE = "fleet"
    MIGRATIONS = (
        (
            """
            CREATE TABLE servers (
                number INTEGER PRIMARY KEY,
                fingerprint TEXT NOT NULL UNIQUE,
                key_fingerprint TEXT NOT NULL,
                leaf BLOB NOT NULL,
                as_sent BLOB NOT NULL,
                not_before REAL NOT NULL,
                not_after REAL NOT NULL,
                ips TEXT NOT NULL,
                enrolled_by TEXT,
                enrolled_at REAL NOT NULL,
                last_seen REAL NOT NULL,
                ip TEXT,
                position INTEGER,
                unhealthy_since REAL,
                cause TEXT NOT NULL
            ) STRICT
            """,
            "CREATE UNIQUE INDEX server_position ON servers (position) WHERE position IS NOT NULL",
            "CREATE UNIQUE INDEX server_ip ON servers (ip) WHERE ip IS NOT NULL",
            "CREATE TABLE rotation (last_position INTEGER NOT NULL) STRICT",
            "INSERT INTO rotation VALUES (0)",
            """
            CREATE TABLE assignments (
                uuid TEXT PRIMARY KEY,
                number INTEGER NOT NULL REFERENCES servers (number)
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE INDEX assignment_server ON assignments (number)",
            """
            CREATE TABLE machines (
                uuid TEXT PRIMARY KEY,
                report TEXT NOT NULL,
                is_stale INTEGER NOT NULL,
                first_seen REAL NOT NULL,
                last_seen REAL NOT NULL,
                reporter TEXT,
                owner TEXT,
                has_moved INTEGER NOT NULL
            ) STRICT
            """,
            "CREATE INDEX machine_seen ON machines (last_seen)",
            """
            CREATE TABLE reports (
                id INTEGER PRIMARY KEY,
                uuid TEXT NOT NULL,
                time REAL NOT NULL,
                text TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX report_machine ON reports (uuid, id)",
        ),
    )

    # Servers

    def servers(self) -> list[Server]:
        """See `runtime.store.fleet.FleetRows`."""
        return [_server(row) for row in self.connection.execute(f"SELECT {_SERVER} FROM servers ORDER BY number")]

    def put_server(self, server: Server) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        certificate = server.certificate
        values = (
            server.number, certificate.fingerprint, certificate.key_fingerprint, certificate.leaf, certificate.as_sent,
            certificate.not_before, certificate.not_after, json.dumps(sorted(certificate.ips)), server.enrolled_by,
            server.enrolled_at, server.last_seen, server.ip, server.position, server.unhealthy_since, server.cause,
        )
        marks = ", ".join("?" * len(values))
        columns = _SERVER.split(", ")[1:]
        changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
        self.connection.execute(
            f"INSERT INTO servers ({_SERVER}) VALUES ({marks}) ON CONFLICT (number) DO UPDATE SET {changes}", values
        )

    def remove_server(self, number: int) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        self.remove_assignments(number)
        self.connection.execute("DELETE FROM servers WHERE number = ?", (number,))

    def last_position(self) -> int:
        """See `runtime.store.fleet.FleetRows`."""
        return int(self._value("SELECT last_position FROM rotation"))

    def put_last_position(self, position: int) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        self.connection.execute("UPDATE rotation SET last_position = ?", (position,))

    # Assignments

    def assignments(self) -> list[tuple[str, int]]:
        """See `runtime.store.fleet.FleetRows`."""
        return self.connection.execute("SELECT uuid, number FROM assignments").fetchall()

    def put_assignment(self, uuid: str, number: int) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        self.connection.execute(
            "INSERT INTO assignments VALUES (?, ?) ON CONFLICT (uuid) DO UPDATE SET number = excluded.number",
            (uuid, number),
        )

    def remove_assignments(self, number: int) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        self.connection.execute("DELETE FROM assignments WHERE number = ?", (number,))

    # Machines

    def machine(self, uuid: str) -> Machine | None:
        """See `runtime.store.fleet.FleetRows`."""
        row = self.connection.execute(f"SELECT {_MACHINE} FROM machines WHERE uuid = ?", (uuid,)).fetchone()
        return None if row is None else _machine(row)

    def has_machine(self, uuid: str) -> bool:
        """See `runtime.store.fleet.FleetRows`."""
        return self.connection.execute("SELECT 1 FROM machines WHERE uuid = ?", (uuid,)).fetchone() is not None

    def machines(self, start: str = "", limit: int = 1 << 31) -> list[Machine]:
        """See `runtime.store.fleet.FleetRows`."""
        rows = self.connection.execute(
            f"SELECT {_MACHINE} FROM machines WHERE uuid > ? ORDER BY uuid LIMIT ?", (start, limit)
        )
        return [_machine(row) for row in rows]

    def num_machines(self) -> int:
        """See `runtime.store.fleet.FleetRows`."""
        return int(self._value("SELECT count(*) FROM machines"))

    def put_machine(self, machine: Machine) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        self.connection.execute(
            f"INSERT OR REPLACE INTO machines ({_MACHINE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                machine.uuid, machine.report.to_json(), machine.is_stale, machine.first_seen, machine.last_seen,
                machine.reporter, machine.owner, machine.has_moved,
            ),
        )

    def remove_machines(self, seen_before: float) -> Sequence[str]:
        """See `runtime.store.fleet.FleetRows`."""
        execute = self.connection.execute
        uuids = [row[0] for row in execute("SELECT uuid FROM machines WHERE last_seen < ?", (seen_before,))]
        for uuid in uuids:
            for table in ("machines", "reports", "assignments"):
                execute(f"DELETE FROM {table} WHERE uuid = ?", (uuid,))
        return uuids

    def add_report(self, uuid: str, time: float, text: str, kept: int) -> None:
        """See `runtime.store.fleet.FleetRows`."""
        execute = self.connection.execute
        execute("INSERT INTO reports (uuid, time, text) VALUES (?, ?, ?)", (uuid, time, text))
        execute(
            "DELETE FROM reports WHERE uuid = ? AND id NOT IN "
            "(SELECT id FROM reports WHERE uuid = ? ORDER BY id DESC LIMIT ?)",
            (uuid, uuid, kept),
        )

    def reports(self, uuid: str) -> list[tuple[float, str]]:
        """See `runtime.store.fleet.FleetRows`."""
        return self.connection.execute(
            "SELECT time, text FROM reports WHERE uuid = ? ORDER BY id DESC", (uuid,)
        ).fetchall()

    def _value(self, statement: str) -> Any:
        return self.connection.execute(statement).fetchone()[0]


def _server(row: sqlite3.Row) -> Server:
    number, fingerprint, key_fingerprint, leaf, as_sent, not_before, not_after, ips, *rest = row
    certificate = Certificate(
        fingerprint, key_fingerprint, leaf, as_sent, not_before, not_after, frozenset(json.loads(ips))
    )
    return Server(number, certificate, *rest)


def _machine(row: sqlite3.Row) -> Machine:
    uuid, report, is_stale, first_seen, last_seen, reporter, owner, has_moved = row
    return Machine(
        uuid, MachineReport.from_json(report), bool(is_stale), first_seen, last_seen, reporter, owner, bool(has_moved)
    )
