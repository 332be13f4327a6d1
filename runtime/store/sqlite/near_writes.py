"""Writes that are run on the loop itself: those that need nothing but a record in the log, while that is quick.

A write in the thread costs two changes of threads, which take longer than a single task's rows do. What is run here
holds the writer's connection from the first write until its record is durable; and as that blocks the loop, it is done
as long as the log has been taking fractions of a millisecond.

A task that is made for an idle worker may end before its making could be on disk: such a write waits a moment for the
next one, and both are one record, one sync, and one message to whoever made the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from runtime.store.sqlite.writer import GroupWriter, Tables, Write, call_all
from runtime.store.store import Wait

__all__ = ["NearWrites"]

# As long as the log takes no longer than this for a record, in the mean; and how many writes are run together at most.
_QUICK_S = 0.0005
_MOST = 16
# How long a write waits for its next at most. The loop's timers have milliseconds.
_LINGER_S = 0.002
# How many writes do not wait after one that has waited in vain, at first and at most.
_FIRST_PAUSE, _LAST_PAUSE = 8, 1024

Effects = Sequence[Callable[[], None]]


class NearWrites:
    """Belongs to the loop on which it was made.

    Parameters
    ----------
    writer : GroupWriter
    has_thread : bool
        Whether a thread uses the writer, too, in its `turn`.
    put : callable
        Called with a write that is to be run in the thread.
    put_end : callable
        Called when the thread is to call `end_away`.
    tailed : callable
        Called when there is a tail where there was none.

    Attributes
    ----------
    is_mine : bool
        Whether the writer is used here.
    ended_s : float
        The time, by `time.monotonic`, at which writes were made durable here last.
    """

    def __init__(
        self,
        writer: GroupWriter,
        has_thread: bool,
        *,
        put: Callable[[Write], None],
        put_end: Callable[[], None],
        tailed: Callable[[], None],
    ) -> None:
        self._turn = threading.Lock()
        self._is_wanted = False
        self.is_mine = False
        self.ended_s = 0.0
        self._writer = writer
        self._has_thread = has_thread
        self._put = put
        self._put_end = put_end
        self._tailed = tailed
        self._loop = asyncio.get_running_loop()
        self._writes: list[Write] = []
        self._is_due = self._must_end = self._had_tail = False
        # What is to be called when the writer is in others' hands again.
        self._effects: list[Callable[[], None]] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._pause = self._left_of_pause = 0

    def takes(self, tables: Tables, is_idle: bool) -> bool:
        """Return whether a write that may wait is to be run here; if so, `add` is called next.

        Parameters
        ----------
        is_idle : bool
            Whether the thread has nothing that comes before it.
        """
        if self.is_mine:
            return len(self._writes) < _MOST and tables.has_room
        if not is_idle or self._is_wanted or not tables.has_room or self._writer.append_s > _QUICK_S:
            return False
        self.is_mine = self._turn.acquire(blocking=False)
        self._had_tail = self._writer.has_tail
        return self.is_mine

    def add(self, write: Write) -> None:
        """Run a write soon."""
        self._writes.append(write)
        if not self._is_due:
            self._is_due = True
            # Others of the same turn of the loop come along.
            self._loop.call_soon(self._run)

    def leave(self) -> None:
        """Commit what was run here, and give the rest to the thread: what comes next comes behind."""
        if not self.is_mine:
            return
        if effects := self._end():
            # Whoever writes or reads now does not expect others to do something before that returns.
            self._loop.call_soon(call_all, effects)
        writes, self._writes = self._writes, []
        for write in writes:
            self._put(write)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the writer for the thread: nothing more is begun here until it has it."""
        self._is_wanted = True
        with self._turn:
            self._is_wanted = False
            yield

    def end_away(self) -> None:
        """Commit what was run on the loop; in the thread."""
        self._writer.end(only_log=False)
        self._turn.release()

    def tell(self, functions: Effects) -> bool:
        """Call what a group that is run here wants to be called, now or when it is committed; False if none is."""
        if self._effects is not None:
            self._effects += functions
        elif self.is_mine:
            call_all(functions)
        else:
            return False
        return True

    def _run(self) -> None:
        self._is_due = False
        writes, self._writes = self._writes, []
        if not writes:
            return
        if not self._are_to_wait(writes):
            self._must_end = True
        for write in writes:
            if self.is_mine:
                self._writer.join(write)
            else:
                self._put(write)  # who was told of one before it has read or written something else at once
        if not self.is_mine or self._writes:
            return  # those that came meanwhile are next
        if self._must_end:
            call_all(self._end())
        elif self._lingering is None:
            self._lingering = self._loop.call_later(_LINGER_S, self._lingered)

    def _are_to_wait(self, writes: Sequence[Write]) -> bool:
        """Return whether the next write is waited for, which is to be made durable together with these."""
        for write in writes:
            if write.wait is not Wait.FOR_NEXT:
                if self._lingering is not None:
                    self._pause = 0  # it has come
                return False
        if self._left_of_pause:
            self._left_of_pause -= 1
            return False
        return True

    def _lingered(self) -> None:
        """What was waited for has not come."""
        self._pause = self._left_of_pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LAST_PAUSE)
        call_all(self._end())

    def _end(self) -> Effects:
        """Commit what was run here, in the thread if that takes more than the log; return what is to be called now."""
        self._must_end = False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        effects: list[Callable[[], None]] = []
        self._effects = effects
        try:
            is_ended = self._writer.end(only_log=self._has_thread)
        finally:
            self._effects = None
        self.is_mine = False
        if not is_ended:
            self._put_end()
            return effects
        self.ended_s = time.monotonic()
        has_tail = self._writer.has_tail
        self._turn.release()
        if has_tail and not self._had_tail:
            self._tailed()
        return effects
