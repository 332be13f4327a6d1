"""The two directions of a command's output: a session that takes what a call sends, and following what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from runtime.commands.checks import MAX_LOG_BYTES, check_id, check_text, log_type
from runtime.commands.log_records import NO_SEQUENCE, Record, split
from runtime.commands.logs import LogFile, Logs
from runtime.commands.model import TERMINAL, Caller, Status
from runtime.errors import Aborted, InvalidArgument, Unavailable
from runtime.store.commands import CommandStore

if TYPE_CHECKING:
    from runtime.commands.commands import Commands

__all__ = ["LATE_S", "LogSession", "follow"]

LATE_S = 5.0
"""How long after its end a command's output is waited for while somebody still sends it."""


class LogSession:
    """Takes entries in the order in which they come. To be closed, whatever happens.

    Parameters
    ----------
    caller : Caller
        A worker that says who it is may send for what it has, in the attempt that it names.
    """

    def __init__(self, store: CommandStore, logs: Logs, caller: Caller) -> None:
        self._store = store
        self._logs = logs
        self._caller = caller
        self._open = ExitStack()
        self._attempts: dict[int, int] = {}
        self._files: dict[LogFile, int] = {}
        self._sequence: int | None = None

    def number_from(self, sequence: int) -> None:
        """Say that lines are numbered from here on: those that are there already are left out."""
        self._sequence = sequence

    async def add(self, number: int, type_name: str, text: str) -> None:
        """Take an entry.

        Raises
        ------
        NotFound
            There is no such command.
        InvalidArgument
            For a type that does not exist, or a text that is too long.
        Aborted
            The caller is a worker that does not have this command, or not any more.
        ResourceExhausted, Unavailable
            If the disk takes no more.
        """
        attempt = self._attempts.get(number)
        if attempt is None:
            attempt = self._begin(number)
        log_type(type_name)
        check_text(text, "log_text", MAX_LOG_BYTES)
        sequence = NO_SEQUENCE
        if self._sequence is not None:
            if len(self._attempts) > 1:
                raise InvalidArgument("task_id: a stream of numbered lines is of one task")
            sequence, self._sequence = self._sequence, self._sequence + len(split(text))
        file = await self._logs.append(number, type_name, text, attempt, sequence)
        self._files[file] = number

    async def finish(self) -> None:
        """Wait until all of it is on disk."""
        await self._logs.sync(self._files)

    def close(self) -> None:
        """Say that this session sends no more."""
        self._open.close()

    def _begin(self, number: int) -> int:
        check_id(number, "task_id")
        state = self._store.read(lambda rows: rows.state_of(number))
        if state is None:
            raise self._store.read(lambda rows: rows.unknown(number))
        _, worker, attempt, _ = state
        caller = self._caller
        if caller.worker and (worker != caller.worker or (caller.attempt and caller.attempt != attempt)):
            raise Aborted(f"task {number}: worker {caller.worker} does not have it; it is in attempt {attempt}")
        self._attempts[number] = attempt
        self._open.enter_context(self._logs.sending(number))
        return attempt


async def follow(commands: Commands, number: int, start: int, follows: bool) -> AsyncIterator[list[Record]]:
    """Yield a command's output in pieces: what there is, then what comes, until the command has ended and all is told.

    Parameters
    ----------
    start : int
        Entries that are left out at the begin: the caller has them already.
    follows : bool
        False: end with what there is.

    Raises
    ------
    NotFound
        There is no such command.
    Unavailable
        The server stops; whoever follows may go on behind what it has with the next server.
    """
    logs = commands.logs
    position, skip = 0, start
    with logs.following(number) as event:
        while True:
            event.clear()
            state = commands.store.read(lambda rows: rows.state_of(number))
            if state is None:
                raise commands.store.read(lambda rows: rows.unknown(number))
            left = _time_left(state[0], state[3], commands.now_s())
            is_over = not follows or (left is not None and (logs.is_complete(number) or left <= 0))
            is_written = logs.is_written(number)
            records, position = await logs.read(number, position)
            if records:
                if skip < len(records):
                    yield records[skip:]
                skip = max(0, skip - len(records))
                continue
            if is_over and is_written:
                return
            if commands.is_stopping:
                raise Unavailable(f"task {number}: the server stops; ask again, with what you have left out")
            # What ended while somebody still sends is looked at again when their time is over.
            try:
                async with asyncio.timeout(left if left else None):
                    await event.wait()
            except TimeoutError:
                pass


def _time_left(status: Status, ended_s: float, now_s: float) -> float | None:
    """Return for how many seconds an ended command's output is still waited for; None for one that has not ended."""
    if status not in TERMINAL:
        return None
    return max(0.0, min(LATE_S, LATE_S - (now_s - ended_s)))
