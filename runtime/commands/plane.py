"""The command plane of a server: its store, its commands and workers, and the service in front of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.commands.model import Rules
from runtime.commands.service import TaskQueueService
from runtime.store.opening import OpenedOnce, take_up

if TYPE_CHECKING:
    from runtime.commands.commands import Commands
    from runtime.commands.workforce import Workforce
    from runtime.config import Settings
    from runtime.edge.plane import Handler
    from runtime.observe.metrics import Family
    from runtime.store.sqlite.store import SqliteStore

__all__ = ["LOGS_FOLDER", "WORKERS_FOLDER", "CommandPlane", "create_plane"]

LOGS_FOLDER = "command-logs"
"""The folder of commands' output in a data directory."""
WORKERS_FOLDER = "workers"
"""The folder of workers that are processes of this server's, in a data directory."""


class CommandPlane:
    """The command plane; see `runtime.edge.plane.Plane`.

    The store is opened at the start when there is something in it, or when the data directory was chosen for this
    server; else by the first call.

    Parameters
    ----------
    settings : Settings
        Of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = OpenedOnce(settings.data_dir, self._make)
        self._service = TaskQueueService(self._opened.get)

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return self._service.services()

    async def start(self) -> None:
        """Take up the commands that are in the store.

        Raises
        ------
        FailedPrecondition
            Another server uses the data directory that was chosen for this one.
        """
        settings = self._settings
        await take_up(settings.data_dir, settings.data_is_chosen, self._opened.get, "takes no commands")

    async def metrics(self) -> list[Family]:
        """Return what has been counted of commands and workers; nothing is opened for it."""
        from runtime.commands.metrics import command_families

        found = self._opened.found
        return await command_families(None if found is None else found[0])

    def drain(self) -> None:
        """Let those go who wait for output or for work: they ask the next server."""
        found = self._opened.found
        if found is not None:
            found[0].drain()

    async def stop(self, grace: float) -> None:
        """End what goes on, and close the store. Workers that were made here go on."""
        found = await self._opened.stop()
        if found is None:
            return
        commands, workforce = found
        await workforce.stop()
        await commands.stop()
        await self._opened.close()

    async def _make(self, store: SqliteStore) -> tuple[Commands, Workforce]:
        from runtime.commands.commands import Commands
        from runtime.commands.logs import Logs
        from runtime.commands.workforce import Workforce
        from runtime.providers.base import Surroundings, load
        from runtime.store.sqlite.command_tables import CommandTables

        settings = self._settings
        rules = rules_of(settings)
        logs = Logs(settings.data_dir / LOGS_FOLDER, rules.log_limit, time.time)
        commands = Commands(store.plane(CommandTables), logs, rules)
        await commands.start()
        surroundings = Surroundings(
            address=settings.listen,
            folder=settings.data_dir / WORKERS_FOLDER,
            prefix=rules.server_name,
            allows_bare=settings.command_local_bare,
            token_file=settings.command_worker_token_file,
            ca_file=settings.command_worker_ca,
            uses_tls=settings.tls_cert is not None,
            needs_token=settings.token_file is not None,
        )
        workforce = Workforce(commands, {name: load(name, surroundings) for name in settings.command_providers})
        await workforce.start()
        return commands, workforce


def rules_of(settings: Settings) -> Rules:
    """Return what the settings say of commands."""
    return Rules(
        offline_s=settings.command_offline_s,
        evict_s=settings.command_evict_s,
        redelivery_s=settings.command_redelivery_s,
        max_attempts=settings.command_max_attempts,
        on_lost=settings.command_on_lost,
        on_restart=settings.command_on_restart,
        default_container=settings.command_default_container,
        request_sets_concurrency=settings.command_request_sets_concurrency,
        log_limit=settings.command_log_limit,
        retention_s=settings.command_retention_s,
        server_name=settings.command_server_name,
        max_workers=settings.command_max_workers,
        register_s=settings.command_register_s,
    )


def create_plane(settings: Settings) -> CommandPlane:
    """Return the command plane of a server; see `runtime.edge.plane`."""
    return CommandPlane(settings)
