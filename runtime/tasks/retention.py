"""How long sessions are kept: those in which nothing has happened for long go, and those that a client deletes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from runtime.errors import Error, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from runtime.store.tasks import TaskTables

if TYPE_CHECKING:
    from runtime.tasks.tasks import Tasks

__all__ = ["Retention", "begin", "delete_part"]

logger = logging.getLogger(__name__)

# Rows that go with one write: others have their turn between two of them.
_PART = 500
# Seconds between two looks for sessions whose time is over, unless they are kept for a shorter time.
_LOOK_S = 3600.0
# Seconds until a part is tried again when the store has failed.
_RETRY_S = 1.0


def begin(tables: TaskTables, session_id: str) -> int:
    """Take a session away, and leave its tasks and results to `delete_part`; return its number.

    Raises
    ------
    NotFound
        It does not exist.
    FailedPrecondition
        Something in it has not ended.
    """
    session = tables.session_by_id(session_id)
    if session is None:
        raise NotFound(f"session {session_id!r} is not known")
    left = tables.num_unfinished(session.number)
    if left:
        raise FailedPrecondition(
            f"session {session_id!r} has {left} tasks that have not ended: cancel it before, or wait for them"
        )
    tables.begin_deletion(session.number)
    return session.number


def delete_part(tables: TaskTables, session: int, limit: int = _PART) -> bool:
    """Remove some rows of a session that was taken away, with their references to objects; False at its end."""
    removed = tables.delete_part(session, limit)
    if removed is None:
        return False
    for status, number in removed.items():
        tables.count(session, status, -number)
    return True


class Retention:
    """Deletes sessions, a part at a time. Belongs to the loop of its `Tasks`.

    Parameters
    ----------
    tasks : Tasks
        Whose sessions.
    keep_s : float
        Seconds since the last change in a session after which it goes, by itself; 0: never.
    """

    def __init__(self, tasks: Tasks, keep_s: float) -> None:
        self._tasks = tasks
        self._keep_s = keep_s
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self, left: list[int]) -> None:
        """Go on with deletions that the last server has begun, and look for sessions from time to time."""
        for number in left:
            self._tasks.in_background(self._remove(number))
        self._arm()

    def close(self) -> None:
        """Delete no more; the next start goes on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def delete(self, session_id: str) -> None:
        """Delete a session with its tasks and results; returns when nothing of it is left.

        Whoever waits may go away. What is asked for a session of that id meanwhile finds none, but ids of its tasks
        are in use until they are gone.

        Raises
        ------
        NotFound
            It does not exist.
        FailedPrecondition
            Something in it has not ended.
        """
        number = await self._tasks.store.write(lambda tables: begin(tables, session_id))
        await self._tasks.shielded(self._remove(number))

    async def look(self) -> int:
        """Delete the sessions in which nothing has happened for long enough; return how many there were."""
        since_s = self._tasks.now_s() - self._keep_s
        quiet = await self._tasks.store.read_in_thread(lambda tables: tables.quiet_sessions(since_s))
        deleted = 0
        for number, session_id, last in quiet:

            def take(tables: TaskTables, number: int = number, session_id: str = session_id, last: int = last) -> bool:
                session = tables.session_by_id(session_id)
                is_the_same = session is not None and session.number == number
                # Whatever was made meanwhile keeps it.
                if not is_the_same or tables.last_task(number) != last or tables.num_unfinished(number):
                    return False
                begin(tables, session_id)
                return True

            if await self._tasks.store.write(take):
                logger.info("a session is deleted, nothing has happened in it", extra={"session": session_id})
                await self._remove(number)
                deleted += 1
        return deleted

    async def _remove(self, number: int) -> None:
        while not self._closed:
            try:
                if not await self._tasks.store.write(lambda tables: delete_part(tables, number)):
                    return
            except (ResourceExhausted, Unavailable) as error:
                # Nobody else goes on with it before the next start.
                if self._closed:
                    raise
                logger.warning("the rest of a session cannot be deleted yet: %s", error)
                await asyncio.sleep(_RETRY_S)

    def _arm(self) -> None:
        if self._keep_s and not self._closed:
            wait_s = min(self._keep_s / 4, _LOOK_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin_look)

    def _begin_look(self) -> None:
        self._tasks.in_background(self._look_and_arm())

    async def _look_and_arm(self) -> None:
        try:
            await self.look()
        except Error as error:
            logger.warning("sessions whose time is over could not be deleted yet: %s", error)
        finally:
            self._arm()
