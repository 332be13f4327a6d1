"""TLS that follows its files: a certificate that was renewed serves the next connection, and none is cut for it."""

from __future__ import annotations

import dataclasses
import logging
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.edge import auth
from runtime.errors import Error

if TYPE_CHECKING:
    from runtime.authority.revocation import RevocationLists
    from runtime.config import Settings

__all__ = ["LiveTls", "OwnChain", "stamp_of"]

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp_of(*paths: Path | None) -> _Stamp:
    """Return what changes when one of the files does."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class LiveTls:
    """The TLS context of a listener.

    Parameters
    ----------
    settings : Settings
        With ``tls_cert`` and ``tls_key``.
    alpn : list of str
        Protocols to agree on.

    Raises
    ------
    InvalidArgument
        If a file cannot be used at the start. Later ones are left alone with a log line, and looked at again.
    """

    def __init__(self, settings: Settings, alpn: list[str]) -> None:
        self._settings = settings
        self._alpn = alpn
        self._stamp = self._files()
        self._current = self._made(settings)
        self._revoked: RevocationLists | None = None
        if settings.tls_crl is not None:
            from runtime.authority.revocation import RevocationLists

            self._revoked = RevocationLists(settings.tls_crl, "tls_crl")
        self.context = self._current
        """What to listen with. Each handshake goes on in the newest context."""
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Take up files that have changed; return whether there is a new context."""
        stamp = self._files()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            with tempfile.TemporaryDirectory(prefix="tensor-runtime-") as folder:
                self._current = self._made(self._copied(Path(folder)))
        except (Error, OSError) as error:
            logger.error("the changed TLS files cannot be used; those from before stay", extra={"reason": str(error)})
            return False
        logger.info("read the TLS files again")
        return True

    @property
    def has_lists(self) -> bool:
        """Whether there are lists of revoked certificates."""
        return self._revoked is not None

    def refuses(self, certificate: bytes) -> bool:
        """Return whether a client's certificate, DER, is on a revocation list by now."""
        if self._revoked is None:
            return False
        from cryptography import x509

        try:
            return self._revoked.contains(x509.load_der_x509_certificate(certificate))
        except Error as error:
            # A list that cannot be read must not let anyone in that it may name.
            logger.error("clients with certificates are refused", extra={"reason": str(error)})
            return True

    def _files(self) -> _Stamp:
        settings = self._settings
        return stamp_of(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def _copied(self, folder: Path) -> Settings:
        """Return the settings with copies of the files, so that all of it is of one moment.

        Certificate and key are two files: whoever replaces both may be between them. A pair that does not fit is not
        taken, and the second change is seen at the next look.
        """

        def copied(path: Path | None, name: str) -> Path | None:
            if path is None:
                return None
            copy = folder / name
            copy.touch(mode=0o600)
            copy.write_bytes(path.read_bytes())
            return copy

        settings = self._settings
        return dataclasses.replace(
            settings,
            tls_cert=copied(settings.tls_cert, "certificate"),
            tls_key=copied(settings.tls_key, "key"),
            tls_client_ca=copied(settings.tls_client_ca, "authorities"),
        )

    def _made(self, settings: Settings) -> ssl.SSLContext:
        context = auth.tls_context(settings)
        assert context is not None, "the settings have no certificate"
        context.set_alpn_protocols(self._alpn)
        return context

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._current is not context:
            handshake.context = self._current


class OwnChain:
    """Keeps the certificate that a client's context shows up to date.

    Parameters
    ----------
    context : ssl.SSLContext
    certificate, key : Path
        Were loaded into it already.
    """

    def __init__(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._context = context
        self._certificate = certificate
        self._key = key
        self._stamp = stamp_of(certificate, key)

    def refresh(self) -> None:
        """Load the files again if they have changed."""
        stamp = stamp_of(self._certificate, self._key)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            # First where it does no harm: a pair that does not fit would leave the context with half of it.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self._certificate, self._key, lambda: b"")
            self._context.load_cert_chain(self._certificate, self._key, lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            logger.error("the changed certificate cannot be used; that from before stays", extra={"reason": str(error)})
