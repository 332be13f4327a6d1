"""Health checks of enrolled servers: a TLS connection that must show the enrolled certificate, then one call.

The address is one that its owner offered and that passed the test of ownership; the port is a setting. Nothing of what
the server answers is given to anybody but the decision whether it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime.edge.limits import Account
from runtime.edge.outgoing import Outgoing
from runtime.edge.peer_access import PeerAccess
from runtime.fleet.dispatcher import ProbeResult

__all__ = ["TlsProber"]

CHECK = "/pb.WorkerSaver/Check"
# An answer has two bytes.
MAX_ANSWER_BYTES = 64 << 10


class TlsProber:
    """Connects to a server's address, looks at its certificate, and calls Check over a connection that pins it.

    Parameters
    ----------
    port : int
    timeout_s : float
        For everything together.
    """

    def __init__(self, port: int, timeout_s: float = 2.0) -> None:
        self._port = port
        self._timeout_s = timeout_s
        # Which certificate it is gets compared byte for byte; whom it names or who signed it is of no interest.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.set_alpn_protocols(["h2"])

    async def __call__(self, ip: str, leaf: bytes) -> ProbeResult:
        """See `runtime.fleet.dispatcher.Prober`."""
        where = f"[{ip}]:{self._port}" if ":" in ip else f"{ip}:{self._port}"
        try:
            async with asyncio.timeout(self._timeout_s):
                shown = await self._shown(ip)
                if shown != leaf:
                    return ProbeResult(False, False, f"{where} shows another certificate")
                return ProbeResult(True, *await self._check(where, leaf))
        except TimeoutError:
            return ProbeResult(None, False, f"{where} did not answer within {self._timeout_s:g} s")
        except OSError as error:
            return ProbeResult(None, False, f"{where}: {error.strerror or error}")

    async def _shown(self, ip: str) -> bytes | None:
        """Return the DER form of the certificate that the server shows."""
        _, writer = await asyncio.open_connection(ip, self._port, ssl=self._context)
        try:
            return writer.get_extra_info("ssl_object").getpeercert(True)  # type: ignore[no-any-return]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _check(self, where: str, leaf: bytes) -> tuple[bool, str]:
        """Call Check over a connection that takes this certificate and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=leaf)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.set_alpn_protocols(["h2"])
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[bytes | None, int]] = loop.create_future()

        def take(answer: bytes | None, code: int, _message: str, _trailers: Any) -> None:
            if not answered.done():
                answered.set_result((answer, code))

        calls = Outgoing(loop, PeerAccess(context), Account(MAX_ANSWER_BYTES))
        try:
            calls.start(where, CHECK, b"", take)
            answer, code = await answered
        finally:
            await calls.close()
        if answer is None:
            return False, f"{where} answered {CHECK} with status code {code}"
        try:
            status = wire.fleet.HealthCheckRes.FromString(answer).status
        except DecodeError:
            return False, f"{where} answered {CHECK} with what is no HealthCheckRes"
        return status == wire.fleet.HealthCheckRes.SERVING, f"{where} answered {CHECK} with status {status}"
