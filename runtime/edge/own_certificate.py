"""A server's certificate from an authority: asked for before the port opens, renewed while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from runtime.authority.identity import Identity
from runtime.errors import DeadlineExceeded, Error, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from runtime.config import Settings

__all__ = ["OwnCertificate"]

logger = logging.getLogger(__name__)

# How long a server that starts waits for an authority that is not there yet.
ENROL_S = 30.0
_RETRY_S = 1.0
# Between two looks at what is due.
_SHORTEST_S, _LONGEST_S = 1.0, 60.0


class OwnCertificate:
    """See the module.

    Parameters
    ----------
    settings : Settings
        With ``enrol_with``. Files are kept in ``identity`` in the data directory.
    """

    def __init__(self, settings: Settings) -> None:
        from runtime.client.authority import AuthorityClient

        self._settings = settings
        target = settings.enrol_with
        self._identity = Identity(settings.data_dir / "identity", lambda pem: AuthorityClient(target, pem))
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> Settings:
        """Have a certificate, and return the settings with it.

        Raises
        ------
        InvalidArgument
            If the file with the invitation cannot be read.
        Unavailable
            If the authority does not answer in time.
        Error
            What the authority says.
        """
        deadline = time.monotonic() + ENROL_S
        invitation = self._invitation()
        while True:
            try:
                await asyncio.to_thread(self._identity.ensure, invitation)
                break
            except (Unavailable, DeadlineExceeded) as error:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"no certificate from {self._settings.enrol_with} within {ENROL_S:g} s: {error.message}"
                    ) from error
                logger.info("waits for the authority", extra={"reason": error.message})
                await asyncio.sleep(_RETRY_S)
        self._keeping = asyncio.ensure_future(self._keep())
        identity = self._identity
        return dataclasses.replace(
            self._settings, tls_cert=identity.certificate_path, tls_key=identity.key_path,
            peer_ca=self._settings.peer_ca or self._settings.tls_client_ca or identity.authority_path,
            fleet_join_ca=self._settings.fleet_join_ca or identity.authority_path,
        )

    async def stop(self) -> None:
        """End the renewing."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def _keep(self) -> None:
        pause = _SHORTEST_S
        while True:
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(self._identity.keep)
                left = self._identity.renewal_due() - time.time()
                pause = min(max(left, _SHORTEST_S), _LONGEST_S)
            except (Error, OSError) as error:
                left = self._identity.expires() - time.time()
                pause = min(max(left / 20, _SHORTEST_S), _LONGEST_S)
                tell = logger.warning if left > 86400 else logger.error
                tell("the certificate is not renewed", extra={"seconds_left": round(left), "reason": str(error)})
            except Exception:
                # A mistake here: nobody else renews it, so this goes on.
                logger.exception("the certificate is not renewed")
                pause = _LONGEST_S

    def _invitation(self) -> str | None:
        path = self._settings.enrol_invitation
        if path is None:
            return None
        try:
            return path.read_text("ascii").strip()
        except FileNotFoundError:
            # Used before, perhaps, and removed; that is known when there turns out to be no certificate.
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"setting enrol_invitation: {path} cannot be read: {error}") from error
