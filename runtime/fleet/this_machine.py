"""What this machine says of itself: its own interfaces, and services that it was told to name.

Only local interface data is read (by psutil, from the extra ``machine``); no port is looked for, no other host asked.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import FailedPrecondition, Unimplemented
from runtime.fleet.machine_ids import machine_id_of_text
from runtime.fleet.model import AddressReport, InterfaceReport, MachineReport, PortReport

__all__ = ["EVERY_S", "machine_uuid", "report"]

# How often a machine reports itself; spread by a tenth, so that machines that were started together do not go on so.
EVERY_S = 15 * 60.0


def machine_uuid(folder: Path) -> str:
    """Return the uuid under which this machine reports itself; made at random on first use and kept in a file.

    Raises
    ------
    FailedPrecondition
        If the file cannot be read or written, or holds something else.
    """
    path = folder / "machine-uuid"
    try:
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two processes that begin at once must not end up with two: the first to link its file wins.
            fresh = folder / f"machine-uuid.{os.getpid()}"
            fresh.write_text(f"{uuid.uuid4()}\n")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return machine_id_of_text(path.read_text("ascii").strip())
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise FailedPrecondition(f"{path} does not hold a uuid ({error}); remove it to have a new one made") from None


def report(uuid_text: str, services: Mapping[str, int]) -> MachineReport:
    """Return what this machine says of itself.

    Parameters
    ----------
    uuid_text : str
        Its uuid.
    services : mapping
        Name to port of services to name at every address that is not loopback.

    Raises
    ------
    Unimplemented
        If psutil is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise Unimplemented(
            "reporting this machine needs the package psutil, which is not installed; "
            "pip install 'tensor-runtime[machine]'"
        ) from error
    ports = tuple(PortReport(port, name) for name, port in sorted(services.items()))
    try:
        found = psutil.net_if_addrs()
    except OSError as error:
        return MachineReport(uuid_text, (), f"interfaces cannot be listed: {error.strerror or error}")
    interfaces = []
    for name, entries in sorted(found.items()):
        addresses = []
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            ip = entry.address.partition("%")[0]
            addresses.append(AddressReport(ip, () if ip in ("127.0.0.1", "::1") else ports))
        interfaces.append(InterfaceReport(name[:64], tuple(addresses)))
    return MachineReport(uuid_text, tuple(interfaces))
