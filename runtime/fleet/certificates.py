"""Certificates with which servers enrol: what is in them, and whether they are acceptable.

Needs the package ``cryptography``, which the extra ``tls`` installs.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.authority.keys import key_fingerprint, require_cryptography, weakness
from runtime.authority.revocation import RevocationLists
from runtime.errors import InvalidArgument
from runtime.fleet.model import Certificate
from runtime.fleet.refusals import Refused

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["CertificatePolicy", "read"]

MAX_CERTIFICATE_BYTES = 64 << 10
MAX_BLOCKS = 9
CLOCK_SKEW = datetime.timedelta(minutes=5)
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_WEAK_DIGESTS = ("md5", "sha1")

Clock = Callable[[], float]


def read(data: bytes) -> Certificate:
    """Return what a certificate says, whether or not it is acceptable.

    Parameters
    ----------
    data : bytes
        DER of one certificate, or PEM of 1 to 9, the leaf first.

    Raises
    ------
    Refused
        ``contains_private_key`` or ``malformed``.
    """
    require_cryptography("enrolling servers")
    return _described(data, _load(_parse(data))[0])


class CertificatePolicy:
    """Which certificates a server may enrol with.

    Parameters
    ----------
    ca_file : Path, optional
        PEM of authorities; the chain must lead to one of them. Without it, whoever may call is trusted on first
        enrolment.
    crl_file : Path, optional
        PEM of revocation lists; read again when the file changes.
    clock : callable
        Seconds since the epoch.

    Raises
    ------
    InvalidArgument
        If a file cannot be read.
    """

    def __init__(self, ca_file: Path | None, crl_file: Path | None, clock: Clock) -> None:
        require_cryptography("enrolling servers")
        self._clock = clock
        self._roots = None if ca_file is None else _read_roots(ca_file)
        self._revoked = None if crl_file is None else RevocationLists(crl_file, "fleet_crl")

    def check(self, data: bytes) -> Certificate:
        """Return an acceptable certificate.

        Raises
        ------
        Refused
            ``contains_private_key``, ``malformed``, ``not_yet_valid``, ``expired``, ``weak``, ``wrong_usage``,
            ``untrusted`` or ``revoked``.
        """
        chain = _load(_parse(data))
        leaf = chain[0]
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        if leaf.not_valid_before_utc > now + CLOCK_SKEW:
            raise Refused("not_yet_valid", f"the certificate is valid from {leaf.not_valid_before_utc}")
        if leaf.not_valid_after_utc < now - CLOCK_SKEW:
            raise Refused("expired", f"the certificate was valid until {leaf.not_valid_after_utc}")
        for certificate in chain:
            _check_strength(certificate)
        _check_usage(leaf)
        self._check_revoked(chain)
        if self._roots is not None:
            _check_chain(chain, self._roots, now)
        return _described(data, leaf)

    def is_revoked(self, certificate: Certificate) -> bool:
        """Return whether an enrolled certificate is on a revocation list by now."""
        return self._revoked is not None and self._revoked.contains(_load([certificate.leaf])[0])

    def _check_revoked(self, chain: list[x509.Certificate]) -> None:
        if self._revoked is None:
            return
        for certificate in chain:
            if self._revoked.contains(certificate):
                raise Refused("revoked", f"the certificate with serial number {certificate.serial_number:x} is revoked")


def _parse(data: bytes) -> list[bytes]:
    """Return the DER forms of the certificates in what was sent, the leaf first."""
    if b"PRIVATE KEY-----" in data:
        # No part of it goes into the message.
        told = "certificate holds a private key; send the certificate alone, and replace that key"
        raise Refused("contains_private_key", told)
    if not data:
        raise Refused("malformed", "certificate is empty; expected DER or PEM")
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise Refused("malformed", f"certificate has {len(data)} bytes; expected at most {MAX_CERTIFICATE_BYTES}")
    if _BEGIN not in data:
        return [data]
    blocks = data.split(_BEGIN)
    if blocks[0].strip() or len(blocks) - 1 > MAX_BLOCKS:
        raise Refused("malformed", f"certificate is not PEM of 1 to {MAX_BLOCKS} certificates and nothing else")
    return [_der(block) for block in blocks[1:]]


def _der(block: bytes) -> bytes:
    import base64
    import binascii

    text, end, rest = block.partition(_END)
    if not end or rest.strip():
        raise Refused("malformed", "certificate is not PEM: a block has no end, or something follows it")
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise Refused("malformed", f"certificate is not PEM: {error}") from None


def _load(ders: list[bytes]) -> list[x509.Certificate]:
    from cryptography import x509

    chain = []
    for der in ders:
        try:
            certificate = x509.load_der_x509_certificate(der)
            # Parts are read when asked for: what cannot be read is to show here.
            _ = certificate.extensions, certificate.public_key(), certificate.signature_algorithm_oid
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            _ = certificate.issuer, certificate.subject
        except Exception as error:  # the parser raises several kinds for hostile input
            raise Refused("malformed", f"certificate cannot be read as X.509: {str(error)[:200]}") from None
        if certificate.version != x509.Version.v3:
            raise Refused("malformed", f"certificate is X.509 {certificate.version.name}; expected v3")
        chain.append(certificate)
    return chain


def _check_strength(certificate: x509.Certificate) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm

    weak = weakness(certificate.public_key())
    if weak is not None:
        raise Refused("weak", weak)
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = certificate.signature_algorithm_oid.dotted_string
        raise Refused("weak", f"the certificate is signed by an algorithm that is not known: {algorithm}") from None
    if digest is not None and digest.name in _WEAK_DIGESTS:
        raise Refused("weak", f"the certificate is signed with {digest.name}; expected SHA-256 or better")


def _check_usage(leaf: x509.Certificate) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage:
        raise Refused("wrong_usage", "the certificate's extended key usage has no serverAuth")


def _check_chain(chain: list[x509.Certificate], roots: list[x509.Certificate], now: datetime.datetime) -> None:
    from cryptography import x509
    from cryptography.x509 import verification

    if chain[0] in roots:
        return

    def is_authority(_policy: Any, _certificate: Any, constraints: x509.BasicConstraints) -> None:
        if not constraints.ca:
            raise ValueError("an issuer is no authority")

    def signs(_policy: Any, _certificate: Any, usage: x509.KeyUsage | None) -> None:
        if usage is not None and not usage.key_cert_sign:
            raise ValueError("an issuer's key usage has no keyCertSign")

    agnostic = verification.Criticality.AGNOSTIC
    # Less than the web's profile: small authorities leave out what it asks for, such as key identifiers.
    authorities = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, agnostic, is_authority)
        .may_be_present(x509.KeyUsage, agnostic, signs)
    )
    try:
        (
            verification.PolicyBuilder()
            .store(verification.Store(roots))
            .time(now)
            .extension_policies(ca_policy=authorities, ee_policy=verification.ExtensionPolicy.permit_all())
            .build_client_verifier()
            .verify(chain[0], chain[1:])
        )
    except verification.VerificationError as error:
        raise Refused("untrusted", f"the chain leads to no authority of fleet_ca: {str(error)[:300]}") from None


def _described(data: bytes, leaf: x509.Certificate) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = leaf.public_bytes(Encoding.DER)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ips = frozenset(str(ip) for ip in names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        ips = frozenset()
    return Certificate(
        fingerprint=hashlib.sha256(der).hexdigest(),
        key_fingerprint=key_fingerprint(leaf.public_key()),
        leaf=der,
        as_sent=data,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        ips=ips,
    )


def _read_roots(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"setting fleet_ca: {path} cannot be used: {error}") from error
