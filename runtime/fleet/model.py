"""What the fleet knows: machines and what they say of themselves, servers and their certificates, callers."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = [
    "AddressReport", "Caller", "Certificate", "Health", "InterfaceReport", "Machine", "MachineReport", "PortReport",
    "Server",
]


@dataclass(frozen=True, slots=True)
class PortReport:
    """A port of a service; ``number`` is 1 to 65535."""

    number: int
    service: str = ""


@dataclass(frozen=True, slots=True)
class AddressReport:
    """An IP address of an interface, and the ports that its services use there."""

    ip: str
    ports: tuple[PortReport, ...] = ()


@dataclass(frozen=True, slots=True)
class InterfaceReport:
    """A network interface; ``error`` says why its addresses could not be listed."""

    name: str
    addresses: tuple[AddressReport, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class MachineReport:
    """Everything that one machine reports; ``error`` says why its interfaces could not be listed."""

    uuid: str
    interfaces: tuple[InterfaceReport, ...] = ()
    error: str = ""

    def to_json(self) -> str:
        """Return the report as text, equal for equal reports."""
        return json.dumps({
            "uuid": self.uuid,
            "error": self.error,
            "interfaces": [
                {
                    "name": interface.name,
                    "error": interface.error,
                    "addresses": [
                        {"ip": address.ip, "ports": [[port.number, port.service] for port in address.ports]}
                        for address in interface.addresses
                    ],
                }
                for interface in self.interfaces
            ],
        }, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MachineReport:
        """Return the report that :meth:`to_json` wrote."""
        value: dict[str, Any] = json.loads(text)
        return cls(
            value["uuid"],
            tuple(
                InterfaceReport(
                    interface["name"],
                    tuple(
                        AddressReport(address["ip"], tuple(PortReport(*port) for port in address["ports"]))
                        for address in interface["addresses"]
                    ),
                    interface["error"],
                )
                for interface in value["interfaces"]
            ),
            value["error"],
        )

    def ips(self) -> set[str]:
        """Return all addresses of all interfaces."""
        return {address.ip for interface in self.interfaces for address in interface.addresses}


@dataclass(frozen=True)
class Machine:
    """What is stored of a machine. Times are seconds since the epoch.

    Attributes
    ----------
    uuid : str
    report : MachineReport
        The last one; with the interfaces of an earlier one when it could not list them.
    is_stale : bool
        Whether the interfaces are those of an earlier report.
    first_seen, last_seen : float
    reporter : str or None
        The address from which it reported last.
    owner : str or None
        The credential that reported it first.
    has_moved : bool
        Whether it once reported from another address while credentials were off.
    """

    uuid: str
    report: MachineReport
    is_stale: bool
    first_seen: float
    last_seen: float
    reporter: str | None
    owner: str | None
    has_moved: bool = False


@dataclass(frozen=True)
class Certificate:
    """A certificate as the fleet knows it.

    Attributes
    ----------
    fingerprint : str
        SHA-256 over the DER form of the leaf, hexadecimal: the server's identity.
    key_fingerprint : str
        SHA-256 over the public key (SubjectPublicKeyInfo); equal after a renewal that keeps the key.
    leaf : bytes
        DER.
    as_sent : bytes
        The bytes that were sent, chain included.
    not_before, not_after : float
        Seconds since the epoch.
    ips : frozenset of str
        IP entries of the subject's alternative names.
    """

    fingerprint: str
    key_fingerprint: str
    leaf: bytes
    as_sent: bytes
    not_before: float
    not_after: float
    ips: frozenset[str]


class Health(StrEnum):
    """Whether machines are sent to a server.

    ``PENDING`` is a server in rotation after a restart of this process: machines that have it keep it, new ones get
    others.
    """

    ENROLLED = "enrolled"
    PENDING = "pending"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class Server:
    """What is stored of a server. Times are seconds since the epoch.

    Attributes
    ----------
    number : int
        Its name inside; stays when the certificate is renewed.
    certificate : Certificate
    enrolled_by : str or None
        The credential that enrolled it.
    enrolled_at, last_seen : float
    ip : str or None
        The address it offered; None before an offer and after it left rotation.
    position : int or None
        Its place in the rotation.
    unhealthy_since : float or None
    cause : str
        Why it left rotation, or why it is unhealthy.
    """

    number: int
    certificate: Certificate
    enrolled_by: str | None
    enrolled_at: float
    last_seen: float
    ip: str | None = None
    position: int | None = None
    unhealthy_since: float | None = None
    cause: str = ""


@dataclass(frozen=True)
class Caller:
    """Who makes a call, as far as its connection and its metadata show.

    Attributes
    ----------
    address : str or None
        Canonical IP address of the connection; None for a unix socket.
    credential : str or None
        What the caller proved to be: ``token:NAME`` or ``certificate:FINGERPRINT``.
    certificate : str or None
        Fingerprint of the certificate that it showed.
    networks : tuple
        Networks in which its token lets it offer addresses.
    """

    address: str | None = None
    credential: str | None = None
    certificate: str | None = None
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = field(default=())
