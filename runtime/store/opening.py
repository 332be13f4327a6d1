"""One store for all planes of a server: opened by the first that needs it, closed by the last."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runtime.errors import Error, FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from runtime.store.sqlite.store import SqliteStore

__all__ = ["FILE_NAME", "TABLES", "OpenedOnce", "SharedStores", "take_up"]

V = TypeVar("V")

logger = logging.getLogger(__name__)

FILE_NAME = "store.db"
"""The store's file in a data directory."""

TABLES: tuple[str, ...] = (
    "runtime.store.sqlite.object_tables:ObjectTables",
    "runtime.store.sqlite.task_tables:SqliteTaskTables",
    "runtime.store.sqlite.fleet_tables:FleetTables",
    "runtime.store.sqlite.command_tables:CommandTables",
)
"""The tables of every plane, ``module:class``; a file has all of them, whichever planes are served."""


async def take_up(data_dir: Path, is_chosen: bool, begin: Callable[[], Awaitable[object]], lacks: str) -> None:
    """Have a plane take up what the store has from before, when its server starts.

    Parameters
    ----------
    data_dir : Path
    is_chosen : bool
        Whether the data directory is this server's own (`runtime.config.Settings.data_is_chosen`). If not, nothing is
        made before it is needed, and the server does without the plane when another one has the store.
    begin : callable
        Opens the store and begins.
    lacks : str
        What is logged of a server that does without: ``this server ...``.

    Raises
    ------
    FailedPrecondition
        Another server uses the data directory that was chosen for this one.
    """
    if not is_chosen and not (data_dir / FILE_NAME).exists():
        return
    try:
        await begin()
    except FailedPrecondition as error:
        if is_chosen:
            raise
        # Several servers of one user are usual, for graphs at least.
        logger.warning("this server %s: %s", lacks, error)


class SharedStores:
    """The stores that the planes of this process have open."""

    _open: dict[tuple[int, Path], tuple[asyncio.Future[SqliteStore], int]] = {}  # noqa: RUF012 - of the process

    @classmethod
    async def open(cls, data_dir: Path) -> SqliteStore:
        """Return the store of a data directory on the running loop; `close` it when it is no longer needed.

        Raises
        ------
        FailedPrecondition
            Another server has it open, or it is not for this version.
        DataLoss, Unavailable, ResourceExhausted
            It is damaged, or cannot be opened or written.
        """
        loop = asyncio.get_running_loop()
        key = id(loop), data_dir
        opening, users = cls._open.get(key, (None, 0))
        if opening is None:
            # Servers that keep nothing do without the database.
            from runtime.store.sqlite.store import SqliteStore

            tables: list[Any] = []
            for name in TABLES:
                module, _, attribute = name.partition(":")
                tables.append(getattr(importlib.import_module(module), attribute))
            opening = asyncio.ensure_future(SqliteStore.open(data_dir / FILE_NAME, tables))
        cls._open[key] = opening, users + 1
        try:
            return await asyncio.shield(opening)
        except BaseException:
            cls._leave(key)
            raise

    @classmethod
    async def close(cls, data_dir: Path) -> None:
        """Give the store back."""
        store = cls._leave((id(asyncio.get_running_loop()), data_dir))
        if store is not None:
            await store.close()

    @classmethod
    def _leave(cls, key: tuple[int, Path]) -> SqliteStore | None:
        opening, users = cls._open[key]
        if users > 1:
            cls._open[key] = opening, users - 1
            return None
        del cls._open[key]
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            return opening.result()
        return None


class OpenedOnce(Generic[V]):
    """What a plane makes of the store of its data directory: made by the first call that needs it.

    Parameters
    ----------
    data_dir : Path
    make : callable
        ``async def make(store)``; when it fails the store is given back, and the next call tries again.
    """

    def __init__(self, data_dir: Path, make: Callable[[SqliteStore], Awaitable[V]]) -> None:
        self._data_dir = data_dir
        self._make = make
        self._opening: asyncio.Task[V] | None = None
        self._stopping = False

    async def get(self) -> V:
        """Return it, opening the store if need be.

        Raises
        ------
        Error
            If that fails, or `stop` was called.
        """
        if self._stopping:
            raise Unavailable("the server stops")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except Error:
            if self._opening is opening:
                self._opening = None
            raise

    @property
    def found(self) -> V | None:
        """What was made, if it was."""
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception() is not None:
            return None
        return opening.result()

    async def stop(self) -> V | None:
        """Open nothing more, and return what is open; the caller ends it, and gives the store back with `close`."""
        self._stopping = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
        return self.found

    async def close(self) -> None:
        """Give the store back."""
        await SharedStores.close(self._data_dir)

    async def _open(self) -> V:
        from runtime.store import failpoints

        failpoints.load()
        store = await SharedStores.open(self._data_dir)
        try:
            return await self._make(store)
        except BaseException:
            await SharedStores.close(self._data_dir)
            raise
