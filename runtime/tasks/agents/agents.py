"""All agents of a server: workers come and go while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from runtime.tasks.agents.agent import Agent
from runtime.tasks.agents.endpoint import Endpoint
from runtime.tasks.agents.supply import Supply

if TYPE_CHECKING:
    from runtime.edge.peer_access import PeerAccess
    from runtime.tasks.agents.resources import Resources
    from runtime.tasks.tasks import Tasks

__all__ = ["Agents", "Progress"]

logger = logging.getLogger(__name__)

MAX_CONCURRENCY = 1024
_MAX_TEXT = 1000


class Progress(NamedTuple):
    """How far a task says that it is: a fraction from 0 to 1, and a text."""

    task_id: str
    fraction: float
    text: str


class Agents:
    """The agents of one server. Belongs to its loop.

    Parameters
    ----------
    tasks : Tasks
    resources : Resources
    access : callable
        Returns how the server gets into others, for endpoints with TLS.
    check_s : float
        See `runtime.tasks.agents.agent.Agent`.
    """

    def __init__(
        self, tasks: Tasks, resources: Resources, access: Callable[[], PeerAccess], check_s: float
    ) -> None:
        self._tasks = tasks
        self._resources = resources
        self._access = access
        self._check_s = check_s
        self._agents: dict[Endpoint, Agent] = {}
        self._owners: dict[Endpoint, object] = {}
        self._removing: dict[Endpoint, asyncio.Future[None]] = {}
        self._progress: dict[str, Progress] = {}
        self._releases: dict[int, int] = {}
        self._suspects: dict[int, None] = {}
        self._supply = Supply(tasks)
        self._closed = False
        self._pulse: asyncio.TimerHandle | None = None

    def now_s(self) -> float:
        """Return the seconds since 1970."""
        return self._tasks.now_s()

    def all(self) -> list[tuple[Agent, bool]]:
        """Return every agent, and whether its worker came by itself."""
        return [(agent, self._owners.get(endpoint) is not None) for endpoint, agent in self._agents.items()]

    async def add(
        self,
        endpoint: Endpoint,
        name: str = "",
        concurrency: int = 0,
        owner: object = None,
        takes_batches: bool = False,
    ) -> Agent:
        """Feed the worker at an endpoint from now on.

        Parameters
        ----------
        name : str
            What it is called; the endpoint if empty.
        concurrency : int
            Tasks that it runs at a time; 0 means 1.
        owner : object, optional
            Who has to ask for the removal; a worker that comes again takes its endpoint over from its former self.
        takes_batches : bool
            Whether it serves TaskBatches.

        Raises
        ------
        AlreadyExists
            The endpoint is in use.
        InvalidArgument
            For a concurrency that cannot be.
        Unavailable
            The server stops.
        """
        if not 0 <= concurrency <= MAX_CONCURRENCY:
            raise InvalidArgument(f"concurrency: {concurrency}; it must be from 1 to {MAX_CONCURRENCY}")
        while endpoint in self._removing:
            await asyncio.shield(self._removing[endpoint])
        if self._closed:
            raise Unavailable("the server stops")
        found = self._agents.get(endpoint)
        if found is not None:
            if owner is None or self._owners.get(endpoint) is None:
                raise AlreadyExists(f"endpoint {endpoint} is in use already, by worker {found.name!r}")
            self._owners[endpoint] = owner
            return found
        agent = Agent(
            self._tasks, endpoint, name or str(endpoint), concurrency or 1, self._access, self._supply,
            self._resources, self._releases, self._suspects if takes_batches else None, self._check_s,
        )
        self._agents[endpoint] = agent
        self._owners[endpoint] = owner
        if self._pulse is None:
            self._beat()
        logger.info("a worker was added", extra={"endpoint": str(endpoint), "worker": agent.name})
        return agent

    async def remove(self, endpoint: Endpoint, grace_s: float | None = None, owner: object = None) -> None:
        """Feed a worker no more; returns when nothing runs there.

        Parameters
        ----------
        grace_s : float, optional
            What tasks get to end before they go back to the queue; None: as long as it takes.
        owner : object, optional
            As it was given to `add`; does nothing if the endpoint has another one by now.

        Raises
        ------
        NotFound
            There is no worker at that endpoint.
        """
        agent = self._agents.get(endpoint)
        if agent is None or (owner is not None and self._owners.get(endpoint) is not owner):
            if owner is not None:
                return
            raise NotFound(f"no worker is at endpoint {endpoint}")
        removal = self._removing.get(endpoint)
        if removal is None:
            removal = self._removing[endpoint] = asyncio.ensure_future(self._remove(endpoint, agent))
        if grace_s is not None:
            _, pending = await asyncio.wait([removal], timeout=grace_s)
            if pending:
                agent.release()
        await asyncio.shield(removal)

    def drain(self) -> None:
        """Have every agent take no further task."""
        self._closed = True
        for agent in self._agents.values():
            agent.leave()
        self._supply.close()

    async def stop(self, grace_s: float) -> None:
        """Give what runs so many seconds to end, and back to the queue what has not ended then."""
        self.drain()
        removals = [
            asyncio.ensure_future(self.remove(endpoint, grace_s)) for endpoint in list(self._agents)
        ]
        if removals:
            await asyncio.wait(removals)
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None

    # What workers tell of their tasks

    def note_progress(self, agent: Agent, progress: Progress) -> None:
        """Keep what a worker says of a task that it runs now; of any other it has nothing to say."""
        running = agent.running
        if progress.task_id not in running or not 0.0 <= progress.fraction <= 1.0:
            return
        if len(self._progress) > 2 * sum(other.concurrency for other in self._agents.values()):
            known = {task_id for other in self._agents.values() for task_id in other.running}
            self._progress = {task_id: told for task_id, told in self._progress.items() if task_id in known}
        self._progress[progress.task_id] = progress._replace(text=progress.text[:_MAX_TEXT])

    def progress(self, ids: Sequence[str] = ()) -> list[Progress]:
        """Return what tasks that run now have told, of all of them if none is named."""
        running = [task_id for agent in self._agents.values() for task_id in agent.running]
        wanted = set(ids)
        return [
            self._progress[task_id]
            for task_id in running
            if task_id in self._progress and (not wanted or task_id in wanted)
        ]

    async def _remove(self, endpoint: Endpoint, agent: Agent) -> None:
        try:
            await agent.left()
        finally:
            del self._agents[endpoint]
            del self._owners[endpoint]
            del self._removing[endpoint]
            logger.info("a worker was removed", extra={"endpoint": str(endpoint), "worker": agent.name})

    def _beat(self) -> None:
        self._supply.renew()
        for agent in self._agents.values():
            agent.renew()
        self._pulse = asyncio.get_running_loop().call_later(self._tasks.limits.heartbeat_s, self._beat)
