"""IP addresses as the fleet stores and compares them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from runtime.fleet.refusals import Refused

__all__ = ["Network", "is_within", "offered_address", "parse_networks", "reported_address"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Addresses set aside for documentation and benchmarks (RFC 5737, 3849, 9637, 2544): nobody can be reached there.
_DOCUMENTATION = tuple(ipaddress.ip_network(text) for text in (
    "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20", "198.18.0.0/15",
))
_PRIVATE = tuple(ipaddress.ip_network(text) for text in (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7",
))


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks from texts such as ``10.0.0.0/8``, ``::1`` or the word ``private``.

    Raises
    ------
    ValueError
        Naming the text that is none.
    """
    networks: list[Network] = []
    for text in texts:
        if text == "private":
            networks += _PRIVATE
            continue
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no network ({error}); expected ADDRESS/PREFIX or private") from None
    return tuple(networks)


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Return whether an address lies in one of the networks."""
    parsed = ipaddress.ip_address(address)
    return any(parsed.version == network.version and parsed in network for network in networks)


def offered_address(text: str, allowed: Iterable[Network]) -> str:
    """Return the canonical form of an address at which a server offers itself.

    Parameters
    ----------
    text : str
        One IPv4 or IPv6 literal, without port, brackets, zone or blanks.
    allowed : iterable of Network
        Where loopback and private addresses are acceptable.

    Raises
    ------
    Refused
        ``bad_ip``, if it is no literal, or one at which no server can be reached by others.
    """
    address = _literal(text, "ip")
    canonical = str(address)
    kind = _unusable(address)
    if kind is not None:
        raise Refused("bad_ip", f"ip {canonical} is {kind}; expected an address at which machines can reach the server")
    is_private = any(address in network for network in _same_version(address, _PRIVATE))
    if (address.is_loopback or is_private) and not is_within(canonical, allowed):
        kind = "a loopback" if address.is_loopback else "a private"
        raise Refused("bad_ip", f"ip {canonical} is {kind} address, and the setting fleet_networks does not allow it")
    return canonical


def reported_address(text: str, field: str) -> str:
    """Return the canonical form of an address of an interface; a zone (``%eth0``) is dropped.

    Raises
    ------
    Refused
        ``bad_ip``, naming the field.
    """
    literal, percent, zone = text.partition("%")
    if percent and (not zone or ":" not in literal):
        raise Refused("bad_ip", f"{field} {text[:80]!r} has a zone that does not belong there; expected a literal")
    return str(_literal(literal, field))


def _literal(text: str, field: str) -> Address:
    # The library takes "::1%zone" too, and str.isascii keeps digits of other scripts out.
    try:
        if "%" in text or not text.isascii():
            raise ValueError
        return _folded(ipaddress.ip_address(text))
    except ValueError:
        expected = "expected one IPv4 or IPv6 literal without port, brackets or zone"
        raise Refused("bad_ip", f"{field} {text[:80]!r} is not valid; {expected}") from None


def _folded(address: Address) -> Address:
    """Return the IPv4 address behind an IPv4-mapped one."""
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _unusable(address: Address) -> str | None:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    if any(address in network for network in _same_version(address, _DOCUMENTATION)):
        return "reserved for documentation or benchmarks"
    if str(address) == "255.255.255.255":
        return "the broadcast address"
    if address.is_loopback:
        return None
    if address.is_reserved or (address.version == 4 and int(address) >> 24 == 0):
        return "reserved"
    return None


def _same_version(address: Address, networks: Iterable[Network]) -> Iterable[Network]:
    return (network for network in networks if network.version == address.version)
