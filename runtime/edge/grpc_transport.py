"""The gRPC library as the server's transport."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.edge import auth, sockets
from runtime.edge.acceptor import make_server
from runtime.edge.connections import Limits
from runtime.edge.handlers import Router, refusal, wrap
from runtime.errors import Error, FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.limits import Account
    from runtime.edge.transport import MethodForm

# gRPC takes message limits as 32-bit integers, and no protobuf message can be larger.
_MAX_MESSAGE_BYTES = (1 << 31) - 1
# A connection that does not answer a ping for this long is dead.
KEEPALIVE_TIMEOUT_MS = 20_000


class GrpcTransport:
    """grpc.aio on the address of the settings; see :class:`runtime.edge.transport.Transport`."""

    def __init__(self, settings: Settings, account: Account, authorize: auth.Authorize | None) -> None:
        self._settings = settings
        self._account = account
        self._credentials = auth.server_credentials(settings)
        self._router = Router(authorize)
        self._server = make_server(self._router, _options(settings))

    @property
    def unknown_method(self) -> str:
        """See :class:`runtime.edge.transport.Transport`."""
        return self._router.unknown_method

    @unknown_method.setter
    def unknown_method(self, text: str) -> None:
        self._router.unknown_method = text

    async def bind(self) -> str:
        """See :class:`runtime.edge.transport.Transport`."""
        listen, credentials = self._settings.listen, self._credentials
        if listen.startswith("unix:"):
            sockets.clear_stale(listen.removeprefix("unix:"))
        try:
            if credentials is not None:
                port = self._server.add_secure_port(listen, credentials)
            else:
                port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise _why_not_bound(listen, error) from error
        if listen.startswith("unix:"):
            # Whoever can open the socket can call: keep it to the owner.
            os.chmod(listen.removeprefix("unix:"), stat.S_IRUSR | stat.S_IWUSR)
            return listen
        return f"{listen.rpartition(':')[0]}:{port}"

    def add(self, method: MethodForm, handler: Callable[..., Any]) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        if self._router.open_calls is not None:
            handler = self._router.open_calls.watched(method, handler)
        self._router.add(method.path, wrap(method, handler, self._account))

    def refuse(self, method: MethodForm, error: Error) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        self._router.add(method.path, refusal(error))

    async def start(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        await self._server.start()

    def num_open(self) -> tuple[int, int] | None:
        """See :class:`runtime.edge.transport.Transport`; the library does not tell."""
        return None

    def check_again(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        if self._router.open_calls is not None:
            self._router.open_calls.check_again()

    async def stop(self, grace_s: float) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        await self._server.stop(grace_s or None)

    async def discard(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        # Only a server that ran can be taken down; one that never did would leak what it holds.
        await self._server.start()
        await self._server.stop(None)


def _options(settings: Settings) -> list[tuple[str, Any]]:
    # A message larger than all that may be in flight is refused by its length, before its bytes are read.
    limits = Limits.of(settings)
    max_bytes = min(settings.max_bytes_in_flight, _MAX_MESSAGE_BYTES)
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would share its connections at random; a busy port must be an error.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # The wait for the answer has a timeout of its own, which otherwise is a minute.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients ping as they like; by default gRPC ends a connection that does so more than every five minutes.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout_s * 1000)),
        # The library has no limits per address, and none on messages that do not go on.
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", min(limits.calls, 1 << 16)),
        *([("grpc.max_connection_idle_ms", int(settings.idle_timeout_s * 1000))] if settings.idle_timeout_s else []),
    ]


def _why_not_bound(listen: str, error: RuntimeError) -> Error:
    """Return the error for an address that gRPC could not bind, with the reason the system gives."""
    if listen.startswith("unix:"):
        return Unavailable(f"cannot listen on {listen}: {error}")
    try:
        opened, _ = sockets.bind(listen)
    except Error as reason:
        return reason
    for one in opened:
        one.close()
    return FailedPrecondition(f"cannot listen on {listen}: gRPC refused it: {error}; check certificate and key")
