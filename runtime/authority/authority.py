"""The authority itself: invites, signs for those it has invited, renews, revokes.

An invitation is a text that is given to one program: a name, a secret, and the fingerprint of the authority's
certificate, by which the holder knows the authority before it trusts any. It is good for one key. The certificate
that comes of it has the names of the invitation, whatever is asked for.

Needs the package ``cryptography``, which the extra ``tls`` installs.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import durable_files
from runtime.authority.certificates import Signer, general_name
from runtime.authority.keys import check_proof, key_fingerprint, require_cryptography, weakness
from runtime.authority.ledger import Entries, Invitation, Issued, Ledger
from runtime.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Authority", "InvitationText"]

MAX_REQUEST_BYTES = 16 << 10
MAX_CERTIFICATE_BYTES = 64 << 10
MAX_HOSTS = 100
# A revocation list says until when it is good; a server that signs makes a new one long before.
LIST_DAYS = 30
_TEXT = re.compile(r"(tri_[0-9a-f]{8})_([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")
_NOT_ACCEPTED = "the invitation is not one that this authority accepts; `tensor-runtime cert invite` makes one"


@dataclass(frozen=True)
class InvitationText:
    """An invitation as its holder has it.

    Attributes
    ----------
    name : str
        What the authority calls it; no secret.
    secret : str
    authority : str
        SHA-256 of the DER form of the authority's certificate, in hex.
    """

    name: str
    secret: str
    authority: str

    @classmethod
    def parse(cls, text: str) -> InvitationText:
        """Return the parts of an invitation.

        Raises
        ------
        InvalidArgument
            If it is none. The text never holds the secret.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise InvalidArgument(
                f"invitation of {len(text.strip())} characters is not one: expected what `tensor-runtime cert invite` "
                "prints, tri_..."
            )
        return cls(found[1], found[2], found[3])

    def __str__(self) -> str:
        return f"{self.name}_{self.secret}.{self.authority}"

    def __repr__(self) -> str:
        return f"<InvitationText {self.name}>"


