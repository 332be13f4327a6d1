"""Calls of an authority: getting to know it by a fingerprint, asking for a certificate, and for the next one."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import grpc

from runtime import wire
from runtime.client.channels import Access, SharedChannel, address_of
from runtime.client.pinning import access_pinned
from runtime.errors import FailedPrecondition, Unavailable, from_rpc_error

__all__ = ["AuthorityClient"]

TIMEOUT_S = 10.0


class AuthorityClient:
    """One server that signs.

    Parameters
    ----------
    target : str
        ``grpcs://HOST:PORT``; without TLS, ``grpc://HOST:PORT`` or ``unix:PATH``.
    authority : bytes, optional
        PEM of its certificate, when that is known already.
    timeout_s : float
        For each call.

    Raises
    ------
    Error
        From every call: what the server answers, or why it cannot be reached.
    """

    def __init__(self, target: str, authority: bytes | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._tls = target.startswith("grpcs://")
        self._address = address_of(target)
        self._authority = authority

    def meet(self, fingerprint: str) -> bytes:
        """Return the authority's certificate, and trust it from now on, if it has this fingerprint.

        Nothing secret is sent before: the server's certificate is taken as it is for this one call, whose answer counts
        only if it is the authority that was named; and every later call verifies the server by that.

        Parameters
        ----------
        fingerprint : str
            SHA-256 of the DER form, in hex.

        Raises
        ------
        FailedPrecondition
            If the server has another authority.
        """
        pem: bytes = self._call("GetAuthority", wire.runtime_v1.GetAuthorityRequest(), self._unverified()).certificate
        try:
            found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest()
        except ValueError:
            found = "none"
        if found != fingerprint:
            raise FailedPrecondition(
                f"{self.target} signs as another authority than the invitation names (fingerprint {found}, not "
                f"{fingerprint}); ask the right server"
            )
        self._authority = pem
        return pem

    def enrol(self, name: str, secret: str, request: bytes) -> bytes:
        """Return the certificate, PEM, for an invitation and a certificate request."""
        message = wire.runtime_v1.EnrolRequest(invitation=name, secret=secret, request=request)
        certificate: bytes = self._call("Enrol", message, self._access()).certificate
        return certificate

    def renew(self, certificate: bytes, request: bytes, proof: bytes) -> bytes:
        """Return the certificate, PEM, that comes after one that is still valid."""
        message = wire.runtime_v1.RenewRequest(certificate=certificate, request=request, proof=proof)
        renewed: bytes = self._call("Renew", message, self._access()).certificate
        return renewed

    def revocation_list(self) -> bytes:
        """Return the list of revoked certificates, PEM."""
        answer = self._call("GetAuthority", wire.runtime_v1.GetAuthorityRequest(), self._access())
        revoked: bytes = answer.revocation_list
        return revoked

    def _access(self) -> Access:
        return Access(tls=self._tls, ca=self._authority if self._tls else None)

    def _unverified(self) -> Access:
        if not self._tls:
            return Access()
        host, _, port = self._address.rpartition(":")
        try:
            shown = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=self._timeout_s)
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.target} shows no certificate: {error}") from error
        return access_pinned(shown.encode())

    def _call(self, method: str, message: Any, access: Access) -> Any:
        form = wire.SERVICES["runtime.v1.Authority"][method]
        shared = SharedChannel.acquire(self._address, access)
        try:
            call: Any = shared.channel.unary_unary(form.path)
            return form.response.FromString(call(message.SerializeToString(), timeout=self._timeout_s))
        except grpc.RpcError as error:
            told = from_rpc_error(error)
            raise type(told)(f"{self.target}: {told.message}") from None
        finally:
            shared.release()
