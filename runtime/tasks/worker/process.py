"""One worker process: its port, its service, its registrations, and the way it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime import wire
from runtime.edge import auth, sockets
from runtime.edge.limits import Account
from runtime.edge.native import NativeTransport
from runtime.edge.tokens import Tokens
from runtime.tasks.worker.registration import Registration
from runtime.tasks.worker.service import WorkerService

if TYPE_CHECKING:
    from runtime.client.access import Access
    from runtime.config import Settings
    from runtime.tasks.worker.function import Worker

__all__ = ["STUCK_STATUS", "WorkerProcess"]

logger = logging.getLogger(__name__)

STUCK_STATUS = 70
"""Exit status of a process whose function does not end."""


class WorkerProcess:
    """Serves a worker at one address. Belongs to its loop.

    Parameters
    ----------
    worker : Worker
    settings : Settings
        Address, TLS and tokens; the rest does not matter.
    servers : sequence of (str, Access)
        Targets at which it registers.
    name : str
        What it is called there.
    advertise : str
        Host by which the servers reach it; that of its address if empty.
    concurrency : int
        Tasks at a time.
    """

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        servers: Sequence[tuple[str, Access]],
        name: str = "",
        advertise: str = "",
        concurrency: int = 1,
    ) -> None:
        self.address = ""
        self._worker = worker
        self._settings = settings
        self._servers = servers
        self._name = name
        self._advertise = advertise
        self._concurrency = concurrency
        self._registrations: list[Registration] = []
        self._transport: NativeTransport | None = None
        self._service: WorkerService | None = None
        self._account = Account(settings.max_bytes_in_flight)

    async def start(self) -> None:
        """Serve, and begin to register.

        Raises
        ------
        FailedPrecondition
            If the address may not be served without protection.
        Unavailable
            If it cannot be had.
        """
        settings = replace(self._settings, transport="native")
        auth.check_exposure(settings)
        tokens = Tokens.read(settings.token_file) if settings.token_file is not None else None
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()

        def tell(task_id: str, fraction: float, text: str) -> None:
            if threading.get_ident() == thread:
                self._tell(task_id, fraction, text)
            else:
                loop.call_soon_threadsafe(self._tell, task_id, fraction, text)

        service = self._service = WorkerService(
            self._worker, self._concurrency, progress=tell, stuck=lambda: os._exit(STUCK_STATUS)
        )
        transport = NativeTransport(settings, self._account, tokens.authorize if tokens is not None else None)
        try:
            self.address = await transport.bind()
            for service_name, methods in service.services().items():
                for method_name, handler in methods.items():
                    transport.add(wire.SERVICES[service_name][method_name], handler)
            transport.unknown_method = "no such method here; this is a worker: it answers ArmoniK.api.grpc.v1.Worker"
            self._account.open()
            await transport.start()
        except BaseException:
            await transport.discard()
            sockets.remove(self.address)
            raise
        self._transport = transport
        endpoint = self._endpoint()
        for target, access in self._servers:
            self._registrations.append(
                Registration(target, access, endpoint, self._name, self._concurrency, service.takes_batches)
            )
        logger.info("serving", extra={"address": self.address, "worker": self._worker.name})

    async def registered(self) -> None:
        """Wait until every server knows the worker."""
        for registration in self._registrations:
            await registration.registered.wait()

    async def stop(self, grace_s: float) -> None:
        """Take no further task, give those that run so many seconds to end, and stop serving."""
        if self._transport is None:
            return
        assert self._service is not None
        self._service.is_draining = True
        deadline = asyncio.get_running_loop().time() + grace_s
        if self._registrations:
            await asyncio.gather(*(registration.leave(grace_s) for registration in self._registrations))
        await self._transport.stop(max(0.0, deadline - asyncio.get_running_loop().time()))
        self._account.close()
        self._service.close()
        sockets.remove(self.address)
        self._transport = None

    def _tell(self, task_id: str, fraction: float, text: str) -> None:
        for registration in self._registrations:
            registration.tell(task_id, fraction, text)

    def _endpoint(self) -> str:
        if self.address.startswith("unix:"):
            return self.address
        scheme = "grpcs://" if self._settings.tls_cert is not None else ""
        if not self._advertise:
            return f"{scheme}{self.address}"
        host = f"[{self._advertise}]" if ":" in self._advertise else self._advertise
        return f"{scheme}{host}:{self.address.rpartition(':')[2]}"