class Authority:
    """The authority in a folder.

    Parameters
    ----------
    folder : Path
        With ``ca.pem`` and ``ca.key``; ``issued.json`` and ``crl.pem`` are added.
    clock : callable
        Seconds since the epoch.

    Raises
    ------
    FailedPrecondition
        If there is none in the folder.
    Unimplemented
        If ``cryptography`` is not installed.

    Concurrency: any number of processes and threads; every change takes the ledger's lock.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        require_cryptography("signing certificates")
        from cryptography.hazmat.primitives.serialization import Encoding

        self._folder = folder
        self._clock = clock
        self._signer = Signer.read(folder)
        self._ledger = Ledger(folder / "issued.json", clock)
        certificate = self._signer.certificate
        self.pem = certificate.public_bytes(Encoding.PEM)
        """PEM of the authority's certificate."""
        self.fingerprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        """SHA-256 of its DER form, in hex."""

    # -- invitations -----------------------------------------------------------------------------------------------

    def invite(self, subject: str, hosts: Sequence[str], days: float, valid_s: float) -> InvitationText:
        """Give somebody the right to one certificate.

        Parameters
        ----------
        subject : str
            Common name of the certificate.
        hosts : sequence of str
            DNS names and IP addresses that it will be for; at least one.
        days : float
            Days that the certificate, and each that renews it, is valid.
        valid_s : float
            Seconds in which the invitation must be used.

        Raises
        ------
        InvalidArgument
            For a value that cannot be used.
        FailedPrecondition
            If it cannot be written down.
        """
        if not 1 <= len(subject) <= 64 or not subject.isprintable():
            raise InvalidArgument(f"name {subject!r} is not valid: expected 1 to 64 printable characters")
        if not 1 <= len(hosts) <= MAX_HOSTS:
            raise InvalidArgument(f"{len(hosts)} hosts are not valid: expected 1 to {MAX_HOSTS} names or addresses")
        for host in hosts:
            general_name(host)
        for name, value in (("days", days), ("valid_s", valid_s)):
            if not 0 < value < 1e8:
                raise InvalidArgument(f"{name} {value!r} is not valid: expected a number above 0 and below 1e8")
        text = InvitationText(f"tri_{secrets.token_hex(4)}", secrets.token_urlsafe(32), self.fingerprint)
        with self._ledger.changing() as entries:
            entries.invitations[text.name] = Invitation(
                text.name, _digest(text.secret), subject, tuple(hosts), days, self._clock() + valid_s
            )
        return text

    def withdraw(self, name: str) -> None:
        """Take back an invitation that was not used.

        Raises
        ------
        NotFound
            If there is none of that name.
        FailedPrecondition
            If it has been used: its certificate can be revoked.
        """
        with self._ledger.changing() as entries:
            invitation = entries.invitations.get(name)
            if invitation is None:
                raise NotFound(f"no invitation is called {name!r}; `tensor-runtime cert list` shows those there are")
            if invitation.used_by:
                raise FailedPrecondition(
                    f"the invitation {name} has been used; `tensor-runtime cert revoke {invitation.serial}` revokes "
                    "what came of it"
                )
            del entries.invitations[name]

    # -- certificates ----------------------------------------------------------------------------------------------

    def enrol(self, name: str, secret: str, request: bytes) -> bytes:
        """Sign for somebody who was invited.

        Asking again with the same invitation and the same key gives the same certificate, so that an answer that got
        lost costs nothing.

        Parameters
        ----------
        name, secret : str
            Of the invitation.
        request : bytes
            Certificate request (PKCS #10), DER or PEM.

        Returns
        -------
        bytes
            PEM of the certificate.

        Raises
        ------
        Unauthenticated
            If the invitation is not known, was used by another key, or has expired.
        PermissionDenied
            If the request asks for names that the invitation has not.
        InvalidArgument
            If the request cannot be read or its key is weak.
        """
        asked = _read_request(request)
        key = key_fingerprint(asked.public_key())
        with self._ledger.changing() as entries:
            invitation = entries.invitations.get(name)
            # The digest is compared in any case: how long it takes says nothing about which names there are.
            known = invitation.digest if invitation is not None else "0" * 64
            matches = hmac.compare_digest(known, _digest(secret))
            if invitation is None or not matches:
                raise Unauthenticated(_NOT_ACCEPTED)
            if invitation.used_by:
                if invitation.used_by != key:
                    raise Unauthenticated(f"the invitation {name} has been used, by another key")
                before = entries.issued.get(invitation.serial)
                if before is None or before.revoked_at is not None:
                    raise Unauthenticated(f"the invitation {name} has been used, and what came of it is revoked")
                return before.pem.encode()
            if invitation.expires < self._clock():
                raise Unauthenticated(f"the invitation {name} has expired; ask for a new one")
            _check_names(asked, invitation.hosts, f"the invitation {name}")
            issued = self._sign(entries, asked, invitation.subject, invitation.hosts, invitation.days)
            entries.invitations[name] = replace(invitation, used_by=key, serial=issued.serial)
        return issued.pem.encode()

    def renew(self, certificate: bytes, request: bytes, proof: bytes) -> bytes:
        """Sign anew for the holder of a certificate, with its names.

        Parameters
        ----------
        certificate : bytes
            PEM or DER of the certificate, which must be valid.
        request : bytes
            Certificate request for the same key or another, DER or PEM.
        proof : bytes
            See `runtime.authority.keys.make_proof`; made with the certificate's key.

        Returns
        -------
        bytes
            PEM of the new certificate. The old one stays valid until its end.

        Raises
        ------
        Unauthenticated
            If the certificate is not of this authority, revoked or expired, or the proof is not its key's.
        InvalidArgument, PermissionDenied
            As for `enrol`.
        """
        from cryptography.hazmat.primitives.serialization import Encoding

        asked = _read_request(request)
        held = _read_certificate(certificate)
        fingerprint = hashlib.sha256(held.public_bytes(Encoding.DER)).hexdigest()
        serial = f"{held.serial_number:x}"
        with self._ledger.changing() as entries:
            before = entries.issued.get(serial)
            if before is None or not hmac.compare_digest(before.fingerprint, fingerprint):
                raise Unauthenticated(f"the certificate with serial number {serial} is not known to this authority")
            if before.revoked_at is not None:
                raise Unauthenticated(f"the certificate with serial number {serial} is revoked")
            if before.not_after < self._clock():
                raise Unauthenticated(
                    f"the certificate with serial number {serial} has expired; a new invitation is needed"
                )
            check_proof(held.public_key(), request, proof)
            _check_names(asked, before.hosts, f"the certificate {serial}")
            issued = self._sign(entries, asked, before.subject, before.hosts, before.days, renews=serial)
        return issued.pem.encode()

    def note(self, certificate: x509.Certificate, hosts: Sequence[str], days: float) -> None:
        """Write down a certificate that was signed without an invitation, so that it can be listed and revoked."""
        from cryptography.x509.oid import NameOID

        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        with self._ledger.changing() as entries:
            _add(entries, certificate, str(names[0].value) if names else "", hosts, days, "")

    def entries(self) -> Entries:
        """Return all invitations and certificates."""
        return self._ledger.read()

    # -- revocation ------------------------------------------------------------------------------------------------

    def revoke(self, which: str) -> list[Issued]:
        """Revoke certificates and write the new list.

        Parameters
        ----------
        which : str
            A serial number in hex, or a common name: all certificates that have it.

        Returns
        -------
        list of Issued
            What is revoked now.

        Raises
        ------
        NotFound
            If there is no such certificate.
        """
        wanted = which.lower().replace(":", "").lstrip("0")
        with self._ledger.changing() as entries:
            found = [one for one in entries.issued.values() if wanted == one.serial or which == one.subject]
            if not found:
                raise NotFound(
                    f"no certificate has the serial number or name {which!r}; `tensor-runtime cert list` shows those "
                    "there are"
                )
            revoked = [entries.revoke(one.serial, self._clock()) for one in found]
            self._write_list(entries)
        return revoked

    def revocation_list(self) -> bytes:
        """Return the revocation list as PEM, made now if there is none or half of its time has gone."""
        from cryptography import x509

        path = self._folder / "crl.pem"
        try:
            data = path.read_bytes()
            ends = x509.load_pem_x509_crl(data).next_update_utc
            if ends is not None and ends.timestamp() - self._clock() > LIST_DAYS * 86400 / 2:
                return data
        except (OSError, ValueError):
            pass
        with self._ledger.changing() as entries:
            return self._write_list(entries)

    def _write_list(self, entries: Entries) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding

        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        entries.list_number += 1
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._signer.certificate.subject)
            .last_update(now)
            .next_update(now + datetime.timedelta(days=LIST_DAYS))
            .add_extension(x509.CRLNumber(entries.list_number), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signer.key.public_key()), critical=False
            )
        )
        for entry in entries.issued.values():
            if entry.revoked_at is not None:
                builder = builder.add_revoked_certificate(
                    x509.RevokedCertificateBuilder()
                    .serial_number(int(entry.serial, 16))
                    .revocation_date(datetime.datetime.fromtimestamp(entry.revoked_at, datetime.UTC))
                    .build()
                )
        data = builder.sign(self._signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)
        durable_files.replace(self._folder / "crl.pem", data, 0o644)
        return data

    def _sign(
        self,
        entries: Entries,
        asked: x509.CertificateSigningRequest,
        subject: str,
        hosts: tuple[str, ...],
        days: float,
        renews: str = "",
    ) -> Issued:
        certificate = self._signer.sign(asked.public_key(), subject, hosts, days)
        return _add(entries, certificate, subject, hosts, days, renews)


