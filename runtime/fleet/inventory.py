"""Machines that reported themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime.fleet.model import Caller, Machine, MachineReport
from runtime.fleet.refusals import Refused
from runtime.fleet.reports import MAX_REPORT_BYTES, checked
from runtime.store.fleet import FleetRows
from runtime.store.store import PlaneStore

__all__ = ["Inventory"]

logger = logging.getLogger(__name__)

MAX_MACHINES = 10_000
KEPT_REPORTS = 10
FORGOTTEN_AFTER_S = 90 * 86400.0


class Inventory:
    """Takes reports and keeps the last of each machine.

    Parameters
    ----------
    store : PlaneStore
    clock : callable
        Seconds since the epoch.
    peer_policy : str
        ``off``, ``warn`` or ``enforce``: what happens when the reporter's address is none of those it reports.
    """

    def __init__(self, store: PlaneStore[FleetRows], clock: Callable[[], float], peer_policy: str) -> None:
        self._store = store
        self._clock = clock
        self._peer_policy = peer_policy

    async def save(self, report: MachineReport, nbytes: int, caller: Caller) -> Machine:
        """Store a report; on disk when this returns.

        Parameters
        ----------
        report : MachineReport
        nbytes : int
            Its size on the wire.
        caller : Caller

        Raises
        ------
        Refused
            What `checked` refuses, and ``too_large``, ``wrong_owner``, ``full``, ``peer_mismatch``. The stored
            report stays.
        """
        if nbytes > MAX_REPORT_BYTES:
            raise Refused("too_large", f"the report has {nbytes} bytes; expected at most {MAX_REPORT_BYTES}")
        report = checked(report)
        self._check_reporter(report, caller)
        now = self._clock()
        return await self._store.write(lambda rows: _save(rows, report, caller, now))

    async def purge(self) -> Sequence[str]:
        """Forget machines that did not report for 90 days; returns their uuids."""
        return await self._store.write(lambda rows: rows.remove_machines(self._clock() - FORGOTTEN_AFTER_S))

    def _check_reporter(self, report: MachineReport, caller: Caller) -> None:
        if self._peer_policy == "off" or caller.address is None or not report.interfaces:
            return
        if caller.address in report.ips() and not _is_anywhere(caller.address):
            return
        if self._peer_policy == "enforce":
            raise Refused("peer_mismatch", f"the report came from {caller.address}, which it does not name")
        logger.warning("a machine reported from an address that it does not report",
                       extra={"uuid": report.uuid, "address": caller.address})


def _is_anywhere(address: str) -> bool:
    """Return whether every machine has such an address."""
    import ipaddress

    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_link_local


def _save(rows: FleetRows, report: MachineReport, caller: Caller, now: float) -> Machine:
    known = rows.machine(report.uuid)
    if known is None:
        if rows.num_machines() >= MAX_MACHINES:
            raise Refused("full", f"there are {MAX_MACHINES} machines already; no further one is taken")
        machine = Machine(report.uuid, report, False, now, now, caller.address, caller.credential)
        rows.put_machine(machine)
        rows.add_report(report.uuid, now, report.to_json(), KEPT_REPORTS)
        return machine
    if known.owner is not None and known.owner != caller.credential:
        raise Refused("wrong_owner", f"machine.uuid {report.uuid} was reported with another credential first; "
                      "an operator can release it with `tensor-runtime fleet release`")
    is_stale = bool(report.error) and not report.interfaces and bool(known.report.interfaces)
    kept = replace(report, interfaces=known.report.interfaces) if is_stale else report
    moved = caller.credential is None and caller.address != known.reporter
    machine = Machine(
        report.uuid, kept, is_stale, known.first_seen, now, caller.address,
        known.owner if known.owner is not None else caller.credential, known.has_moved or moved,
    )
    rows.put_machine(machine)
    if kept != known.report or is_stale != known.is_stale:
        rows.add_report(report.uuid, now, report.to_json(), KEPT_REPORTS)
    return machine
