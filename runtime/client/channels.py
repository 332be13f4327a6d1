"""gRPC channels to servers: one per target and credentials, shared by the sessions that use it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from runtime._ext.errors import InvalidArgument

__all__ = ["Access", "SharedChannel", "address_of"]

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    # A restarted server is found again within a second, as TensorFlow's clients do.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # A step must not run twice because a connection broke.
    ("grpc.enable_retries", 0),
)


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

    token: str | None = None
    tls: bool = False
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
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
    try:
        with open(item, "rb") as file:
            return file.read()
    except (OSError, TypeError) as error:
        raise InvalidArgument(f"{name}={os.fspath(item) if isinstance(item, os.PathLike) else item!r} cannot be read: "
                              f"{error}") from error


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
                          "unix:PATH, or None to run in this process")


class SharedChannel:
    """A channel with a count of its users; the last one to leave closes it.

    Attributes
    ----------
    channel : grpc.Channel
    """

    _open: dict[tuple[str, Access], SharedChannel] = {}
    _lock = threading.Lock()

    def __init__(self, key: tuple[str, Access]) -> None:
        address, access = key
        self._key = key
        self._users = 0
        options: Sequence[tuple[str, Any]] = _OPTIONS
        if access.server_name is not None:
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", access.server_name))
        if access.tls:
            credentials = grpc.ssl_channel_credentials(access.ca, access.key, access.cert)
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)

    @classmethod
    def acquire(cls, address: str, access: Access) -> SharedChannel:
        """Return the channel for an address, made now if nobody uses one."""
        with cls._lock:
            key = (address, access)
            shared = cls._open.get(key)
            if shared is None:
                shared = cls._open[key] = cls(key)
            shared._users += 1
            return shared

    def release(self) -> None:
        """Let go of the channel."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                del self._open[self._key]
                self.channel.close()
