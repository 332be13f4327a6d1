"""The fleet as services call it: the dispatcher, the inventory, and what keeps both up to date."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from enum import Enum

from runtime.errors import Error
from runtime.fleet.certificates import CertificatePolicy
from runtime.fleet.dispatcher import Dispatcher, DispatchRules, Prober
from runtime.fleet.inventory import Inventory
from runtime.fleet.model import Caller, Machine, MachineReport, Server
from runtime.periodic import repeat
from runtime.store.fleet import FleetRows
from runtime.store.store import PlaneStore

__all__ = ["Fleet", "Serving"]

SWEEP_S = 5.0
PURGE_S = 3600.0
PROBE_S = 10.0
# Checks that may be under way at once.
MAX_PROBES = 32
_FAILURE = "the fleet could not be brought up to date"


class Serving(Enum):
    """What a service says of itself."""

    SERVING = "serving"
    NOT_SERVING = "not serving"


class Fleet:
    """Servers and machines of one dispatcher.

    Parameters
    ----------
    store : PlaneStore
    policy : CertificatePolicy
    rules : DispatchRules
    prober : Prober or None
        Given in probe mode.
    peer_policy : str
        See `Inventory`.
    clock : callable
        Seconds since the epoch.

    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        store: PlaneStore[FleetRows],
        policy: CertificatePolicy,
        rules: DispatchRules,
        prober: Prober | None = None,
        peer_policy: str = "warn",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self.inventory = Inventory(store, clock, peer_policy)
        self.dispatcher = Dispatcher(
            store, policy, rules, clock, prober, lambda uuid: store.read(lambda rows: rows.has_machine(uuid))
        )
        self._has_probes = prober is not None
        self._probes: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(MAX_PROBES)
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False

    def start(self) -> None:
        """Begin to look after leases, health and old records."""
        self._tasks = [
            asyncio.ensure_future(repeat(self.dispatcher.sweep, SWEEP_S, _FAILURE)),
            asyncio.ensure_future(repeat(self._purge, PURGE_S, _FAILURE)),
        ]
        if self._has_probes:
            self._tasks.append(
                asyncio.ensure_future(repeat(self._probe_all, PROBE_S, "servers were not checked", pauses_first=False))
            )

    def drain(self) -> None:
        """Say from now on that nothing is served."""
        self._draining = True

    async def stop(self) -> None:
        """End what runs beside the calls."""
        over = [*self._tasks, *self._probes]
        for task in over:
            task.cancel()
        await asyncio.gather(*over, return_exceptions=True)
        self._tasks = []

    # -- calls -----------------------------------------------------------------------------------------------------

    async def register(self, certificate: bytes, caller: Caller) -> Server:
        """See `Dispatcher.register`."""
        return await self.dispatcher.register(certificate, caller)

    async def offer(self, ip: str, certificate: bytes, caller: Caller) -> Server:
        """See `Dispatcher.offer`."""
        return await self.dispatcher.offer(ip, certificate, caller)

    async def target(self, uuid: str) -> Server:
        """See `Dispatcher.target`."""
        return await self.dispatcher.target(uuid)

    async def save_machine(self, report: MachineReport, nbytes: int, caller: Caller) -> Machine:
        """Store a report; see `Inventory.save`. The server that the machine was given before becomes a lasting one."""
        machine = await self.inventory.save(report, nbytes, caller)
        await self.dispatcher.adopt(machine.uuid)
        return machine

    def serving(self, *, dispatches: bool = False) -> Serving:
        """Return whether calls are taken; with ``dispatches``, whether a new machine would be given a server."""
        if self._draining:
            return Serving.NOT_SERVING
        try:
            self._store.read(lambda rows: rows.last_position())
        except Error:
            return Serving.NOT_SERVING
        if dispatches and not self.dispatcher.has_healthy():
            return Serving.NOT_SERVING
        return Serving.SERVING

    # -- beside the calls ------------------------------------------------------------------------------------------

    async def _purge(self) -> None:
        self.dispatcher.forget_machines(await self.inventory.purge())

    async def _probe_all(self) -> None:
        for number in self.dispatcher.probed():
            task = asyncio.ensure_future(self._probe(number))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _probe(self, number: int) -> None:
        # Spread over the period, so that servers are not all asked at the same moment.
        await asyncio.sleep(random.random() * PROBE_S / 2)
        async with self._at_once:
            with contextlib.suppress(Error):
                await self.dispatcher.probe(number)
