"""What an authority has given out: invitations that may still be used, and certificates.

One file beside the authority's key, changed as a whole; commands and a server that signs may change it at the same
time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from runtime import durable_files
from runtime.errors import Error, FailedPrecondition

__all__ = ["Entries", "Invitation", "Issued", "Ledger"]

VERSION = 1
# How long something of no use any more is still listed.
KEPT_S = 30 * 86400.0


@dataclass(frozen=True)
class Invitation:
    """The right to get one certificate.

    Attributes
    ----------
    name : str
        ``tri_`` and eight hex digits.
    digest : str
        SHA-256 of the secret part, in hex.
    subject : str
        Common name of the certificate.
    hosts : tuple of str
        DNS names and IP addresses that it is for.
    days : float
        Days that the certificate, and each one that renews it, is valid.
    expires : float
        Seconds since the epoch.
    used_by : str
        Fingerprint of the key that has used it; empty before.
    serial : str
        Of the certificate that came of it, in hex.
    """

    name: str
    digest: str
    subject: str
    hosts: tuple[str, ...]
    days: float
    expires: float
    used_by: str = ""
    serial: str = ""


@dataclass(frozen=True)
class Issued:
    """A certificate that was signed.

    Attributes
    ----------
    serial : str
        Serial number in hex.
    subject, hosts, days :
        As of :class:`Invitation`.
    fingerprint : str
        SHA-256 of the certificate's DER form, in hex.
    pem : str
    not_after : float
        Seconds since the epoch.
    renews : str
        Serial number of the certificate that it took the place of; empty for a first one.
    revoked_at : float or None
        Seconds since the epoch.
    """

    serial: str
    subject: str
    hosts: tuple[str, ...]
    days: float
    fingerprint: str
    pem: str
    not_after: float
    renews: str = ""
    revoked_at: float | None = None


@dataclass
class Entries:
    """All of it: invitations by name, certificates by serial number; and the number of the last revocation list."""

    invitations: dict[str, Invitation] = field(default_factory=dict)
    issued: dict[str, Issued] = field(default_factory=dict)
    list_number: int = 0

    def revoke(self, serial: str, at: float) -> Issued:
        """Mark a certificate as revoked; one that is stays as it is."""
        entry = self.issued[serial]
        if entry.revoked_at is None:
            entry = self.issued[serial] = replace(entry, revoked_at=at)
        return entry


class Ledger:
    """The file.

    Parameters
    ----------
    path : Path
        Made by the first change.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def read(self) -> Entries:
        """Return what it holds.

        Raises
        ------
        FailedPrecondition
            If it cannot be read, is damaged, or was written by a newer version.
        """
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return Entries()
        except (OSError, UnicodeDecodeError) as error:
            raise FailedPrecondition(f"{self._path} cannot be read: {error}") from error
        try:
            stored = json.loads(text)
            version = stored["version"]
            if version > VERSION:
                raise FailedPrecondition(
                    f"{self._path} has the version {version}; this program knows {VERSION} at most: use a newer one"
                )
            invitations = [Invitation(**{**entry, "hosts": tuple(entry["hosts"])}) for entry in stored["invitations"]]
            issued = [Issued(**{**entry, "hosts": tuple(entry["hosts"])}) for entry in stored["issued"]]
            return Entries(
                {entry.name: entry for entry in invitations}, {entry.serial: entry for entry in issued},
                int(stored["list_number"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"{self._path} is damaged ({error}); put a copy from before in its place: without it the authority "
                "does not know what it has signed"
            ) from error

    @contextlib.contextmanager
    def changing(self) -> Iterator[Entries]:
        """Give the entries to be changed; they are on disk when the context ends, unless it ends with an error.

        Raises
        ------
        FailedPrecondition
            As `read`, or if the file cannot be written.
        """
        try:
            with durable_files.exclusive(self._path):
                entries = self.read()
                yield entries
                self._forget(entries)
                durable_files.replace(self._path, self._text(entries).encode())
        except Error:  # some of ours are OSErrors, too
            raise
        except OSError as error:
            raise FailedPrecondition(f"{error.filename or self._path} cannot be changed: {error.strerror}") from error

    def _forget(self, entries: Entries) -> None:
        oldest = self._clock() - KEPT_S
        entries.invitations = {name: one for name, one in entries.invitations.items() if one.expires > oldest}
        entries.issued = {serial: one for serial, one in entries.issued.items() if one.not_after > oldest}

    @staticmethod
    def _text(entries: Entries) -> str:
        return json.dumps(
            {
                "version": VERSION,
                "list_number": entries.list_number,
                "invitations": [asdict(entry) for entry in entries.invitations.values()],
                "issued": [asdict(entry) for entry in entries.issued.values()],
            },
            indent=1,
        )
