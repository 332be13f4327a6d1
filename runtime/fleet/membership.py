"""A server's place in a fleet: it enrols its certificate and offers its address, again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runtime.errors import Error, Unavailable

__all__ = ["Dispatching", "Membership"]

logger = logging.getLogger(__name__)

# Offers in one lease, so that one or two may get lost.
OFFERS_A_LEASE = 3
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0
# How often a renewed certificate is looked for.
_LOOK_S = 1.0


class Dispatching(Protocol):
    """What is asked of a dispatcher; `runtime.client.fleet.FleetClient` does it by calls, which may block."""

    def register(self, certificate: bytes) -> None: ...
    def offer(self, ip: str, certificate: bytes) -> None: ...
    def close(self) -> None: ...


class Membership:
    """Keeps one server in rotation.

    Parameters
    ----------
    connect : callable
        Returns the way to the dispatcher; called again after an error.
    ip : str
        Address to offer.
    certificate : Path
        PEM of what the server shows, read again when it changes.
    lease_s : float
        How often the dispatcher wants to see the offer.
    """

    def __init__(self, connect: Callable[[], Dispatching], ip: str, certificate: Path, lease_s: float) -> None:
        self._connect = connect
        self._ip = ip
        self._path = certificate
        self._period = lease_s / OFFERS_A_LEASE
        self._enrolled = b""
        self._way: Dispatching | None = None

    async def run(self) -> None:
        """Enrol, offer, repeat; ends only by cancellation."""
        retry = _FIRST_RETRY_S
        told = ""
        try:
            while True:
                try:
                    await asyncio.to_thread(self._once)
                    retry = _FIRST_RETRY_S
                    if told:
                        logger.info("in the fleet again", extra={"address": self._ip})
                    told = ""
                    await self._pause()
                except Exception as error:
                    # The same reason every few seconds says nothing new.
                    if str(error) != told:
                        # What is no error of a call is a mistake here, which does not end what has to go on.
                        is_ours = isinstance(error, (Error, OSError))
                        logger.log(
                            logging.WARNING if is_ours else logging.ERROR, "not in the fleet",
                            exc_info=None if is_ours else error, extra={"address": self._ip, "reason": str(error)},
                        )
                        told = str(error)
                    self._leave()
                    await asyncio.sleep(retry)
                    retry = min(2 * retry, _LONGEST_RETRY_S, self._period)
        finally:
            self._leave()

    def _once(self) -> None:
        certificate = self._leaf()
        way = self._way = self._way or self._connect()
        if certificate != self._enrolled:
            way.register(certificate)
            self._enrolled = certificate
            logger.info("is enrolled with the fleet", extra={"address": self._ip})
        way.offer(self._ip, certificate)

    async def _pause(self) -> None:
        """Wait for the time of the next offer, or for a new certificate, which machines are to know at once."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._period
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, _LOOK_S))
            if self._leaf() != self._enrolled:
                return

    def _leave(self) -> None:
        # What went wrong may be that the dispatcher has forgotten the certificate.
        self._enrolled = b""
        if self._way is not None:
            self._way.close()
            self._way = None

    def _leaf(self) -> bytes:
        """Return the first certificate of the file: what machines pin."""
        text = self._path.read_bytes()
        end = b"-----END CERTIFICATE-----\n"
        leaf, found, _ = text.partition(end)
        if not found:
            raise Unavailable(f"{self._path} holds no certificate")
        return leaf + found
