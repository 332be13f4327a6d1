"""The connection of an agent to its worker: made when it is needed, and asked whether the worker can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.edge.auth import is_local
from runtime.edge.connect import PeerConnection, connect
from runtime.errors import Unavailable, Unimplemented

if TYPE_CHECKING:
    from runtime.edge.peer_access import PeerAccess
    from runtime.tasks.agents.endpoint import Endpoint

__all__ = ["WorkerLink"]

_PROCESS = Method("/ArmoniK.api.grpc.v1.Worker/Process", True, True, None)
_RUN = Method("/runtime.v1.TaskBatches/Run", True, True, None)
_HEALTH_CHECK = Method("/ArmoniK.api.grpc.v1.Worker/HealthCheck", False, False, None)
_CONNECT_S = 5.0


class WorkerLink:
    """A connection to one worker. Belongs to its loop.

    Parameters
    ----------
    endpoint : Endpoint
    access : callable
        Returns how the server gets into others, when TLS or a token is needed.
    lost : callable
        Called without arguments when a connection has ended that was there.
    """

    def __init__(self, endpoint: Endpoint, access: Callable[[], PeerAccess], lost: Callable[[], object]) -> None:
        self.endpoint = endpoint
        self._access = access
        self._lost = lost
        self._connection: PeerConnection | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection on which calls can be made."""
        return self._connection is not None and self._connection.takes_calls

    async def check(self, timeout_s: float) -> str:
        """Connect if need be and ask the worker how it is; return what is wrong with it, empty if nothing is.

        A worker that does not know the question is taken to be well.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer, code, message = await self._ask(await self._connected())
        except Unavailable as error:
            return error.message
        except TimeoutError:
            return f"no answer to HealthCheck within {timeout_s:g} s"
        if code == Unimplemented.code:
            return ""
        if answer is None:
            return f"HealthCheck ended with status {code}: {message}"
        try:
            status = wire.armonik.HealthCheckReply.FromString(answer).status
        except DecodeError:
            return "HealthCheck was answered with what is no HealthCheckReply"
        if status == wire.armonik.HealthCheckReply.SERVING:
            return ""
        return "not serving" if status == wire.armonik.HealthCheckReply.NOT_SERVING else f"serving status {status}"

    def process(self, timeout_s: float) -> StreamCall:
        """Start a call of Process, which the worker is told may take so many seconds.

        Raises
        ------
        Unavailable
            If there is no connection, or it takes no calls: the worker has seen nothing.
        """
        if self._connection is None:
            raise Unavailable("there is no connection to the worker")
        return start_stream(self._connection, _PROCESS, timeout_s)

    def run_batches(self) -> StreamCall:
        """Start a call of TaskBatches.Run; raises as `process`."""
        if self._connection is None:
            raise Unavailable("there is no connection to the worker")
        return start_stream(self._connection, _RUN)

    def close(self) -> None:
        """End the connection with every call on it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def _connected(self) -> PeerConnection:
        connection = self._connection
        if connection is not None and connection.takes_calls:
            return connection
        endpoint = self.endpoint
        tls = None
        metadata: tuple[tuple[bytes, bytes], ...] = ()
        if endpoint.is_tls or is_local(endpoint.address):
            # A token goes where nobody else can read it.
            access = self._access()
            tls = access.tls if endpoint.is_tls else None
            metadata = access.metadata
            if endpoint.is_tls and tls is None:
                raise Unavailable(
                    f"{endpoint} wants TLS, and this server has neither a certificate nor peer_ca: set peer_ca"
                )
        made: PeerConnection | None = None

        def lost() -> None:
            if self._connection is made:
                self._connection = None
                self._lost()

        made = await connect(endpoint.address, tls, metadata=metadata, timeout_s=_CONNECT_S, lost=lost)
        if connection is not None and connection is self._connection:
            # It takes no new calls, yet those that it has may end.
            self._connection = None
        self._connection = made
        return made

    async def _ask(self, connection: PeerConnection) -> tuple[bytes | None, int, str]:
        answered: asyncio.Future[tuple[bytes | None, int, str]] = asyncio.get_running_loop().create_future()

        def take(answer: bytes | None, code: int, message: str, _trailers: object) -> None:
            if not answered.done():
                answered.set_result((answer, code, message))

        call = connection.start(_HEALTH_CHECK, b"", take)
        try:
            return await answered
        finally:
            call.cancel()
