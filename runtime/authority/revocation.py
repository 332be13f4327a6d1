"""Lists of revoked certificates in a file, read again when it changes.

Needs the package ``cryptography``, which the extra ``tls`` installs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.authority.keys import require_cryptography
from runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["RevocationLists"]

_BEGIN = b"-----BEGIN X509 CRL-----"
_END = b"-----END X509 CRL-----"


class RevocationLists:
    """The lists of one file.

    Parameters
    ----------
    path : Path
        PEM, any number of lists.
    setting : str
        What names the file, for messages.

    Raises
    ------
    InvalidArgument
        If it cannot be read; from every method as well.
    """

    def __init__(self, path: Path, setting: str) -> None:
        require_cryptography("revocation lists")
        self._path = path
        self._setting = setting
        self._stamp: tuple[int, int, int] | None = None
        self._lists: list[x509.CertificateRevocationList] = []
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether it had."""
        from cryptography import x509

        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return False
            blocks = self._path.read_bytes().split(_BEGIN)[1:]
            self._lists = [x509.load_pem_x509_crl(_BEGIN + block.partition(_END)[0] + _END + b"\n") for block in blocks]
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"setting {self._setting}: {self._path} cannot be used: {error}") from error
        self._stamp = stamp
        return True

    def contains(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is on a list of its issuer."""
        self.refresh()
        return any(
            one.issuer == certificate.issuer
            and one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
            for one in self._lists
        )
