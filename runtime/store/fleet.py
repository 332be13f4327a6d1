"""The fleet's rows: what a write or a read of the fleet plane is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.fleet.model import Machine, Server
from runtime.store.store import Transaction

__all__ = ["FleetRows"]


class FleetRows(Transaction, Protocol):
    """The rows of one state of the store; changes belong to the write that makes them."""

    # Servers

    def servers(self) -> list[Server]:
        """Return every enrolled server, by number."""
        ...

    def put_server(self, server: Server) -> None:
        """Store a server, in place of the one with its number."""
        ...

    def remove_server(self, number: int) -> None:
        """Forget a server and the assignments to it."""
        ...

    def last_position(self) -> int:
        """Return the position in the rotation that was handed out last."""
        ...

    def put_last_position(self, position: int) -> None:
        """Store it."""
        ...

    # Assignments

    def assignments(self) -> list[tuple[str, int]]:
        """Return the server's number for each machine that has one."""
        ...

    def put_assignment(self, uuid: str, number: int) -> None:
        """Assign a machine to a server."""
        ...

    def remove_assignments(self, number: int) -> None:
        """Forget the assignments to a server."""
        ...

    # Machines

    def machine(self, uuid: str) -> Machine | None:
        """Return a machine, or None for one that never reported."""
        ...

    def has_machine(self, uuid: str) -> bool:
        """Return whether a machine has ever reported."""
        ...

    def machines(self, start: str = "", limit: int = 1 << 31) -> list[Machine]:
        """Return machines by uuid, those after ``start``."""
        ...

    def num_machines(self) -> int:
        """Return how many machines there are."""
        ...

    def put_machine(self, machine: Machine) -> None:
        """Store a machine, in place of what was known of it."""
        ...

    def remove_machines(self, seen_before: float) -> Sequence[str]:
        """Forget machines that were last seen before a time, with their assignments; returns their uuids."""
        ...

    def add_report(self, uuid: str, time: float, text: str, kept: int) -> None:
        """Add a report to a machine's history, of which the last ``kept`` stay."""
        ...

    def reports(self, uuid: str) -> list[tuple[float, str]]:
        """Return the times and texts of a machine's history, newest first."""
        ...
