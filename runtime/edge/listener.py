"""One port and the planes behind it: what ``tensor-runtime serve`` and ``runtime.Server`` both run."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.config import Settings
from runtime.edge import auth, plane, sockets
from runtime.edge.fleet_joining import check_joining, membership
from runtime.edge.health import Health
from runtime.edge.limits import Account
from runtime.edge.reflection import Reflection
from runtime.edge.tokens import RELOAD_INTERVAL_S, Tokens
from runtime.edge.transport import Transport, make_transport
from runtime.edge.unavailable_planes import absent_method
from runtime.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.edge.own_certificate import OwnCertificate
    from runtime.observe.metrics import Family
    from runtime.observe.metrics_service import Part

logger = logging.getLogger(__name__)

EDGE = "edge"
METRICS = "/runtime.v1.Observer/GetMetrics"
# How long a plane may take to stop beyond the grace before the server goes on without it.
PLANE_STOP_S = 10.0


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
        self._transport: Transport | None = None
        self._planes: dict[str, plane.Plane] = {}
        self._edge: tuple[Health, Reflection] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._certificate: OwnCertificate | None = None
        self._membership: asyncio.Task[None] | None = None
        self._token_watch: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def target(self) -> str:
        """What a client connects to: ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` with TLS, or ``unix:PATH``."""
        if self.address.startswith("unix:"):
            return self.address
        return f"{'grpc' if self.settings.tls_cert is None else 'grpcs'}://{self.address}"

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
        try:
            await self._get_ready()
            await self._open()
        except BaseException:
            await self._leave()
            raise
        logger.info("serving", extra={"address": self.address, "planes": ",".join(self._planes) or "none"})

    async def _get_ready(self) -> None:
        """Have the certificate that an authority is to give, before anything is open."""
        if self.settings.enrol_with:
            from runtime.edge.own_certificate import OwnCertificate

            self._certificate = OwnCertificate(self.settings)
            self.settings = await self._certificate.start()
        check_joining(self.settings)

    async def _open(self) -> None:
        tokens = Tokens.read(self.settings.token_file) if self.settings.token_file is not None else None
        self._warn(tokens is not None, self.settings.tls_cert is not None)
        transport = make_transport(self.settings, self.account, tokens.authorize if tokens is not None else None)
        try:
            self.address = await transport.bind()
            await self._start_planes(transport)
        except BaseException:
            await self._stop_planes(0.0)
            await transport.discard()
            sockets.remove(self.address)
            raise
        self.account.open()
        self._transport = transport
        await transport.start()
        if tokens is not None:
            self._token_watch = asyncio.ensure_future(_watch(tokens, transport))
        if self.settings.fleet_join:
            self._membership = asyncio.ensure_future(membership(self.settings).run())

    async def _leave(self) -> None:
        """End what runs for the server beside its calls."""
        if self._membership is not None:
            self._membership.cancel()
            await asyncio.wait([self._membership])
            self._membership = None
        if self._token_watch is not None:
            self._token_watch.cancel()
            await asyncio.wait([self._token_watch])
            self._token_watch = None
        if self._certificate is not None:
            await self._certificate.stop()
            self._certificate = None

    def plane(self, name: str) -> plane.Plane | None:
        """Return a plane that is served, by name."""
        return self._planes.get(name)

    async def wait_closed(self) -> None:
        """Wait until the server has stopped."""
        await self._closed.wait()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give open ones ``grace_s`` seconds to end, then cancel them and stop the planes.

        A further call with a shorter grace shortens the first.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(grace_s))
        elif self._transport is not None and not self._stopping.done():
            await self._transport.stop(grace_s)
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        transport = self._transport
        try:
            if transport is None:
                return
            deadline = asyncio.get_running_loop().time() + grace_s
            self._drain()
            await self._leave()
            await transport.stop(grace_s)
            await self._stop_planes(max(0.0, deadline - asyncio.get_running_loop().time()))
            sockets.remove(self.address)
            logger.info("stopped", extra={"address": self.address, "calls": self.account.num_calls})
        finally:
            self.account.close()
            self._transport = None
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

    async def _start_planes(self, transport: Transport) -> None:
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
        # Every server has metrics, whichever planes it has.
        shared = {METRICS: self._get_metrics}
        transport.unknown_method = f"no such method here; the services of this server: {', '.join(sorted(known))}"
        for service, methods in wire.SERVICES.items():
            owner = wire.PLANES.get(service, "stream")
            handlers = tables.get(owner, {}).get(service, {})
            for name, method in methods.items():
                handler = handlers.get(name) or shared.get(method.path)
                if handler is None:
                    error = absent_method(method.path, owner, self.settings.services, self._planes)
                    transport.refuse(method, error)
                else:
                    transport.add(method, handler)

    async def _get_metrics(self, request: bytes, context: Any) -> bytes:
        # Imported when somebody asks: most servers are started for less than that.
        from runtime.observe.metrics_service import MetricsService

        return await MetricsService(self._metrics).get_metrics(request, context)

    def _metrics(self) -> dict[str, Part]:
        """Return who tells metrics: the server itself, and those planes that have any."""
        parts: dict[str, Part] = {EDGE: self._own_metrics}
        for name, served in self._planes.items():
            part = getattr(served, "metrics", None)
            if part is not None:
                parts[name] = part
        return parts

    async def _own_metrics(self) -> Iterable[Family]:
        from runtime.edge.metrics import edge_families, process_families, transfer_families

        # Beside the loop: a server may have many thousand descriptors.
        own = await asyncio.to_thread(process_families)
        return [*own, *edge_families(self.account, self._transport), *transfer_families()]

    async def _stop_planes(self, grace_s: float) -> None:
        while self._planes:
            name, stopped = self._planes.popitem()
            try:
                await asyncio.wait_for(stopped.stop(grace_s), grace_s + PLANE_STOP_S)
            except TimeoutError:
                logger.error("a plane did not stop in time", extra={"plane": name, "seconds": grace_s + PLANE_STOP_S})
            except Exception:
                logger.exception("a plane failed to stop", extra={"plane": name})

    def _warn(self, has_tokens: bool, has_tls: bool) -> None:
        if self.settings.token_file is not None and auth.readable_by_others(self.settings.token_file):
            logger.warning("other users can read the token file", extra={"file": str(self.settings.token_file)})
        if auth.is_local(self.settings.listen):
            return
        if has_tokens and not has_tls:
            logger.warning("tokens travel in clear text: no TLS", extra={"address": self.settings.listen})
        elif not has_tls:
            logger.warning("anyone who reaches this address can run code here", extra={"address": self.settings.listen})


async def _watch(tokens: Tokens, transport: Transport) -> None:
    """End the calls of tokens that are revoked while they run."""
    seen = tokens.generation
    while True:
        await asyncio.sleep(RELOAD_INTERVAL_S)
        tokens.refresh()
        if tokens.generation != seen:
            seen = tokens.generation
            try:
                transport.check_again()
            except Exception:
                logger.exception("open calls could not be checked again")


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
