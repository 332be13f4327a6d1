"""pb.WorkerSaver, pb.ServerDispatcher and pb.FunctionDispatcher: bytes in, one call of the fleet, bytes out.

A server that signs certificates answers runtime.v1.Authority as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.authority.service import AuthorityService
from runtime.edge.auth import is_local
from runtime.edge.callers import peer_address, peer_certificate, peer_name
from runtime.edge.peer_limits import PeerLimits
from runtime.edge.tokens import Tokens
from runtime.errors import Error, FailedPrecondition, InvalidArgument, ResourceExhausted, Unimplemented
from runtime.fleet.addresses import parse_networks
from runtime.fleet.fleet import Fleet, Serving
from runtime.fleet.machine_ids import machine_id
from runtime.fleet.model import AddressReport, Caller, InterfaceReport, MachineReport, PortReport
from runtime.fleet.refusals import Refused
from runtime.store.opening import SharedStores, take_up

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.plane import Handler

__all__ = ["FleetPlane", "create_plane"]

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1 << 20


class FleetPlane:
    """The three services; see `runtime.edge.plane.Plane`.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens = Tokens.read(settings.token_file) if settings.token_file is not None else None
        self._limits = PeerLimits(time.monotonic)
        self._refusal = _refusal(settings)
        self._fleet: Fleet | None = None
        self._starting: asyncio.Lock = asyncio.Lock()
        self._draining = False
        self._authority = AuthorityService(settings.authority) if settings.authority is not None else None

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        services: dict[str, Mapping[str, Handler]] = {
            "pb.WorkerSaver": {"Check": self._check, "SaveMachine": self._limited(self._save_machine)},
            "pb.ServerDispatcher": {
                "Check": self._check,
                "Register": self._limited(self._register),
                "GetNextServer": self._limited(self._get_next_server),
            },
            "pb.FunctionDispatcher": {"Check": self._check_targets, "GetTarget": self._limited(self._get_target)},
        }
        if self._authority is not None:
            services["runtime.v1.Authority"] = self._authority.methods()
        return services

    async def start(self) -> None:
        """Take up what the store has from before.

        Raises
        ------
        FailedPrecondition
            Another server uses the data directory that was chosen for this one.
        """
        try:
            await take_up(self._settings.data_dir, self._settings.data_is_chosen, self._started, "knows no fleet")
        except Unimplemented as error:
            # A package is missing. A server that was started for something else needs no fleet; whoever calls is told.
            logger.info("the fleet is not served", extra={"reason": error.message})

    def drain(self) -> None:
        """Say from now on that nothing is served."""
        self._draining = True
        if self._fleet is not None:
            self._fleet.drain()

    async def stop(self, grace: float) -> None:
        """End everything and close the file."""
        if self._fleet is not None:
            await self._fleet.stop()
            await SharedStores.close(self._settings.data_dir)

    async def _started(self) -> Fleet:
        if self._fleet is None:
            async with self._starting:
                if self._fleet is None:
                    from runtime.store.sqlite.fleet_tables import FleetTables

                    store = await SharedStores.open(self._settings.data_dir)
                    try:
                        self._fleet = make_fleet(self._settings, store.plane(FleetTables))
                    except BaseException:
                        await SharedStores.close(self._settings.data_dir)
                        raise
                    self._fleet.start()
        return self._fleet

    # -- handlers --------------------------------------------------------------------------------------------------

    async def _check(self, request: bytes, context: Any, *, dispatches: bool = False) -> bytes:
        wire.fleet.HealthCheckReq.FromString(request)
        serving = Serving.NOT_SERVING
        if not self._draining and self._refusal is None:
            try:
                serving = (await self._started()).serving(dispatches=dispatches)
            except Error as error:
                logger.warning("the fleet does not serve", extra={"reason": str(error)})
        answer = wire.fleet.HealthCheckRes
        status = answer.SERVING if serving is Serving.SERVING else answer.NOT_SERVING
        return answer(status=status).SerializeToString()

    async def _check_targets(self, request: bytes, context: Any) -> bytes:
        return await self._check(request, context, dispatches=True)

    async def _register(self, request: bytes, context: Any, caller: Caller) -> bytes:
        message = wire.fleet.RegisterReq.FromString(request)
        answer = wire.fleet.RegisterRes
        try:
            server = await (await self._started()).register(message.certificate, caller)
        except Refused as refused:
            _explain(context, refused, "a server was not enrolled", caller)
            return answer(status=answer.NOT_REGISTERED).SerializeToString()
        logger.info("a server is enrolled", extra={"server": server.number, "leaf": server.certificate.fingerprint})
        return answer(status=answer.REGISTERED).SerializeToString()

    async def _get_next_server(self, request: bytes, context: Any, caller: Caller) -> bytes:
        message = wire.fleet.GetNextServerReq.FromString(request)
        answer = wire.fleet.GetNextServerRes
        peer = peer_name(context)
        try:
            await (await self._started()).offer(message.ip, message.certificate, caller)
        except Refused as refused:
            _explain(context, refused, "an offer was not accepted", caller)
            self._limits.count_failure(peer)
            await asyncio.sleep(self._limits.delay(peer))
            return answer(status=answer.NOT_ACCEPTED).SerializeToString()
        return answer(status=answer.ACCEPTED).SerializeToString()

    async def _get_target(self, request: bytes, context: Any, caller: Caller) -> bytes:
        message = wire.fleet.GetTargetReq.FromString(request)
        try:
            uuid = machine_id(message.uuid)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        server = await (await self._started()).target(uuid)
        return wire.fleet.GetTargetRes(ip=server.ip or "", certificate=server.certificate.as_sent).SerializeToString()

    async def _save_machine(self, request: bytes, context: Any, caller: Caller) -> bytes:
        message = wire.fleet.SaveMachineReq.FromString(request)
        answer = wire.fleet.SaveMachineRes
        try:
            if not message.HasField("machine"):
                raise Refused("malformed", "machine is absent; expected a report")
            await (await self._started()).save_machine(_report(message.machine), len(request), caller)
        except Refused as refused:
            _explain(context, refused, "a report was not accepted", caller)
            return answer(status=answer.NOT_ACCEPTED).SerializeToString()
        return answer(status=answer.ACCEPTED).SerializeToString()

    # -- around them -----------------------------------------------------------------------------------------------

    def _limited(
        self, handler: Callable[[bytes, Any, Caller], Awaitable[bytes]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Return a handler that counts the calls of its peers, and knows who calls."""

        async def call(request: bytes, context: Any) -> bytes:
            with self._limits.admit(peer_name(context)):
                if len(request) > MAX_MESSAGE_BYTES:
                    raise ResourceExhausted(
                        f"the message has {len(request)} bytes; the fleet takes {MAX_MESSAGE_BYTES} at most"
                    )
                if self._refusal is not None:
                    raise self._refusal
                return await handler(request, context, self._caller(context))

        return call

    def _caller(self, context: Any) -> Caller:
        address = peer_address(context)
        shown = peer_certificate(context)
        certificate = None if shown is None else hashlib.sha256(shown).hexdigest()
        if certificate is not None:
            return Caller(address, f"certificate:{certificate}", certificate)
        if self._tokens is None:
            return Caller(address)
        token = self._tokens.identify(context.invocation_metadata())
        return Caller(address, f"token:{token.name}", None, tuple(map(ipaddress.ip_network, token.networks)))


def create_plane(settings: Settings) -> FleetPlane:
    """Return the fleet plane of a server."""
    return FleetPlane(settings)


def make_fleet(settings: Settings, store: Any) -> Fleet:
    """Return the fleet that the settings describe, on a store."""
    from runtime.fleet.certificates import CertificatePolicy
    from runtime.fleet.dispatcher import DispatchRules
    from runtime.fleet.probe import TlsProber

    is_open = settings.token_file is None and settings.tls_client_ca is None
    local = is_local(settings.listen)
    checks = settings.fleet_ownership == "strict" or (settings.fleet_ownership == "auto" and not (is_open and local))
    networks = settings.fleet_networks
    if networks == ("auto",):
        networks = ("private", "127.0.0.0/8", "::1") if local else ("private",)
    prober = None
    if settings.fleet_health == "probe" and checks:
        prober = TlsProber(settings.fleet_server_port)
    rules = DispatchRules(parse_networks(networks), checks, settings.fleet_lease_s)
    policy = CertificatePolicy(settings.fleet_ca, settings.fleet_crl, time.time)
    return Fleet(store, policy, rules, prober, settings.fleet_peer_address)


def _refusal(settings: Settings) -> FailedPrecondition | None:
    """Return why a listener cannot serve the fleet, if it cannot."""
    if settings.fleet_health == "probe" and not settings.fleet_server_port:
        return FailedPrecondition("setting fleet_health is probe, which needs the setting fleet_server_port")
    if is_local(settings.listen) or settings.insecure:
        return None
    if settings.tls_cert is None:
        return FailedPrecondition(
            "the fleet needs TLS on an address that other machines reach: --tls-cert and --tls-key"
        )
    if settings.token_file is None and settings.tls_client_ca is None:
        return FailedPrecondition(
            "the fleet needs to know who calls on an address that other machines reach: --token-file or --tls-client-ca"
        )
    return None


def _explain(context: Any, refused: Refused, what: str, caller: Caller) -> None:
    """Tell the caller and the log why the answer is no."""
    logger.info(what, extra={"cause": refused.cause, "detail": refused.detail, "from": caller.address or "unix socket"})
    context.set_trailing_metadata((("x-fleet-reason", refused.cause),))


def _report(machine: Any) -> MachineReport:
    return MachineReport(
        machine.uuid,
        tuple(
            InterfaceReport(
                interface.name,
                tuple(
                    AddressReport(address.ip, tuple(PortReport(port.port, port.service) for port in address.ports))
                    for address in interface.address
                ),
                interface.error,
            )
            for interface in machine.ifaces
        ),
        machine.error,
    )
