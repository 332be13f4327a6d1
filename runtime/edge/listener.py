"""One port and the planes behind it: what ``tensor-runtime serve`` and ``runtime.Server`` both run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping
from typing import Any

import grpc

from runtime import wire
from runtime.config import Settings
from runtime.edge import auth, plane
from runtime.edge.acceptor import GrpcServer, make_server
from runtime.edge.handlers import Router, refusal, wrap
from runtime.edge.health import Health
from runtime.edge.limits import Account
from runtime.edge.reflection import Reflection
from runtime.edge.unavailable_planes import absent_method
from runtime.errors import Error, FailedPrecondition, Internal, Unavailable

logger = logging.getLogger(__name__)

EDGE = "edge"
# gRPC takes message limits as 32-bit integers, and no protobuf message can be larger.
_MAX_MESSAGE_BYTES = (1 << 31) - 1
# How long a plane may take to stop beyond the grace before the server goes on without it.
PLANE_STOP_S = 10.0
# A connection that does not answer a ping for this long is dead.
KEEPALIVE_TIMEOUT_MS = 20_000


class Listener:
    """A server on one address, on the event loop of the caller.

    Parameters
    ----------
    settings : Settings
        What to serve, where and how.

    Attributes
    ----------
    address : str
        ``HOST:PORT`` with the real port, or ``unix:PATH``; empty before :meth:`start`.

    Concurrency: every method belongs to the loop on which :meth:`start` ran.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ""
        self.account = Account(settings.max_bytes_in_flight)
        self._server: GrpcServer | None = None
        self._planes: dict[str, plane.Plane] = {}
        self._edge: tuple[Health, Reflection] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def target(self) -> str:
        """What a client connects to: ``grpc://HOST:PORT``, or ``unix:PATH``."""
        return self.address if self.address.startswith("unix:") else f"grpc://{self.address}"

    async def start(self) -> None:
        """Open the port, start the planes, and begin to answer.

        Raises
        ------
        FailedPrecondition
            If the address may not be served without protection.
        Unavailable
            If the address cannot be had; names the port and the reason.
        Error
            Whatever a plane raises when it starts; nothing is left running.
        """
        auth.check_exposure(self.settings)
        tokens = auth.Tokens.read(self.settings.token_file) if self.settings.token_file is not None else None
        credentials = auth.server_credentials(self.settings)
        self._warn(tokens is not None, credentials is not None)
        router = Router(tokens.authorize if tokens is not None else None)
        server = make_server(router, self._options())
        try:
            self.address = _bind(server, self.settings.listen, credentials)
            await self._start_planes(router)
        except BaseException:
            await self._stop_planes(0.0)
            # Only a server that ran can be taken down; one that never did would leak what it holds.
            await server.start()
            await server.stop(None)
            _remove_socket(self.address)
            raise
        self.account.open()
        self._server = server
        await server.start()
        logger.info("serving", extra={"address": self.address, "planes": ",".join(self._planes) or "none"})

    async def wait_closed(self) -> None:
        """Wait until the server has stopped."""
        await self._closed.wait()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give open ones ``grace_s`` seconds to end, then cancel them and stop the planes.

        A further call with a shorter grace shortens the first.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(grace_s))
        elif self._server is not None and not self._stopping.done():
            await self._server.stop(grace_s or None)
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        server = self._server
        try:
            if server is None:
                return
            deadline = asyncio.get_running_loop().time() + grace_s
            self._drain()
            await server.stop(grace_s or None)
            await self._stop_planes(max(0.0, deadline - asyncio.get_running_loop().time()))
            _remove_socket(self.address)
            logger.info("stopped", extra={"address": self.address, "calls": self.account.num_calls})
        finally:
            self.account.close()
            self._server = None
            self._edge = None
            self._closed.set()

    def _drain(self) -> None:
        for part in (*(self._edge or ()), *self._planes.values()):
            drain = getattr(part, "drain", None)
            if drain is not None:
                try:
                    drain()
                except Exception:
                    logger.exception("a plane failed to drain; its open calls keep their grace")

    async def _start_planes(self, router: Router) -> None:
        # A plane is told the real address, so that it can tell others.
        settings = dataclasses.replace(self.settings, listen=self.address)
        for name in self.settings.services:
            created = plane.load(name, settings)
            if created is not None:
                await created.start()
                self._planes[name] = created
        tables = {name: created.services() for name, created in self._planes.items()}
        _check_tables(tables)
        answered = {service for table in tables.values() for service in table}
        known = set(wire.SERVICES)
        edge_services = {name for name in known if wire.PLANES.get(name) == EDGE}
        health = Health(answered | edge_services, known - answered - edge_services)
        reflection = Reflection(known)
        self._edge = (health, reflection)
        tables[EDGE] = {**health.services(), **reflection.services()}
        router.unknown_method = f"no such method here; the services of this server: {', '.join(sorted(known))}"
        for service, methods in wire.SERVICES.items():
            owner = wire.PLANES.get(service, "stream")
            handlers = tables.get(owner, {}).get(service, {})
            for name, method in methods.items():
                handler = handlers.get(name)
                if handler is None:
                    error = absent_method(method.path, owner, self.settings.services, self._planes)
                    router.add(method.path, refusal(error))
                else:
                    router.add(method.path, wrap(method, handler, self.account))

    async def _stop_planes(self, grace_s: float) -> None:
        while self._planes:
            name, stopped = self._planes.popitem()
            try:
                await asyncio.wait_for(stopped.stop(grace_s), grace_s + PLANE_STOP_S)
            except TimeoutError:
                logger.error("a plane did not stop in time", extra={"plane": name, "seconds": grace_s + PLANE_STOP_S})
            except Exception:
                logger.exception("a plane failed to stop", extra={"plane": name})

    def _options(self) -> list[tuple[str, Any]]:
        # A message larger than all that may be in flight is refused by its length, before its bytes are read.
        max_bytes = min(self.settings.max_bytes_in_flight, _MAX_MESSAGE_BYTES)
        return [
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would share its connections at random; a busy port must be an error.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", int(self.settings.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # The wait for the answer has a timeout of its own, which otherwise is a minute.
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Clients ping as they like; by default gRPC ends a connection that does so more than every five minutes.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.server_handshake_timeout_ms", int(self.settings.handshake_timeout_s * 1000)),
        ]

    def _warn(self, has_tokens: bool, has_tls: bool) -> None:
        if self.settings.token_file is not None and auth.readable_by_others(self.settings.token_file):
            logger.warning("other users can read the token file", extra={"file": str(self.settings.token_file)})
        if auth.is_local(self.settings.listen):
            return
        if has_tokens and not has_tls:
            logger.warning("tokens travel in clear text: no TLS", extra={"address": self.settings.listen})
        elif not has_tls:
            logger.warning("anyone who reaches this address can run code here", extra={"address": self.settings.listen})


