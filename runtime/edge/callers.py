"""What a call's connection shows of its caller, the same for both transports."""

from __future__ import annotations

import ssl
from typing import Any

__all__ = ["peer_certificate"]


def peer_certificate(context: Any) -> bytes | None:
    """Return the DER form of the certificate that a caller showed and the transport verified, or None."""
    own = getattr(context, "peer_certificate", None)
    if own is not None:
        shown: bytes | None = own()
        return shown
    entries = context.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(entries[0].decode("ascii")) if entries else None
