"""How a server gets into the fleet that its settings name."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from runtime.edge.auth import split_address
from runtime.edge.tokens import token_in_clear
from runtime.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.fleet.membership import Membership

__all__ = ["check_joining", "membership"]


def check_joining(settings: Settings) -> None:
    """Refuse settings with which a server could not join.

    Raises
    ------
    InvalidArgument, FailedPrecondition
        With the setting that is missing or wrong.
    """
    if not settings.fleet_join:
        return
    from runtime.client.channels import address_of

    address_of(settings.fleet_join)
    _offered(settings)
    if settings.tls_cert is None:
        raise FailedPrecondition(
            "setting fleet_join needs a certificate to enrol: enrol_with, or tls_cert and tls_key"
        )
    _token(settings)


def membership(settings: Settings) -> Membership:
    """Return what keeps the server in the fleet; the settings are those of `check_joining`."""
    from runtime.client.channels import Access
    from runtime.client.fleet import FleetClient
    from runtime.fleet.membership import Membership

    assert settings.tls_cert is not None
    target = settings.fleet_join
    tls = target.startswith("grpcs://")
    ca = settings.fleet_join_ca.read_bytes() if tls and settings.fleet_join_ca is not None else None
    access = Access(token=_token(settings), tls=tls, ca=ca)
    return Membership(
        lambda: FleetClient(target, access), _offered(settings), settings.tls_cert, settings.fleet_lease_s
    )


def _token(settings: Settings) -> str | None:
    path = settings.fleet_join_token_file
    if path is None:
        return None
    token = token_in_clear(path)
    if token is None:
        raise InvalidArgument(f"setting fleet_join_token_file: {path} holds no token in clear for the dispatcher")
    return token


def _offered(settings: Settings) -> str:
    text = settings.fleet_address
    named = bool(text)
    if not named and not settings.listen.startswith("unix:"):
        text = split_address(settings.listen)[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        if named:
            raise InvalidArgument(f"setting fleet_address: {text!r} is not an IP address that others can reach")
        raise InvalidArgument(
            f"setting fleet_join: the address to offer cannot be told from listen ({settings.listen}); name it with "
            "--fleet-address IP"
        )
    return str(address)