def _add(
    entries: Entries, certificate: x509.Certificate, subject: str, hosts: Sequence[str], days: float, renews: str
) -> Issued:
    from cryptography.hazmat.primitives.serialization import Encoding

    issued = Issued(
        serial=f"{certificate.serial_number:x}",
        subject=subject,
        hosts=tuple(hosts),
        days=days,
        fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        renews=renews,
    )
    entries.issued[issued.serial] = issued
    return issued


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read_request(data: bytes) -> x509.CertificateSigningRequest:
    from cryptography import x509

    if not 0 < len(data) <= MAX_REQUEST_BYTES:
        raise InvalidArgument(f"request has {len(data)} bytes; expected 1 to {MAX_REQUEST_BYTES}")
    is_pem = b"-----BEGIN" in data
    try:
        asked = (x509.load_pem_x509_csr if is_pem else x509.load_der_x509_csr)(data)
        is_signed = asked.is_signature_valid
        weak = weakness(asked.public_key())
        _ = asked.extensions, asked.subject
    except Exception as error:  # the parser raises several kinds for hostile input
        raise InvalidArgument(f"request is no certificate request (PKCS #10): {str(error)[:200]}") from None
    if not is_signed:
        raise InvalidArgument("request is not signed by its own key")
    if weak is not None:
        raise InvalidArgument(f"request: {weak}")
    return asked


def _read_certificate(data: bytes) -> x509.Certificate:
    from cryptography import x509

    if not 0 < len(data) <= MAX_CERTIFICATE_BYTES:
        raise InvalidArgument(f"certificate has {len(data)} bytes; expected 1 to {MAX_CERTIFICATE_BYTES}")
    is_pem = b"-----BEGIN" in data
    try:
        held = (x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate)(data)
        held.public_key()
    except Exception as error:  # as above
        raise InvalidArgument(f"certificate cannot be read: {str(error)[:200]}") from None
    return held


def _check_names(asked: x509.CertificateSigningRequest, hosts: Sequence[str], whose: str) -> None:
    """Refuse a request for names that would not be in the certificate: its maker would find out too late."""
    from cryptography import x509

    try:
        names: Any = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    allowed = [general_name(host) for host in hosts]
    for name in names:
        if name not in allowed:
            raise PermissionDenied(
                f"request asks for {str(getattr(name, 'value', name))[:100]!r}, which {whose} does not give; it gives "
                f"{', '.join(hosts)}"
            )