def _check_tables(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Refuse a plane that claims what is not its own: the mistake would otherwise show as UNIMPLEMENTED."""
    for name, table in tables.items():
        for service, methods in table.items():
            owner = wire.PLANES.get(service, "stream")
            unknown = set(methods) - set(wire.SERVICES.get(service, {}))
            if owner != name or service not in wire.SERVICES or unknown:
                raise Internal(
                    f"plane {name!r} offers {service} with {', '.join(sorted(unknown)) or 'its methods'}, which the "
                    "wire definitions do not give to it"
                )


def _bind(server: GrpcServer, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    """Open the port and return the real address."""
    if listen.startswith("unix:"):
        _clear_stale_socket(listen.removeprefix("unix:"))
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise _why_not_bound(listen, error) from error
    if listen.startswith("unix:"):
        # Whoever can open the socket can call: keep it to the owner.
        os.chmod(listen.removeprefix("unix:"), stat.S_IRUSR | stat.S_IWUSR)
        return listen
    return f"{listen.rpartition(':')[0]}:{port}"


def _why_not_bound(listen: str, error: RuntimeError) -> Error:
    """Return the error for an address that gRPC could not bind, with the reason the system gives."""
    if listen.startswith("unix:"):
        return Unavailable(f"cannot listen on {listen}: {error}")
    host, port = auth.split_address(listen)
    reason: OSError | None = None
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(where)
                    probe.listen(1)
                except OSError as probe_error:
                    reason = probe_error
                    break
    except OSError as lookup_error:
        return Unavailable(f"cannot listen on {listen}: {host!r} does not resolve: {lookup_error}")
    if reason is None:
        return FailedPrecondition(f"cannot listen on {listen}: gRPC refused it: {error}; check certificate and key")
    if reason.errno == errno.EADDRINUSE:
        return Unavailable(
            f"cannot listen on {listen}: port {port} is in use by another process; choose another port, or 0 for any"
        )
    return Unavailable(f"cannot listen on {listen}: {reason.strerror}")


def _clear_stale_socket(path: str) -> None:
    """Remove the socket file of a server that is gone; refuse one whose server answers, and any other file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"cannot listen on unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"cannot listen on unix:{path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError:
            pass  # a full backlog or no permission: somebody is there
    raise Unavailable(f"cannot listen on unix:{path}: another server answers there; choose another path")


def _remove_socket(address: str) -> None:
    if address.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))


