"""Connections that trust one certificate, whoever signed it and whatever it names."""

from __future__ import annotations

import contextlib
import ssl

from runtime.client.access import Access

__all__ = ["access_pinned"]


def access_pinned(certificate: bytes, token: str | None = None) -> Access:
    """Return an access to the server that has a certificate's key, and to no other.

    Parameters
    ----------
    certificate : bytes
        DER of the leaf, or PEM with the leaf first. What follows the leaf is not trusted.
    token : str, optional
        Sent with every call.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    is_pem = b"-----BEGIN CERTIFICATE-----" in certificate
    leaf = (x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate)(certificate)
    text = ssl.DER_cert_to_PEM_cert(leaf.public_bytes(Encoding.DER))
    return Access(token=token, tls=True, ca=text.encode(), server_name=_name_in(leaf))


def _name_in(leaf: object) -> str:
    """Return a name that the certificate is for: the library insists on one, though the key decides."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    assert isinstance(leaf, x509.Certificate)
    with contextlib.suppress(x509.ExtensionNotFound):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        if found:
            return found[0]
    common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else "localhost"
