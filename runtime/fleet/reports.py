"""Whether a machine's report is acceptable."""

from __future__ import annotations

from typing import Any

from runtime.fleet.addresses import reported_address
from runtime.fleet.machine_ids import machine_id_of_text
from runtime.fleet.model import AddressReport, InterfaceReport, MachineReport, PortReport
from runtime.fleet.refusals import Refused

__all__ = ["MAX_REPORT_BYTES", "checked"]

MAX_REPORT_BYTES = 256 << 10
MAX_INTERFACES = 64
MAX_ADDRESSES = 64
MAX_PORTS_OF_ADDRESS = 1024
MAX_PORTS = 4096
MAX_NAME_CHARS = 64
MAX_ERROR_BYTES = 4 << 10


def checked(report: MachineReport) -> MachineReport:
    """Return a report in canonical form: uuid and addresses spelled one way, ports sorted and each once.

    One bad element refuses the whole report; nothing is cut off.

    Raises
    ------
    Refused
        ``bad_uuid``, ``too_large``, ``bad_ip``, ``bad_port``, ``bad_text`` or ``duplicate_iface``.
    """
    try:
        uuid = machine_id_of_text(report.uuid)
    except ValueError as error:
        raise Refused("bad_uuid", f"machine.{error}") from None
    _check_count(report.interfaces, MAX_INTERFACES, "machine.ifaces", "interfaces")
    names: set[str] = set()
    interfaces = []
    num_ports = 0
    for index, interface in enumerate(report.interfaces):
        field = f"machine.ifaces[{index}]"
        _check_text(interface.name, f"{field}.name", may_be_empty=False)
        if interface.name in names:
            raise Refused("duplicate_iface", f"{field}.name {interface.name!r} was reported before; expected each once")
        names.add(interface.name)
        _check_error(interface.error, f"{field}.error")
        _check_count(interface.addresses, MAX_ADDRESSES, f"{field}.address", "addresses")
        addresses = []
        for place, address in enumerate(interface.addresses):
            checked_address = _checked_address(address, f"{field}.address[{place}]")
            num_ports += len(checked_address.ports)
            addresses.append(checked_address)
        interfaces.append(InterfaceReport(interface.name, tuple(addresses), interface.error))
    if num_ports > MAX_PORTS:
        raise Refused("too_large", f"the report has {num_ports} ports; expected at most {MAX_PORTS}")
    _check_error(report.error, "machine.error")
    return MachineReport(uuid, tuple(interfaces), report.error)


def _checked_address(address: AddressReport, field: str) -> AddressReport:
    ip = reported_address(address.ip, f"{field}.ip")
    _check_count(address.ports, MAX_PORTS_OF_ADDRESS, f"{field}.ports", "ports")
    for place, port in enumerate(address.ports):
        if not 1 <= port.number <= 65535:
            raise Refused("bad_port", f"{field}.ports[{place}].port {port.number} is not valid; expected 1 to 65535")
        _check_text(port.service, f"{field}.ports[{place}].service", may_be_empty=True)
    ports = {(port.number, port.service) for port in address.ports}
    return AddressReport(ip, tuple(PortReport(*port) for port in sorted(ports)))


def _check_count(values: tuple[Any, ...], limit: int, field: str, what: str) -> None:
    if len(values) > limit:
        raise Refused("too_large", f"{field} has {len(values)} {what}; expected at most {limit}")


def _check_text(text: str, field: str, *, may_be_empty: bool) -> None:
    if len(text) > MAX_NAME_CHARS:
        raise Refused("too_large", f"{field} has {len(text)} characters; expected at most {MAX_NAME_CHARS}")
    if not text and not may_be_empty:
        raise Refused("bad_text", f"{field} is empty; expected a name")
    if not text.isprintable():
        raise Refused("bad_text", f"{field} {text!r} has characters that cannot be printed")


def _check_error(text: str, field: str) -> None:
    nbytes = len(text.encode())
    if nbytes > MAX_ERROR_BYTES:
        raise Refused("too_large", f"{field} has {nbytes} bytes; expected at most {MAX_ERROR_BYTES}")
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise Refused("bad_text", f"{field} has characters that cannot be printed")
