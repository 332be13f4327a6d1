"""What the parts of a task plane stand on: its store and objects, values that are held, work that goes on by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from runtime.errors import Error, InvalidArgument
from runtime.objects.objects import ObjectStore, ValueWriter
from runtime.objects.value import Value
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks import creation
from runtime.tasks.leases import LeaseLost
from runtime.tasks.limits import Limits
from runtime.tasks.model import TaskOptions

__all__ = ["Core"]

logger = logging.getLogger(__name__)

_V = TypeVar("_V")

_MAX_DURATION_NS = 315_576_000_000 * 1_000_000_000
# Session ids that are kept at hand for leases.
_SESSIONS_KEPT = 65536


class Core:
    """The ground of `runtime.tasks.tasks.Tasks`, which says what the parameters are."""

    def __init__(
        self,
        store: TaskStore,
        objects: ObjectStore,
        limits: Limits | None = None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.objects = objects
        self.limits = limits or Limits()
        self.now_s = now_s
        self._loop = asyncio.get_running_loop()
        self._session_ids: dict[int, str] = {}
        self._background: dict[asyncio.Future[Any], None] = {}

    def check_options(self, options: TaskOptions) -> None:
        """Raise InvalidArgument for options that no task may have."""
        if options.max_retries < 1:
            raise InvalidArgument(f"task options: max_retries is {options.max_retries}, it must be at least 1")
        if not 1 <= options.priority <= 99:
            raise InvalidArgument(f"task options: priority is {options.priority}, it must be from 1 to 99")
        if not 0 < options.max_duration_ns <= _MAX_DURATION_NS:
            raise InvalidArgument(
                f"task options: max_duration is {options.max_duration_ns / 1e9:g} s, it must be positive, and at most "
                f"{_MAX_DURATION_NS / 1e9:.0f} s"
            )
        if options.priority >= self.limits.max_priority:
            most = self.limits.max_priority
            raise InvalidArgument(
                f"Max priority is {most}: task options: priority is {options.priority}, it must be below that"
            )

    def read(self, value: Value, chunk_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Return the pieces of a value; of at most `Limits.chunk_bytes` unless said otherwise."""
        return self.objects.read(value, chunk_bytes or self.limits.chunk_bytes)

    def writer(self, inline_bytes: int | None = None) -> ValueWriter:
        """Return a writer for the payload of a task that is to be made.

        Parameters
        ----------
        inline_bytes : int, optional
            Values of at most so many bytes stay bytes; None: as many as the object store says.
        """
        return self.objects.writer(inline_bytes)

    def discard(self, values: Iterable[Value]) -> None:
        """Let values go that were written and that nobody will refer to."""
        self.let_go([value for value in values if value.ref is not None])

    def session_id(self, tables: TaskTables, number: int) -> str:
        """Return the id of a session by its number."""
        found = self._session_ids.get(number)
        if found is None:
            if len(self._session_ids) >= _SESSIONS_KEPT:
                self._session_ids.clear()
            found = self._session_ids[number] = tables.session(number).id
        return found

    async def shielded(self, work: Coroutine[Any, Any, _V]) -> _V:
        """Do work that goes on when its caller goes away."""
        task = self._loop.create_task(work)
        self._background[task] = None
        task.add_done_callback(lambda done: self._background.pop(done, None))
        return await asyncio.shield(task)

    def in_background(self, work: Any) -> None:
        """Do work for which nobody waits; `stop` does."""
        future = asyncio.ensure_future(work)
        self._background[future] = None
        future.add_done_callback(self._background_done)

    def _background_done(self, future: asyncio.Future[Any]) -> None:
        self._background.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, LeaseLost):
            logger.warning("work of the task plane failed: %s", error)

    def let_go(self, values: Sequence[Value], *, are_stored: bool = False) -> None:
        """Hold these values no longer, and remove those that no row refers to.

        Parameters
        ----------
        are_stored : bool
            Whether rows have referred to them: then those that are nobody else's are removed with the last row.
        """
        if not values:
            return
        self.objects.let_go(values)
        refs = [value.ref for value in values if value.ref is not None]
        digests = [ref.digest for ref in refs if ref.is_shared or not are_stored]
        if not digests:
            return
        try:
            referred = self.store.read(lambda tables: tables.referred(digests))
        except Error:
            return  # the next start finds them
        for digest in digests:
            if digest not in referred:
                self.objects.remove(digest)

    async def _referred(self, digests: list[bytes]) -> set[bytes]:
        return await self.store.read_in_thread(lambda tables: tables.referred(digests))

    async def _create(
        self, held: Sequence[Value], write: asyncio.Future[tuple[str, ...]]
    ) -> tuple[str, ...]:
        """Wait for a creation whose payloads are held; the ids that stand against it are an answer, no error."""
        try:
            # What is being written must not be let go because its caller has gone.
            return await (self.shielded(self._write_held(write, held)) if held else write)
        except creation.Refused as refused:
            return refused.ids

    async def _write_held(self, write: asyncio.Future[_V], held: Sequence[Value]) -> _V:
        try:
            found = await write
        except BaseException:
            self.let_go(held)
            raise
        self.let_go(held, are_stored=True)
        return found
