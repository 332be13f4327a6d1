"""The gRPC health service: whether the server, or one of its services, takes calls.

``Check`` answers at once; ``Watch`` streams every change until the client leaves or the server drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.edge.plane import Handler
from runtime.errors import NotFound

if TYPE_CHECKING:
    Status = wire.health.HealthCheckResponse.ServingStatus

SERVICE = "grpc.health.v1.Health"


class Health:
    """Statuses by service name, and the service that tells them.

    Parameters
    ----------
    serving, not_serving : iterable of str
        Full names of services that take calls, and of known ones that do not. The server as a whole goes by the
        empty name.

    Concurrency: to be used on the server's event loop only.
    """

    def __init__(self, serving: Iterable[str], not_serving: Iterable[str]) -> None:
        response = wire.health.HealthCheckResponse
        self._answers = {
            status: response(status=status).SerializeToString()
            for status in (response.SERVING, response.NOT_SERVING, response.SERVICE_UNKNOWN)
        }
        self._statuses: dict[str, Status] = dict.fromkeys(not_serving, response.NOT_SERVING)
        self._statuses.update(dict.fromkeys(serving, response.SERVING))
        self._statuses[""] = response.SERVING
        self._unknown: Status = response.SERVICE_UNKNOWN
        self._not_serving: Status = response.NOT_SERVING
        self._changed = asyncio.Event()
        self._draining = False

    def drain(self) -> None:
        """Tell everyone that nothing is served any more, and end the watches, which would hold up the drain."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, self._not_serving)
        self._changed.set()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers of this service."""
        return {SERVICE: {"Check": self._check, "Watch": self._watch}}

    async def _check(self, request: bytes, _context: Any) -> bytes:
        name = wire.health.HealthCheckRequest.FromString(request).service
        status = self._statuses.get(name)
        if status is None:
            raise NotFound(f"no service is called {name!r} here")
        return self._answers[status]

    async def _watch(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        name = wire.health.HealthCheckRequest.FromString(request).service
        last = None
        while True:
            status = self._statuses.get(name, self._unknown)
            if status != last:
                last = status
                yield self._answers[status]
            if self._draining:
                return
            await self._changed.wait()
