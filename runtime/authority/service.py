"""runtime.v1.Authority: bytes in, one call of the authority, bytes out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.authority.authority import Authority
from runtime.edge.callers import peer_name
from runtime.edge.peer_limits import PeerLimits
from runtime.errors import Error

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.edge.plane import Handler

__all__ = ["AuthorityService"]

logger = logging.getLogger(__name__)


class AuthorityService:
    """The service of one authority.

    Parameters
    ----------
    folder : Path
        See `runtime.authority.authority.Authority`.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = Authority(folder)
        self._limits = PeerLimits(time.monotonic)

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by method name."""
        return {
            "GetAuthority": self._limited(self._get_authority),
            "Enrol": self._limited(self._enrol),
            "Renew": self._limited(self._renew),
        }

    async def _get_authority(self, request: bytes, context: Any) -> bytes:
        wire.runtime_v1.GetAuthorityRequest.FromString(request)
        revoked = await asyncio.to_thread(self._authority.revocation_list)
        answer = wire.runtime_v1.GetAuthorityResponse(certificate=self._authority.pem, revocation_list=revoked)
        return answer.SerializeToString()

    async def _enrol(self, request: bytes, context: Any) -> bytes:
        asked = wire.runtime_v1.EnrolRequest.FromString(request)
        return await self._signed(
            context, asked.invitation, self._authority.enrol, asked.invitation, asked.secret, asked.request
        )

    async def _renew(self, request: bytes, context: Any) -> bytes:
        asked = wire.runtime_v1.RenewRequest.FromString(request)
        return await self._signed(
            context, "renewal", self._authority.renew, asked.certificate, asked.request, asked.proof
        )

    async def _signed(self, context: Any, what: str, sign: Callable[..., bytes], *arguments: Any) -> bytes:
        # In a thread: the ledger is written to disk, and its lock may be held by a command.
        try:
            certificate = await asyncio.to_thread(sign, *arguments)
        except Error as error:
            peer = peer_name(context)
            logger.warning("nothing was signed", extra={"peer": peer, "reason": str(error)[:300]})
            self._limits.count_failure(peer)
            await asyncio.sleep(self._limits.delay(peer))
            raise
        logger.info("a certificate was signed", extra={"for": what[:12]})
        return wire.runtime_v1.CertificateResponse(certificate=certificate).SerializeToString()

    def _limited(self, handler: Callable[[bytes, Any], Awaitable[bytes]]) -> Handler:
        async def limited(request: bytes, context: Any) -> bytes:
            with self._limits.admit(peer_name(context)):
                return await handler(request, context)

        return limited
