"""A program's own key and certificate, got by an invitation and renewed in time.

The key is made here and never leaves. Renewing keeps it, so that whoever knows the program by its key goes on to.

Needs the package ``cryptography``, which the extra ``tls`` installs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runtime import durable_files
from runtime.authority.authority import InvitationText
from runtime.authority.keys import make_proof, require_cryptography
from runtime.errors import Error, FailedPrecondition, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Identity", "Signing"]

logger = logging.getLogger(__name__)

# The part of a certificate's time after which it is renewed; what is left is for an authority that is away.
RENEW_AFTER = 2 / 3
# How often the list of revoked certificates is asked for.
LIST_EVERY_S = 300.0


class Signing(Protocol):
    """What is asked of an authority; `runtime.client.authority.AuthorityClient` does it by calls."""

    def meet(self, fingerprint: str) -> bytes: ...
    def enrol(self, name: str, secret: str, request: bytes) -> bytes: ...
    def renew(self, certificate: bytes, request: bytes, proof: bytes) -> bytes: ...
    def revocation_list(self) -> bytes: ...


class Identity:
    """Key and certificate in a folder: ``key.pem``, ``cert.pem``, ``ca.pem``, ``crl.pem``.

    Parameters
    ----------
    folder : Path
        Made by :meth:`ensure` with mode 0700.
    authority : callable
        ``authority(pem)`` returns the way to the authority; ``pem`` is its certificate once that is known, else None.
    clock : callable
        Seconds since the epoch.

    Concurrency: one thread at a time.
    """

    def __init__(
        self, folder: Path, authority: Callable[[bytes | None], Signing], clock: Callable[[], float] = time.time
    ) -> None:
        require_cryptography("a certificate of one's own")
        self._folder = folder
        self._authority = authority
        self._clock = clock
        self.key_path = folder / "key.pem"
        self.certificate_path = folder / "cert.pem"
        self.authority_path = folder / "ca.pem"
        self.list_path = folder / "crl.pem"
        self._list_due = 0.0

    def ensure(self, invitation: str | None) -> None:
        """Have a valid certificate: the one from before, or one for the invitation.

        Parameters
        ----------
        invitation : str or None
            As `tensor-runtime cert invite` prints it; not needed while the certificate from before is valid.

        Raises
        ------
        FailedPrecondition
            If there is neither a valid certificate nor an invitation, or a file cannot be used.
        Error
            What the authority says, or why it cannot be reached.
        """
        certificate = self._certificate()
        if certificate is not None and certificate.not_valid_after_utc.timestamp() > self._clock():
            return
        if invitation is None:
            state = "has no certificate yet" if certificate is None else "holds a certificate that has expired"
            raise FailedPrecondition(
                f"{self._folder} {state}; an invitation is needed: `tensor-runtime cert invite` on the authority's "
                "machine makes one"
            )
        text = InvitationText.parse(invitation)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = self._key()
            signing = self._authority(None)
            authority = signing.meet(text.authority)
            signed = signing.enrol(text.name, text.secret, _request(key))
            durable_files.replace(self.authority_path, authority, 0o644)
            self._take(signed, key)
            self._write_list(signing)
        except Error:  # some of ours are OSErrors, too
            raise
        except OSError as error:
            raise FailedPrecondition(f"{error.filename or self._folder} cannot be used: {error.strerror}") from error
        logger.info("has a certificate", extra={"invitation": text.name, "file": str(self.certificate_path)})

    def keep(self) -> bool:
        """Renew the certificate if it is time, and the list of revoked ones.

        Returns
        -------
        bool
            Whether the certificate is another one now.

        Raises
        ------
        Error
            As `ensure`; the certificate from before stays in use.
        """
        renewed = False
        if self.renewal_due() <= self._clock():
            certificate = self.certificate_path.read_bytes()
            key = self._key()
            request = _request(key)
            self._take(self._way().renew(certificate, request, make_proof(key, request)), key)
            renewed = True
            logger.info("has renewed its certificate", extra={"file": str(self.certificate_path)})
        if self._list_due <= self._clock():
            self._write_list(self._way())
        return renewed

    def renewal_due(self) -> float:
        """Return when the certificate is to be renewed, seconds since the epoch; 0 without a certificate."""
        certificate = self._certificate()
        if certificate is None:
            return 0.0
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return begin + (end - begin) * RENEW_AFTER

    def expires(self) -> float:
        """Return when the certificate ends, seconds since the epoch; 0 without one."""
        certificate = self._certificate()
        return 0.0 if certificate is None else certificate.not_valid_after_utc.timestamp()

    def _way(self) -> Signing:
        return self._authority(self.authority_path.read_bytes())

    def _write_list(self, signing: Signing) -> None:
        data = signing.revocation_list()
        self._list_due = self._clock() + LIST_EVERY_S
        if not self.list_path.exists() or self.list_path.read_bytes() != data:
            durable_files.replace(self.list_path, data, 0o644)

    def _take(self, signed: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        from cryptography import x509

        try:
            is_ours = x509.load_pem_x509_certificate(signed).public_key() == key.public_key()
        except ValueError as error:
            raise Unavailable(f"the authority sent something that is no certificate: {error}") from error
        if not is_ours:
            raise Unavailable("the authority sent a certificate for another key")
        durable_files.replace(self.certificate_path, signed, 0o644)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            key = serialization.load_pem_private_key(self.key_path.read_bytes(), password=None)
        except FileNotFoundError:
            key = ec.generate_private_key(ec.SECP256R1())
            durable_files.replace(self.key_path, key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ))
        except (ValueError, TypeError) as error:
            raise FailedPrecondition(f"{self.key_path} is no private key: {error}; remove it to enrol anew") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidArgument(f"{self.key_path} holds a key of another kind than EC; remove it to enrol anew")
        return key

    def _certificate(self) -> x509.Certificate | None:
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FailedPrecondition(
                f"{self.certificate_path} cannot be used: {error}; remove it to enrol anew"
            ) from error


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    # The names come from the invitation; a request needs none.
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(
        Encoding.DER
    )


