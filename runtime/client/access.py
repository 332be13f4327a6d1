"""How a client gets into a server: address, TLS, token. Without the gRPC library, which takes a while to import."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any

from runtime._ext.errors import InvalidArgument

__all__ = ["Access", "address_of", "tls_context"]


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in.

    Attributes
    ----------
    token : str or None
        Sent as ``authorization: Bearer TOKEN``.
    tls : bool
        Whether the connection is encrypted.
    ca, cert, key : bytes or None
        PEM: whom to trust (the system's authorities when None), and who we are.
    server_name : str or None
        Name in the server's certificate, when it is not the host of the target.
    """

    # What is secret stays out of whatever is printed, such as the values in a traceback.
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    @classmethod
    def of(cls, target: str, token: str | None, tls: bool | None, ca: Any, cert: Any, key: Any,
           server_name: str | None) -> Access:
        """Return the access that a caller's arguments describe; `ca`, `cert` and `key` are paths or PEM bytes.

        Raises
        ------
        InvalidArgument
            If they contradict each other or a file cannot be read.
        """
        wants_tls = target.startswith("grpcs://") or any(item is not None for item in (ca, cert, key, server_name))
        if tls is False and wants_tls:
            raise InvalidArgument("tls=False contradicts the other arguments: ca, cert, key, server_name and grpcs:// "
                                  "all mean TLS")
        if (cert is None) != (key is None):
            raise InvalidArgument("cert and key go together: one was given without the other")
        if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
            raise InvalidArgument("token must be printable ASCII characters without spaces")
        return cls(token, bool(tls or wants_tls), _pem(ca, "ca"), _pem(cert, "cert"), _pem(key, "key"), server_name)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def _pem(item: Any, name: str) -> bytes | None:
    if item is None or isinstance(item, bytes):
        return item
    if isinstance(item, str) and "-----BEGIN" in item:
        raise InvalidArgument(f"{name} is PEM as text: give it as bytes, or the path of its file")
    if not isinstance(item, (str, os.PathLike)):  # whatever it is, it may be the key itself
        raise InvalidArgument(f"{name} is a {type(item).__name__}; expected the path of a PEM file, or its bytes")
    try:
        with open(item, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidArgument(f"{name}={os.fspath(item)!r} cannot be read: {error}") from error


def address_of(target: str) -> str:
    """Return the address that gRPC connects to for a target.

    Raises
    ------
    InvalidArgument
        If the target has not one of the forms ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    """
    if target.startswith("unix:") and len(target) > len("unix:"):
        return target
    scheme, separator, address = target.partition("://")
    host, colon, port = address.rpartition(":")
    if separator and scheme in ("grpc", "grpcs") and host and colon and port.isdigit() and "/" not in host:
        return address
    raise InvalidArgument(f"target '{target}' is not understood: write grpc://HOST:PORT, grpcs://HOST:PORT for TLS, "
                          "or unix:PATH")


def tls_context(access: Access) -> ssl.SSLContext:
    """Return a context that verifies the server, and shows our certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        if access.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=access.ca.decode("ascii", "replace"))
        if access.cert is not None and access.key is not None:
            # OpenSSL takes both from a file alone: one that only this process sees.
            descriptor = os.memfd_create("certificate")
            try:
                os.write(descriptor, access.cert + b"\n" + access.key)
                context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
            finally:
                os.close(descriptor)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InvalidArgument(f"ca, cert and tls_key cannot be used: {error}") from error
    return context
