"""Where a worker serves."""

from __future__ import annotations

import os
from typing import NamedTuple

from runtime.errors import InvalidArgument

__all__ = ["Endpoint"]

_FORMS = "write unix:PATH, HOST:PORT, or grpcs://HOST:PORT for TLS"
_MAX_PATH_BYTES = 107


class Endpoint(NamedTuple):
    """An address of a worker.

    Attributes
    ----------
    address : str
        ``unix:PATH`` or ``HOST:PORT``.
    is_tls : bool
        Whether the connection is encrypted.
    """

    address: str
    is_tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Return the endpoint that a text names; ``grpc://`` and ``http://`` before HOST:PORT are clear text too.

        Raises
        ------
        InvalidArgument
            If it names none.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path or "\0" in path or len(os.fsencode(path)) > _MAX_PATH_BYTES:
                raise InvalidArgument(f"endpoint {text!r}: a path of 1 to {_MAX_PATH_BYTES} bytes belongs behind unix:")
            return cls(f"unix:{path}")
        is_tls = False
        address = text
        scheme, separator, rest = text.partition("://")
        if separator:
            if scheme not in ("grpc", "grpcs", "http", "https"):
                raise InvalidArgument(f"endpoint {text!r} is not understood: {_FORMS}")
            is_tls, address = scheme in ("grpcs", "https"), rest
        host, colon, port = address.rpartition(":")
        bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
        is_port = port.isascii() and port.isdigit() and 0 < int(port) <= 65535
        if not colon or not host or bare_ipv6 or not is_port or "/" in host or not address.isprintable():
            raise InvalidArgument(f"endpoint {text!r} is not understood: {_FORMS}")
        return cls(address, is_tls)

    @property
    def is_unix(self) -> bool:
        """Whether it is a socket in the file system of the server."""
        return self.address.startswith("unix:")

    def __str__(self) -> str:
        return f"grpcs://{self.address}" if self.is_tls else self.address
