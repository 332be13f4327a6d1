"""Who may connect: addresses that only this machine reaches, and TLS.

Whoever can call the graph or command plane can run code as this process. So a listener that others can reach must
prove who is calling, or its owner must say in so many words that this is not wanted.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import Error, FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    import grpc

    from runtime.config import Settings

logger = logging.getLogger(__name__)

# Takes a call's path and metadata; returns None, or the error that refuses the call.
Authorize = Callable[[str, Iterable[Any]], Error | None]


def split_address(listen: str) -> tuple[str, int]:
    """Return host (without brackets) and port of ``HOST:PORT``."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_local(listen: str) -> bool:
    """Return whether only processes on this machine can reach an address.

    A host name counts as local when everything it resolves to is a loopback address; one that does not resolve
    does not.
    """
    if listen.startswith("unix:"):
        return True
    host, port = split_address(listen)
    if not host:
        return False
    try:
        return _is_loopback(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(_is_loopback(str(entry[4][0])) for entry in found)


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def check_exposure(settings: Settings) -> None:
    """Refuse a listener that strangers could use.

    Raises
    ------
    FailedPrecondition
        If others can reach the address and there is neither TLS nor a token nor ``insecure``.
    InvalidArgument
        If TLS is only half configured.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if settings.tls_key is None else ("tls_key", "tls_cert")
        raise InvalidArgument(f"setting {given} is given without {missing}; TLS needs both")
    if settings.tls_client_ca is not None and settings.tls_cert is None and not settings.enrol_with:
        raise InvalidArgument("setting tls_client_ca is given without tls_cert and tls_key; it needs both")
    if settings.tls_crl is not None and settings.tls_client_ca is None:
        raise InvalidArgument("setting tls_crl is given without tls_client_ca: no client shows a certificate")
    if settings.enrol_with and settings.tls_cert is not None:
        raise InvalidArgument("settings enrol_with and tls_cert are both given; the certificate comes from one of them")
    if settings.enrol_invitation is not None and not settings.enrol_with:
        raise InvalidArgument("setting enrol_invitation is given without enrol_with: who is to be asked?")
    if settings.tls_cert is not None or settings.enrol_with or settings.token_file is not None or settings.insecure:
        return
    if not is_local(settings.listen):
        raise FailedPrecondition(
            f"refusing to listen on {settings.listen}: other machines can reach this address, and whoever calls can "
            "run code here. Give it TLS (--tls-cert and --tls-key, made by `tensor-runtime cert`) or a token "
            "(--token-file), listen on 127.0.0.1 or unix:PATH, or say --insecure to serve without protection"
        )


def readable_by_others(path: Path) -> bool:
    """Return whether users other than the owner may read a file."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return the TLS credentials that the settings ask for, or None for a listener in clear text.

    With ``tls_client_ca`` every client must show a certificate signed by one of its authorities. Files that change are
    read again for the next connection.

    Raises
    ------
    InvalidArgument
        If a file cannot be read or is not PEM of the right kind.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    if settings.tls_crl is not None:
        raise InvalidArgument("setting tls_crl is given, but transport is grpc, which cannot check it; use native")
    import grpc

    from runtime.edge.live_tls import stamp_of

    certificate, key, roots = settings.tls_cert, settings.tls_key, settings.tls_client_ca

    def configuration() -> grpc.ServerCertificateConfiguration:
        chain = read_pem("tls_cert", certificate, b"CERTIFICATE-----")
        private = read_pem("tls_key", key, b"PRIVATE KEY-----")
        authorities = None if roots is None else read_pem("tls_client_ca", roots, b"CERTIFICATE-----")
        return grpc.ssl_server_certificate_configuration([(private, chain)], authorities)

    stamp = stamp_of(certificate, key, roots)

    def changed() -> Any:  # a configuration, or None for no change, which the library's stubs leave out
        nonlocal stamp
        now = stamp_of(certificate, key, roots)
        if now == stamp:
            return None
        stamp = now
        try:
            return configuration()
        except InvalidArgument as error:
            logger.error("the changed TLS files cannot be used; those from before stay", extra={"reason": str(error)})
            return None

    return grpc.dynamic_ssl_server_credentials(configuration(), changed, roots is not None)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context that the settings ask for, or None for a listener in clear text.

    With ``tls_client_ca`` every client must show a certificate signed by one of its authorities.

    Raises
    ------
    InvalidArgument
        If a file cannot be read, is not PEM of the right kind, or key and certificate do not belong together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    read_pem("tls_cert", settings.tls_cert, b"CERTIFICATE-----")
    read_pem("tls_key", settings.tls_key, b"PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password prompt would stop a server for ever: an encrypted key is an error.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidArgument(
            f"settings tls_cert and tls_key: certificate and key ({settings.tls_cert}, {settings.tls_key}) cannot be "
            f"used together: {error}"
        ) from error
    if settings.tls_client_ca is not None:
        roots = read_pem("tls_client_ca", settings.tls_client_ca, b"CERTIFICATE-----")
        try:
            context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
        except ssl.SSLError as error:
            raise InvalidArgument(f"setting tls_client_ca: {settings.tls_client_ca} cannot be used: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def read_pem(name: str, path: Path, mark: bytes) -> bytes:
    """Return the content of a setting's PEM file, which must hold ``mark``.

    Raises
    ------
    InvalidArgument
        If it cannot be read or does not.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"setting {name}: {path} cannot be read: {error}") from error
    if mark not in data:
        raise InvalidArgument(f"setting {name}: {path} is not a PEM file with a {mark.decode().strip('-').lower()}")
    return data
