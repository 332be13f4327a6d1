"""How this server gets into the other tasks of its cluster: TLS and a token, as the settings say."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.edge.auth import read_pem
from runtime.edge.live_tls import OwnChain
from runtime.edge.tokens import token_in_clear
from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime.config import Settings

__all__ = ["PeerAccess", "peer_access"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeerAccess:
    """How to get in.

    Attributes
    ----------
    tls : ssl.SSLContext or None
        None for connections in clear text.
    metadata : tuple of (bytes, bytes)
        What every call carries.
    own : OwnChain or None
        Follows the files of the certificate that is shown.
    """

    tls: ssl.SSLContext | None = None
    metadata: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)  # the token is in it
    own: OwnChain | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return what to connect with: ``tls``, with this server's certificate as it is now."""
        if self.own is not None:
            self.own.refresh()
        return self.tls


def peer_access(settings: Settings) -> PeerAccess:
    """Return how the other tasks of a cluster are called.

    They are taken to be protected as this server is: with TLS when it has a certificate, which it shows them, and with
    the first token of its file that is there in clear. ``peer_ca`` and ``peer_token_file`` say otherwise, ``peer_tls``
    switches TLS.

    Raises
    ------
    InvalidArgument
        If a file cannot be read or is not what it should be, or settings contradict each other.
    """
    wants_tls = settings.tls_cert is not None or settings.peer_ca is not None
    if settings.peer_tls != "auto":
        if settings.peer_tls == "off" and settings.peer_ca is not None:
            raise InvalidArgument("setting peer_ca is given, but peer_tls is off: without TLS nobody is verified")
        wants_tls = settings.peer_tls == "on"
    metadata: tuple[tuple[bytes, bytes], ...] = ()
    tokens = settings.peer_token_file or settings.token_file
    if tokens is not None:
        token = token_in_clear(tokens)
        if token is not None:
            metadata = ((b"authorization", f"Bearer {token}".encode()),)
        elif settings.peer_token_file is not None:
            raise InvalidArgument(f"setting peer_token_file: {tokens} holds no token in clear for the other tasks")
        else:
            logger.warning("other tasks get no token: token_file holds records alone; peer_token_file can name one")
    if not wants_tls:
        return PeerAccess(None, metadata)
    context = _context(settings)
    own = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        own = OwnChain(context, settings.tls_cert, settings.tls_key)
    return PeerAccess(context, metadata, own)


def _context(settings: Settings) -> ssl.SSLContext:
    """Return a context that verifies the other task's certificate and name, and shows this server's own certificate."""
    ca = settings.peer_ca or settings.tls_client_ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if ca is None:
        context.load_default_certs()
    else:
        name = "peer_ca" if settings.peer_ca is not None else "tls_client_ca"
        try:
            context.load_verify_locations(cadata=read_pem(name, ca, b"CERTIFICATE-----").decode("ascii", "replace"))
        except ssl.SSLError as error:
            raise InvalidArgument(f"setting {name}: {ca} cannot be used: {error}") from error
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidArgument(f"settings tls_cert and tls_key: certificate and key ({settings.tls_cert}, "
                                  f"{settings.tls_key}) cannot be used together: {error}") from error
    return context
