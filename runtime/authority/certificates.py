"""Certificates for TLS: an authority of one's own, and leaves for servers and clients signed by it.

Needs the package ``cryptography``, which the extra ``tls`` installs. Keys are ECDSA over P-256, which every TLS
library of the last decade takes and which keeps handshakes short.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.authority.keys import require_cryptography
from runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

# Clocks of two machines differ; a certificate is valid from before it was made, by a tenth of its time at most.
_CLOCK_SKEW = datetime.timedelta(hours=1)
DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")


def make_authority(folder: Path, name: str, days: int, *, force: bool = False) -> tuple[Path, Path]:
    """Make a certificate authority.

    Parameters
    ----------
    folder : Path
        Where ``ca.pem`` (the certificate, to be given to everyone) and ``ca.key`` (the key, mode 0600, to be kept)
        are written.
    name : str
        Common name.
    days : int
        Days that it is valid.
    force : bool
        Whether to replace files that exist.

    Returns
    -------
    tuple of Path
        Certificate and key.

    Raises
    ------
    AlreadyExists
        If a file is there and ``force`` is not given.
    Unimplemented
        If ``cryptography`` is not installed.
    """
    require_cryptography("making certificates")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate_path, key_path = folder / "ca.pem", folder / "ca.key"
    _check_free((certificate_path, key_path), force)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(certificate_path, key_path, certificate, key)
    return certificate_path, key_path


def make_leaf(
    authority: Path, folder: Path, name: str, hosts: Sequence[str], days: int, *, force: bool = False
) -> tuple[Path, Path]:
    """Make a certificate for a server or a client, signed by an authority.

    Parameters
    ----------
    authority : Path
        Folder with ``ca.pem`` and ``ca.key``.
    folder : Path
        Where ``NAME.pem`` and ``NAME.key`` (mode 0600) are written.
    name : str
        Common name, and the name of the files.
    hosts : sequence of str
        DNS names and IP addresses that clients will connect to; localhost and its addresses when empty.
    days : int
        Days that it is valid, at most as long as the authority is.
    force : bool
        Whether to replace files that exist.

    Returns
    -------
    tuple of Path
        Certificate and key.

    Raises
    ------
    FailedPrecondition
        If the authority's files cannot be read or do not belong together.
    InvalidArgument
        If the name cannot be a file name.
    AlreadyExists, Unimplemented
        As for :func:`make_authority`.
    """
    require_cryptography("making certificates")
    from cryptography.hazmat.primitives.asymmetric import ec

    if not name or name in (".", "..", "ca") or "/" in name or "\0" in name:
        raise InvalidArgument(f"name {name!r} cannot be used: expected a file name other than 'ca'")
    certificate_path, key_path = folder / f"{name}.pem", folder / f"{name}.key"
    _check_free((certificate_path, key_path), force)
    signer = Signer.read(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signer.sign(key.public_key(), name, hosts or DEFAULT_HOSTS, days)
    _write(certificate_path, key_path, certificate, key)
    return certificate_path, key_path


@dataclass(frozen=True)
class Signer:
    """An authority's certificate with its key.

    Attributes
    ----------
    certificate : x509.Certificate
    key : ec.EllipticCurvePrivateKey
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, folder: Path) -> Signer:
        """Return the authority in a folder: ``ca.pem`` and ``ca.key``.

        Raises
        ------
        FailedPrecondition
            If the files cannot be read or do not belong together.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise FailedPrecondition(
                f"the authority in {folder} cannot be used ({error}); `tensor-runtime cert ca --out DIR` makes one"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise FailedPrecondition(f"the authority in {folder} cannot be used: ca.key is not the key of ca.pem")
        return cls(certificate, key)

    def sign(self, public_key: Any, name: str, hosts: Sequence[str], days: float) -> x509.Certificate:
        """Return a certificate for a server or a client.

        Parameters
        ----------
        public_key : a public key of ``cryptography``
        name : str
            Common name.
        hosts : sequence of str
            DNS names and IP addresses.
        days : float
            Days that it is valid, at most as long as the authority is.

        Raises
        ------
        InvalidArgument
            For a name, host or number of days that cannot be used.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names = [general_name(host) for host in hosts]
        authority = self.certificate
        return (
            _builder(_subject(name), authority.subject, public_key, days, authority.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise InvalidArgument(f"name {name!r} cannot be a common name: {error}") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: Any,
    days: float,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    from cryptography import x509

    if not days > 0:
        raise InvalidArgument(f"days {days} is not valid: expected more than 0")
    now = datetime.datetime.now(datetime.UTC)
    try:
        end = now + datetime.timedelta(days=days)
    except OverflowError as error:
        raise InvalidArgument(f"days {days} is not valid: the date is out of range") from error
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(_CLOCK_SKEW, (end - now) / 10))
        .not_valid_after(end if latest is None else min(end, latest))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(host: str) -> x509.GeneralName:
    """Return a host's form in a certificate.

    Raises
    ------
    InvalidArgument
        If it is neither an IP address nor a DNS name.
    """
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidArgument(f"host {host!r} is neither an IP address nor a DNS name: {error}") from error


def _check_free(paths: Sequence[Path], force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise AlreadyExists(f"{path} exists; choose another folder or name, or replace it with --force")


def _write(
    certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    from cryptography.hazmat.primitives import serialization

    key_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        certificate_path.parent.mkdir(parents=True, exist_ok=True)
        # A key is never readable by others, not even for a moment: a new file, made with its final mode.
        key_path.unlink(missing_ok=True)
        descriptor = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as key_file:
            key_file.write(key_text)
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise FailedPrecondition(f"{error.filename or key_path} cannot be written: {error.strerror}") from error
