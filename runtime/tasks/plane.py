"""The task plane of a server: its store, its tasks, the services in front of them, the agents behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.store.opening import OpenedOnce, take_up
from runtime.tasks.inspector_service import InspectorService
from runtime.tasks.results_service import ResultsService
from runtime.tasks.service import SubmitterService
from runtime.tasks.submissions_service import SubmissionsService
from runtime.tasks.submitter_v3 import SubmitterV3Service
from runtime.tasks.uploads_service import UploadsService
from runtime.tasks.workers_service import WorkersService

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.plane import Handler
    from runtime.objects.files import FileObjects
    from runtime.observe.metrics import Family
    from runtime.store.sqlite.store import SqliteStore
    from runtime.tasks.agents.agents import Agents
    from runtime.tasks.tasks import Tasks

__all__ = ["OBJECTS_FOLDER", "TaskPlane", "create_plane"]

OBJECTS_FOLDER = "objects"
"""The folder of objects in a data directory."""


class TaskPlane:
    """The task plane; see `runtime.edge.plane.Plane`.

    The store is opened at the start when there is something in it, or when the data directory was chosen for this
    server; else by the first call, so that servers that never see a task write nothing.

    Parameters
    ----------
    settings : Settings
        Of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = OpenedOnce(settings.data_dir, self._make)
        self._objects: FileObjects | None = None
        self._agents: Agents | None = None
        self.submitter = SubmitterService(self.tasks, settings.data_chunk_max_size, settings.lenient_small_tasks)
        self.submitter_v3 = SubmitterV3Service(self.submitter)
        self.workers = WorkersService(self.agents)
        self.inspector = InspectorService(self.tasks, self.agents)
        self.results = ResultsService(self.tasks)
        self.submissions = SubmissionsService(
            self.tasks, settings.data_chunk_max_size, settings.lenient_small_tasks
        )
        self.uploads = UploadsService(self.tasks)

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        parts = (
            self.submitter, self.submitter_v3, self.workers, self.inspector, self.results, self.submissions,
            self.uploads,
        )
        return {name: methods for part in parts for name, methods in part.services().items()}

    async def start(self) -> None:
        """Take up the work that is in the store.

        Raises
        ------
        FailedPrecondition
            Another server uses the data directory that was chosen for this one.
        """
        await take_up(self._settings.data_dir, self._settings.data_is_chosen, self.tasks, "takes no tasks")
        if self._settings.task_workers:
            from runtime.tasks.agents.endpoint import Endpoint

            agents = await self.agents()
            for text in self._settings.task_workers:
                await agents.add(Endpoint.parse(text))

    async def agents(self) -> Agents:
        """Return the agents of this server, opening the store if need be; raises as `tasks`."""
        tasks = await self.tasks()
        if self._agents is None:
            from runtime.edge.peer_access import peer_access
            from runtime.tasks.agents.agents import Agents
            from runtime.tasks.agents.resources import FOLDER, Resources

            settings = self._settings
            resources = Resources(settings.data_dir / FOLDER)
            self._agents = Agents(tasks, resources, lambda: peer_access(settings), settings.task_check_s)
        return self._agents

    async def tasks(self) -> Tasks:
        """Return the tasks of this server, opening the store if need be.

        Raises
        ------
        Error
            If it cannot be opened; the next call tries again.
        """
        return await self._opened.get()

    async def metrics(self) -> list[Family]:
        """Return what the store and the agents have counted; nothing is opened for it."""
        from runtime.tasks.metrics import task_families

        return await task_families(self._opened.found, self._agents)

    def drain(self) -> None:
        """Let those go who wait for results: they ask the next server; start no further task."""
        if self._agents is not None:
            self._agents.drain()
        self.workers.drain()
        tasks = self._opened.found
        if tasks is not None:
            tasks.waiting.close()

    async def stop(self, grace: float) -> None:
        """End what goes on, and close the store."""
        tasks = await self._opened.stop()
        if tasks is None:
            return
        if self._agents is not None:
            await self._agents.stop(grace)
        await tasks.stop()
        assert self._objects is not None
        await self._objects.close()
        await self._opened.close()

    async def _make(self, store: SqliteStore) -> Tasks:
        from runtime.objects.files import FileObjects
        from runtime.store.sqlite.task_tables import SqliteTaskTables
        from runtime.tasks.delays import RetryDelay
        from runtime.tasks.tasks import Limits, Tasks

        settings = self._settings
        objects = self._objects = FileObjects(
            settings.data_dir / OBJECTS_FOLDER, arena_bytes=settings.task_arena_size
        )
        limits = Limits(
            chunk_bytes=settings.data_chunk_max_size,
            max_priority=settings.max_priority,
            lease_ttl_s=settings.task_lease_s,
            heartbeat_s=settings.task_heartbeat_s,
            cancel_grace_s=settings.task_cancel_grace_s,
            retry_delay=RetryDelay(settings.task_retry_delay_s, settings.task_retry_delay_max_s),
            retention_s=settings.task_retention_s,
        )
        tasks = Tasks(store.plane(SqliteTaskTables), objects, limits)
        await tasks.start()
        return tasks


def create_plane(settings: Settings) -> TaskPlane:
    """Return the task plane of a server; see `runtime.edge.plane`."""
    return TaskPlane(settings)
