"""Servers enrol, offer themselves, and are handed out to machines.

What is stored of servers and assignments is small and read all the time, so it is kept in memory, too. A change is
decided on the loop in one go, stored, and answered when it is on disk; when storing fails, memory is read again from
the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from runtime.errors import Unavailable
from runtime.fleet.addresses import Network, is_within, offered_address
from runtime.fleet.certificates import CLOCK_SKEW, CertificatePolicy, read
from runtime.fleet.model import Caller, Certificate, Health, Server
from runtime.fleet.refusals import Refused
from runtime.fleet.rotation import Rotation
from runtime.store.fleet import FleetRows
from runtime.store.store import PlaneStore

__all__ = ["DispatchRules", "Dispatcher", "Prober", "ProbeResult"]

logger = logging.getLogger(__name__)

MAX_SERVERS = 1000
NEVER_OFFERED_S = 24 * 3600.0
REMOVED_AFTER_S = 24 * 3600.0
EXPIRED_KEPT_S = 7 * 86400.0
# A lease outlives the period in which it is renewed by a third, for a renewal that comes late.
LEASE_SLACK = 4 / 3
MISSES_TO_LEAVE = 3
SUCCESSES_TO_RETURN = 2
# Assignments of machines that are not in the inventory.
MAX_STRANGERS = 100_000
STRANGER_S = 3600.0


@dataclass(frozen=True)
class DispatchRules:
    """What the settings say.

    Attributes
    ----------
    networks : tuple of Network
        Loopback and private networks in which servers may offer addresses.
    checks_ownership : bool
        Whether a server must show that an address is its own.
    lease_s : float
        How often a server repeats its offer; 0 when it is probed instead.
    """

    networks: tuple[Network, ...]
    checks_ownership: bool
    lease_s: float


@dataclass(frozen=True)
class ProbeResult:
    """What a health check of a server showed.

    Attributes
    ----------
    shows_leaf : bool or None
        Whether it showed the enrolled certificate; None when no certificate was seen.
    serves : bool
        Whether it says that it serves.
    detail : str
        What is wrong.
    """

    shows_leaf: bool | None
    serves: bool
    detail: str = ""


class Prober(Protocol):
    """Asks a server how it is; see `runtime.fleet.probe`."""

    async def __call__(self, ip: str, leaf: bytes) -> ProbeResult:
        """Connect to a server and return what it showed. Bounded in time; raises nothing."""
        ...


class _Condition:
    """How a server in rotation is, as far as this process knows."""

    __slots__ = ("health", "lease_until", "misses", "probing", "successes")

    def __init__(self, health: Health, lease_until: float) -> None:
        self.health = health
        self.lease_until = lease_until
        self.misses = 0
        self.successes = 0
        self.probing = False


class Dispatcher:
    """Enrolled servers, their rotation, and which machine has which.

    Parameters
    ----------
    store : PlaneStore
    policy : CertificatePolicy
    rules : DispatchRules
    clock : callable
        Seconds since the epoch.
    prober : Prober or None
        None in lease mode, or when ownership is not checked.
    is_known : callable
        Whether a machine is in the inventory.

    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        store: PlaneStore[FleetRows],
        policy: CertificatePolicy,
        rules: DispatchRules,
        clock: Callable[[], float],
        prober: Prober | None,
        is_known: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._policy = policy
        self._rules = rules
        self._clock = clock
        self._prober = prober
        self._is_known = is_known
        self._changing = asyncio.Lock()
        self._strangers: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._storing: dict[str, asyncio.Future[None]] = {}
        self._conditions: dict[int, _Condition] = {}
        self._load()

    def _load(self) -> None:
        """Read everything from the store. Servers in rotation get a full lease before they count as lost."""
        servers, assignments, last = self._store.read(
            lambda rows: (rows.servers(), rows.assignments(), rows.last_position())
        )
        self._servers = {server.number: server for server in servers}
        self._assigned = dict(assignments)
        in_rotation = [(server.position, server.number) for server in servers if server.position is not None]
        self._rotation = Rotation(in_rotation, last)
        until = self._clock() + self._rules.lease_s * LEASE_SLACK
        for _, number in in_rotation:
            self._conditions.setdefault(number, _Condition(Health.PENDING, until))
        for number in self._conditions.keys() - {number for _, number in in_rotation}:
            del self._conditions[number]

    # -- what is there ---------------------------------------------------------------------------------------------

    def servers(self) -> list[tuple[Server, Health]]:
        """Return every server with its health, by number."""
        return [(server, self._health(server)) for _, server in sorted(self._servers.items())]

    def has_healthy(self) -> bool:
        """Return whether a new machine can be given a server."""
        return self._rotation.following(self._is_healthy) is not None

    # -- enrolment -------------------------------------------------------------------------------------------------

    async def register(self, data: bytes, caller: Caller) -> Server:
        """Enrol a server by its certificate; on disk when this returns.

        Raises
        ------
        Refused
            What `CertificatePolicy.check` refuses, and ``full``.
        """
        certificate = self._policy.check(data)
        now = self._clock()
        async with self._changed():
            known = self._find(certificate.fingerprint)
            if known is not None:
                server = replace(known, certificate=certificate, last_seen=now)
            else:
                server = self._renewed(certificate, caller, now) or self._new(certificate, caller, now)
            await self._put(server)
            return server

    def _new(self, certificate: Certificate, caller: Caller, now: float) -> Server:
        if len(self._servers) >= MAX_SERVERS:
            raise Refused("full", f"{MAX_SERVERS} servers are enrolled; no further one is taken")
        number = max(self._servers, default=0) + 1
        return Server(number, certificate, caller.credential, enrolled_at=now, last_seen=now)

    def _renewed(self, certificate: Certificate, caller: Caller, now: float) -> Server | None:
        """Return the server whose certificate a new one replaces, if it is the same server's."""
        for server in self._servers.values():
            old = server.certificate
            if old.key_fingerprint == certificate.key_fingerprint or old.fingerprint == caller.certificate:
                return replace(server, certificate=certificate, last_seen=now)
        return None

    # -- offers ----------------------------------------------------------------------------------------------------

    async def offer(self, ip: str, data: bytes, caller: Caller) -> Server:
        """Put an enrolled server into rotation, or renew its lease; on disk when this returns.

        Raises
        ------
        Refused
            ``bad_ip``, ``malformed``, ``not_registered``, ``expired``, ``revoked``, ``ip_mismatch`` or ``unproven``.
        """
        address = offered_address(ip, self._rules.networks)
        certificate = read(data)
        known = self._find(certificate.fingerprint)
        if known is None:
            raise Refused("not_registered", "the certificate is not enrolled; call Register with it first")
        self._check_in_date(known)
        if self._rules.checks_ownership:
            self._check_address(address, known, caller)
            await self._check_possession(address, known, caller)
        async with self._changed():
            server = self._servers.get(known.number)
            if server is None or server.certificate.fingerprint != certificate.fingerprint:
                raise Refused("not_registered", "the certificate was replaced while it was checked; offer the new one")
            now = self._clock()
            displaced = [other for other in self._servers.values() if other.ip == address and other is not server]
            for other in displaced:
                logger.info("another server took over an address", extra={"ip": address, "left": other.number})
                await self._leave(other, "replaced")
            position = self._rotation.tail if server.position is None else server.position
            joined = replace(server, ip=address, position=position, last_seen=now, unhealthy_since=None, cause="")
            await self._put(joined)
            if server.position is None:
                self._rotation.add(position, server.number)
            self._conditions[server.number] = _Condition(Health.HEALTHY, now + self._rules.lease_s * LEASE_SLACK)
            return joined

    def _check_in_date(self, server: Server) -> None:
        if server.certificate.not_after < self._clock() - CLOCK_SKEW.total_seconds():
            raise Refused("expired", "the enrolled certificate has expired; enrol a new one")
        if self._policy.is_revoked(server.certificate):
            raise Refused("revoked", "the enrolled certificate is revoked")

    def _check_address(self, address: str, server: Server, caller: Caller) -> None:
        if address == caller.address or address in server.certificate.ips or is_within(address, caller.networks):
            return
        raise Refused(
            "ip_mismatch", f"ip {address} is neither the caller's address, nor one of the certificate, nor in a "
            "network of the caller's token"
        )

    async def _check_possession(self, address: str, server: Server, caller: Caller) -> None:
        if caller.certificate == server.certificate.fingerprint:
            return
        if self._prober is not None:
            result = await self._prober(address, server.certificate.leaf)
            if result.shows_leaf:
                return
            raise Refused("unproven", f"the server at {address} does not show its certificate: {result.detail}")
        if caller.credential is not None and caller.credential == server.enrolled_by:
            return
        raise Refused("unproven", "the caller is not authenticated by the certificate, nor by what enrolled it")

    # -- targets ---------------------------------------------------------------------------------------------------

    async def target(self, uuid: str) -> Server:
        """Return the server of a machine; the same one as long as it is healthy.

        Raises
        ------
        Unavailable
            If no server is healthy.
        """
        storing = self._storing.get(uuid)
        if storing is not None:
            # Another call for this machine has just decided; its answer holds once it is on disk.
            await asyncio.shield(storing)
        number = self._assignment(uuid)
        if number is not None and self._keeps(number):
            return self._servers[number]
        place = self._rotation.following(self._is_healthy)
        if place is None:
            raise Unavailable("no server is healthy at the moment; call again in a few seconds")
        position, number = place
        self._rotation.last = position
        if not self._is_known(uuid):
            self._remember_stranger(uuid, number)
            return self._servers[number]
        self._assigned[uuid] = number
        stored = asyncio.ensure_future(self._store_assignment(uuid, number, position))
        self._storing[uuid] = stored
        stored.add_done_callback(lambda _: self._storing.pop(uuid, None))
        await asyncio.shield(stored)
        return self._servers[number]

    async def adopt(self, uuid: str) -> None:
        """Store the assignment of a machine that has just reported itself for the first time."""
        stranger = self._strangers.pop(uuid, None)
        if stranger is not None and stranger[0] in self._servers and uuid not in self._assigned:
            self._assigned[uuid] = stranger[0]
            await self._store_assignment(uuid, stranger[0], self._rotation.last)

    def forget_machines(self, uuids: Iterable[str]) -> None:
        """Forget the assignments of machines that the store has forgotten."""
        for uuid in uuids:
            self._assigned.pop(uuid, None)

    async def _store_assignment(self, uuid: str, number: int, position: int) -> None:
        def change(rows: FleetRows) -> None:
            rows.put_assignment(uuid, number)
            rows.put_last_position(position)

        try:
            await self._store.write(change)
        except BaseException:
            self._assigned.pop(uuid, None)
            raise

    def _assignment(self, uuid: str) -> int | None:
        number = self._assigned.get(uuid)
        if number is not None:
            return number
        stranger = self._strangers.get(uuid)
        if stranger is None or self._clock() - stranger[1] > STRANGER_S:
            return None
        return stranger[0]

    def _remember_stranger(self, uuid: str, number: int) -> None:
        self._strangers[uuid] = (number, self._clock())
        self._strangers.move_to_end(uuid)
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers.popitem(last=False)

    # -- health ----------------------------------------------------------------------------------------------------

    def _health(self, server: Server) -> Health:
        condition = self._conditions.get(server.number)
        if condition is None:
            return Health.ENROLLED
        if self._prober is None and self._rules.lease_s and condition.lease_until <= self._clock():
            return Health.UNHEALTHY
        return condition.health

    def _is_healthy(self, number: int) -> bool:
        server = self._servers[number]
        return self._health(server) is Health.HEALTHY and self._is_in_date(server)

    def _keeps(self, number: int) -> bool:
        """Return whether machines that have a server keep it."""
        server = self._servers.get(number)
        if server is None or not self._is_in_date(server):
            return False
        return self._health(server) in (Health.HEALTHY, Health.PENDING)

    def _is_in_date(self, server: Server) -> bool:
        return server.certificate.not_after > self._clock()

    async def probe(self, number: int) -> None:
        """Check a server's health once. One check at a time; bounded in time by the prober."""
        server, condition = self._servers.get(number), self._conditions.get(number)
        if self._prober is None or server is None or server.ip is None or condition is None or condition.probing:
            return
        condition.probing = True
        try:
            result = await self._prober(server.ip, server.certificate.leaf)
        finally:
            condition.probing = False
        if self._conditions.get(number) is not condition:
            return
        if result.serves and result.shows_leaf:
            condition.misses = 0
            condition.successes += 1
            if condition.health is not Health.HEALTHY and condition.successes >= SUCCESSES_TO_RETURN:
                condition.health = Health.HEALTHY
                await self._mark(number, None, "")
            return
        condition.successes = 0
        condition.misses += 1
        if result.shows_leaf is False:
            # Somebody else answers there. Only a new offer brings the server back.
            async with self._changed():
                if self._servers.get(number) == server:
                    await self._leave(server, "cert_mismatch")
        elif condition.misses >= MISSES_TO_LEAVE and condition.health is not Health.UNHEALTHY:
            condition.health = Health.UNHEALTHY
            await self._mark(number, self._clock(), result.detail)

    def probed(self) -> list[int]:
        """Return the numbers of the servers whose health is to be checked."""
        return sorted(self._conditions) if self._prober is not None else []

    async def _mark(self, number: int, unhealthy_since: float | None, cause: str) -> None:
        async with self._changed():
            server = self._servers.get(number)
            if server is not None:
                await self._put(replace(server, unhealthy_since=unhealthy_since, cause=cause))

    async def sweep(self) -> None:
        """Let go of what has had its time: leases, certificates, servers that never offered themselves."""
        now = self._clock()
        async with self._changed():
            for server in list(self._servers.values()):
                await self._sweep_server(server, now)
        while self._strangers and now - next(iter(self._strangers.values()))[1] > STRANGER_S:
            self._strangers.popitem(last=False)

    async def _sweep_server(self, server: Server, now: float) -> None:
        expired_for = now - server.certificate.not_after
        if expired_for > EXPIRED_KEPT_S or (server.ip is None and now - server.last_seen > NEVER_OFFERED_S
                                            and not server.cause):
            await self._forget(server)
            return
        if server.position is None:
            return
        if expired_for > 0:
            await self._leave(server, "expired")
        elif self._policy.is_revoked(server.certificate):
            await self._leave(server, "revoked")
        elif self._health(server) is not Health.UNHEALTHY:
            if server.unhealthy_since is not None:
                await self._put(replace(server, unhealthy_since=None, cause=""))
        elif server.unhealthy_since is None:
            await self._put(replace(server, unhealthy_since=now, cause="the lease ran out"))
        elif now - server.unhealthy_since > REMOVED_AFTER_S:
            await self._leave(server, "unhealthy for a day")

    # -- changes ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _changed(self) -> AsyncIterator[None]:
        """Hold off other changes; after one that could not be stored, go by the store again."""
        async with self._changing:
            try:
                yield
            except Refused:
                raise
            except BaseException:
                self._load()
                raise

    async def _put(self, server: Server) -> None:
        await self._store.write(lambda rows: rows.put_server(server))
        self._servers[server.number] = server

    async def _leave(self, server: Server, cause: str) -> None:
        """Take a server out of rotation; it stays enrolled."""
        left = replace(server, ip=None, position=None, unhealthy_since=None, cause=cause)

        def change(rows: FleetRows) -> None:
            rows.put_server(left)
            rows.remove_assignments(server.number)

        await self._store.write(change)
        self._servers[server.number] = left
        self._out(server)

    async def _forget(self, server: Server) -> None:
        await self._store.write(lambda rows: rows.remove_server(server.number))
        del self._servers[server.number]
        self._out(server)

    def _out(self, server: Server) -> None:
        if server.position is not None:
            self._rotation.remove(server.position, server.number)
        self._conditions.pop(server.number, None)
        for uuid in [uuid for uuid, number in self._assigned.items() if number == server.number]:
            del self._assigned[uuid]
        for uuid in [uuid for uuid, (number, _) in self._strangers.items() if number == server.number]:
            del self._strangers[uuid]

    def _find(self, fingerprint: str) -> Server | None:
        for server in self._servers.values():
            if server.certificate.fingerprint == fingerprint:
                return server
        return None
