"""What a call's connection shows of its caller, the same for both transports."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any

__all__ = ["peer_address", "peer_certificate", "peer_name"]


def peer_certificate(context: Any) -> bytes | None:
    """Return the DER form of the certificate that a caller showed and the transport verified, or None."""
    own = getattr(context, "peer_certificate", None)
    if own is not None:
        shown: bytes | None = own()
        return shown
    entries = context.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(entries[0].decode("ascii")) if entries else None


def peer_address(context: Any) -> str | None:
    """Return the address of a caller, an IPv4 one behind an IPv4-mapped one; None for a unix socket."""
    peer: str = context.peer()
    if peer.startswith("unix:"):
        return None
    host = peer.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def peer_name(context: Any) -> str:
    """Return what a caller is counted by: its address, or ``unix``."""
    return peer_address(context) or "unix"
