"""Health checks of enrolled servers: a TLS connection that must show the enrolled certificate, then one call.

The address is one that its owner offered and that passed the test of ownership; the port is a setting. Nothing of what
the server answers is given to anybody but the decision whether it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from runtime import wire
from runtime.fleet.dispatcher import ProbeResult
from runtime.fleet.pinning import access_pinned

__all__ = ["TlsProber"]

CHECK = "/pb.WorkerSaver/Check"


class TlsProber:
    """Connects to a server's address, looks at its certificate, and calls Check over a channel that pins it.

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
        import grpc

        access = access_pinned(leaf)
        credentials = grpc.ssl_channel_credentials(access.ca)
        options = [("grpc.ssl_target_name_override", access.server_name)]
        async with grpc.aio.secure_channel(where, credentials, options) as channel:
            try:
                call: Any = channel.unary_unary(CHECK)
                answer: bytes = await call(b"", timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                return False, f"{where} answered {CHECK} with {error.code().name}"
        status = wire.fleet.HealthCheckRes.FromString(answer).status
        return status == wire.fleet.HealthCheckRes.SERVING, f"{where} answered {CHECK} with status {status}"
