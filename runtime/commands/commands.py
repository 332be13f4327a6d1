"""The command plane's domain object: what the service calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from runtime.commands import lost, scheduling, transitions
from runtime.commands.checks import (
    MAX_COMMAND_BYTES,
    MAX_CONCURRENCY,
    MAX_CONTAINER_BYTES,
    check_id,
    check_name,
    check_text,
)
from runtime.commands.deliveries import CANCEL_NOTICE_S, Deliveries
from runtime.commands.limits import CommandLimits
from runtime.commands.log_records import Record
from runtime.commands.log_streams import LogSession, follow
from runtime.commands.logs import Logs
from runtime.commands.model import (
    Caller,
    CommandChange,
    CommandRow,
    Rules,
    Status,
    WorkerRow,
    WorkerStatus,
)
from runtime.commands.pings import PingAnswer, Pings
from runtime.commands.presence import Presence
from runtime.commands.remarks import Remarks
from runtime.commands.retention import Retention
from runtime.commands.sweep import Sweep
from runtime.errors import Aborted, Error, InvalidArgument, NotFound
from runtime.store.commands import CommandRows, CommandStore

__all__ = ["Commands"]

_V = TypeVar("_V")


class Commands:
    """Commands and workers of one server. Belongs to the loop on which it was made.

    Parameters
    ----------
    store : CommandStore
        Where they are kept.
    logs : Logs
        Where their output is kept.
    rules : Rules
        Times and limits.
    clock : callable
        Seconds, never going back.
    now_s : callable
        Seconds since 1970, for dates that are shown.

    Notes
    -----
    Awaitables resolve when what they did is on disk. Errors are those of :mod:`runtime.errors`.
    """

    def __init__(
        self, store: CommandStore, logs: Logs, rules: Rules, *, clock: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.logs = logs
        self.rules = rules
        self.now_s = now_s
        self.presence = Presence(clock)
        self.deliveries = Deliveries(rules.redelivery_s, clock)
        self.clock = clock
        # Workers whose registration is being written; the writer's thread adds to it.
        self._arriving: dict[int, bool] = {}
        self._stopping = asyncio.Event()
        self._pings = Pings(self)
        self._sweep = Sweep(self)
        self._retention = Retention(self)
        self._beside: list[asyncio.Task[None]] = []
        self._remarks = Remarks(logs)
        # Since this server began: commands that were submitted, and how often one came into each status afterwards.
        self.num_submitted = 0
        self.num_changes: Counter[Status] = Counter()
        self._watchers: list[Callable[[CommandChange], None]] = [self.deliveries.changed, self._remarks.changed]
        store.watch(self._changed)

    async def start(self) -> None:
        """Take up what the last server left. To be called once, before anything else.

        What is assigned is offered again; workers get the usual time from now on to show themselves.
        """
        now_s = self.now_s()

        def look(rows: CommandRows) -> tuple[list[WorkerRow], list[tuple[int, int]], list[tuple[int, int, float]]]:
            return rows.workers(), rows.assigned(), rows.cancelled_since(now_s - CANCEL_NOTICE_S)

        workers, assigned, cancelled = self.store.read(look)
        for worker in workers:
            if worker.status is not WorkerStatus.INSTALLING:
                self.presence.expect(worker.number)
        for number, holder in assigned:
            self.deliveries.assign(holder, number)
        for number, holder, time_s in cancelled:
            self.deliveries.notice_cancelled(holder, number, max(0.0, now_s - time_s))
        self._beside = [asyncio.ensure_future(self._sweep.run()), asyncio.ensure_future(self._retention.run())]

    def drain(self) -> None:
        """Let those go who wait: they ask the next server."""
        self._stopping.set()
        self.deliveries.close()
        self.logs.wake_all()

    async def stop(self) -> None:
        """End what goes on. The store is closed by others."""
        self.drain()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._remarks.finish()
        await self.logs.close()

    @property
    def is_stopping(self) -> bool:
        """Whether followers shall go."""
        return self._stopping.is_set()

    # Commands

    async def submit(self, text: str, container: str, request: str = "") -> int:
        """Store a command to be run; returns its id.

        Parameters
        ----------
        text : str
            What ``sh -c`` gets, at most 1 MiB.
        container : str
            At most 4 KiB; empty for the default.
        request : str
            Names the request, so that one which is sent again makes no second command; empty for none.

        Raises
        ------
        InvalidArgument
            For texts that cannot be stored, no command at all, or limits in it that cannot be
            (`runtime.commands.limits`).
        """
        if not text:
            raise InvalidArgument("command: must not be empty")
        check_text(text, "command", MAX_COMMAND_BYTES)
        check_text(container, "container", MAX_CONTAINER_BYTES)
        CommandLimits.of_command(text)  # better told now than by the worker
        container = container or self.rules.default_container
        now_s = self.now_s()

        def insert(rows: CommandRows) -> tuple[int, bool]:
            if request:
                known = rows.requested(request)
                if known is not None:
                    return known, False
            command = rows.insert_command(text, container, now_s, request)
            rows.add_event(command, None, 0)
            rows.at_end(self._assign)
            return command.number, True

        number, is_new = await self.store.write(insert)
        self.num_submitted += is_new
        return number

    async def update(self, number: int, after: Status, caller: Caller) -> CommandRow:
        """Change a command's status as a worker reports it or an operator asks; see `transitions.update`."""
        check_id(number, "task_id")
        inferred = 0
        if caller.worker:
            self.presence.touch(caller.worker)
        else:
            inferred = self.presence.behind(caller.peer)
        now_s = self.now_s()

        def change(rows: CommandRows) -> CommandRow:
            command = transitions.update(rows, number, after, caller, inferred, now_s)
            rows.at_end(self._assign)
            return command

        command = await self.store.write(change)
        if after is Status.CANCELLED and caller.worker:
            self.deliveries.confirm_cancelled(caller.worker, number)
        return command

    async def list_commands(
        self, letters: str, first: int, limit: int, offset: int,
        convert: Callable[[list[tuple[int, str, str, str]]], _V],
    ) -> _V:
        """Return commands by ascending id, as ``convert`` makes them of number, text, container and status.

        Parameters
        ----------
        letters : str
            Statuses that are wanted; empty for all.
        first : int
            Those from this id on.
        limit, offset : int
            How many at most (-1 for all), and how many of them are left out.
        convert : callable
            Called in a thread: lists may be long.
        """
        statuses = sorted(set(letters)) if letters else None
        return await self.store.read_in_thread(lambda rows: convert(rows.commands(statuses, limit, offset, first)))

    # Workers

    async def register(
        self, name: str, concurrency: int | None, caller: Caller, owned: Mapping[int, int] | None = None
    ) -> int:
        """Take note of a worker's process; returns the worker's id.

        Parameters
        ----------
        concurrency : int, optional
            None: 1. Of a worker that is known, the stored one counts unless the rules say otherwise.
        owned : mapping of int to int, optional
            Commands that the process has taken over from the one before it, with their attempts.

        Raises
        ------
        InvalidArgument
            For a name or a number that cannot be used.
        """
        check_name(name, "name")
        _check_concurrency(concurrency)
        now_s = self.now_s()

        def change(rows: CommandRows) -> tuple[int, bool]:
            worker = rows.worker_named(name)
            is_anew = False
            if worker is None:
                worker = WorkerRow(
                    0, name, WorkerStatus.READY, 1 if concurrency is None else concurrency, instance=caller.instance,
                    created_s=now_s, seen_s=now_s,
                )
                rows.insert_worker(worker)
            else:
                # The same process may register twice: its answer was lost, say.
                is_anew = not (caller.instance and caller.instance == worker.instance)
                if is_anew:
                    lost.restarted(rows, worker, owned, self.rules, now_s)
                lost.is_back(worker)
                if worker.status is WorkerStatus.INSTALLING:
                    worker.status = WorkerStatus.READY
                if self.rules.request_sets_concurrency and concurrency is not None and not worker.is_managed:
                    worker.concurrency = concurrency
                worker.instance, worker.seen_s, worker.cause = caller.instance, now_s, ""
                rows.update_worker(worker)
            # It gets its share in this very write.
            self._arriving[worker.number] = bool(caller.instance)
            arrived.append(worker.number)
            rows.at_end(self._assign)
            return worker.number, is_anew

        arrived: list[int] = []
        try:
            number, is_anew = await self.store.write(change)
            self.presence.hear(number, caller.peer, bool(caller.instance))
        finally:
            for arriving in arrived:
                self._arriving.pop(arriving, None)
        if is_anew:
            self.deliveries.renew(number)
        return number

    async def ping(
        self, number: int, caller: Caller, owned: Mapping[int, int] | None = None, hold_s: float = 0.0
    ) -> PingAnswer:
        """Take note that a worker lives, and return what there is for it.

        Parameters
        ----------
        owned : mapping of int to int, optional
            The commands that the worker thinks it has, with their attempts.
        hold_s : float
            How long to wait for something when there is nothing.

        Raises
        ------
        NotFound
            The worker is not known, or was deleted.
        Aborted
            Another process has registered under its name.
        """
        return await self._pings.ping(number, caller, owned, hold_s)

    def workers(self) -> list[WorkerRow]:
        """Return all workers that are not deleted, by id."""
        return self.store.read(lambda rows: rows.workers())

    # Output

    def log_session(self, caller: Caller) -> LogSession:
        """Return what takes the output that one call sends.

        Raises
        ------
        Aborted
            The caller is a worker that another process has replaced.
        """
        if caller.worker:
            self.worker_that_calls(caller.worker, caller, gone=Aborted)
            self.presence.touch(caller.worker)
        return LogSession(self.store, self.logs, caller)

    def follow(self, number: int, start: int, follows: bool) -> AsyncIterator[list[Record]]:
        """Return a command's output from the entry at ``start``; see `runtime.commands.log_streams.follow`."""
        check_id(number, "task_id")
        return follow(self, number, start, follows)

    # Inside

    def watch(self, watcher: Callable[[CommandChange], None]) -> None:
        """Call ``watcher`` with every change of a command's status once it is on disk."""
        self._watchers.append(watcher)

    def deleted(self, number: int) -> None:
        """Forget a worker that was deleted."""
        self._pings.forget(number)
        self.presence.forget(number)

    def assign_soon(self, rows: CommandRows) -> None:
        """Have the group of writes that this belongs to end with an assignment."""
        rows.at_end(self._assign)

    def worker_that_calls(
        self, number: int, caller: Caller, gone: type[Error] = NotFound
    ) -> WorkerRow:
        """Return the worker that a call comes from.

        Raises
        ------
        NotFound
            It is not known, or was deleted; ``gone`` in its place where that is given.
        Aborted
            Another process has registered under its name.
        """
        worker = self.store.read(lambda rows: rows.worker(number))
        if worker is None or worker.status is WorkerStatus.DELETED:
            self.presence.forget(number)
            raise gone(f"worker {number} is not known" + ("" if worker is None else " any more: it was deleted"))
        if caller.instance and caller.instance != worker.instance:
            raise Aborted(f"worker {number}: another process has registered as {worker.name!r}")
        return worker

    def _assign(self, rows: CommandRows) -> None:
        scheduling.assign(rows, {**self.presence.present, **self._arriving.copy()}, self.now_s())

    def _changed(self, changes: list[Any]) -> None:
        for change in changes:
            self.num_changes[change.after] += 1
            for watcher in self._watchers:
                watcher(change)


def _check_concurrency(concurrency: int | None) -> None:
    if concurrency is not None and concurrency > MAX_CONCURRENCY:
        raise InvalidArgument(f"concurrency: {concurrency} is more than {MAX_CONCURRENCY}")
