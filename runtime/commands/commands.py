"""The command plane's domain object: what the service calls."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

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
from runtime.commands.log_records import Record
from runtime.commands.log_streams import LogSession, follow
from runtime.commands.logs import Logs
from runtime.commands.model import (
    BEGUN,
    TERMINAL,
    Caller,
    CommandChange,
    CommandRow,
    Rules,
    Status,
    WorkerRow,
    WorkerStatus,
)
from runtime.commands.presence import Presence
from runtime.errors import Aborted, Error, InvalidArgument, NotFound
from runtime.store.commands import CommandRows, CommandStore

__all__ = ["Commands", "Offer", "PingAnswer"]

logger = logging.getLogger(__name__)

_V = TypeVar("_V")

MISSING_S = 10.0
"""How long a worker that names what it has may leave out what it has begun."""

# How often silent workers and forgotten offers are looked for, at most and at least.
_LONGEST_SWEEP_S = 5.0
_SHORTEST_SWEEP_S = 0.05
# How often it is stored when workers were last heard of.
_SEEN_S = 30.0


class Offer(NamedTuple):
    """A command that a worker is told of: to run it, or to end it when its status is CANCELLED."""

    number: int
    text: str
    container: str
    status: Status
    attempt: int


class PingAnswer(NamedTuple):
    """What a worker is told.

    Attributes
    ----------
    concurrency : int
        How many commands it shall run at once.
    offers : list of Offer
    lost : list of int
        Commands that it says it has, and that it does not have any more.
    """

    concurrency: int
    offers: list[Offer]
    lost: list[int]


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
        self._clock = clock
        # Workers whose registration is being written; the writer's thread adds to it.
        self._arriving: dict[int, bool] = {}
        # What workers have begun and do not name any more, since when.
        self._missing: dict[int, dict[int, float]] = {}
        self._stopping = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self._remarks: dict[asyncio.Task[None], None] = {}
        self._seen_stored = clock()
        self._watchers: list[Callable[[CommandChange], None]] = [self.deliveries.changed, self._log_change]
        store.watch(self._changed)

    async def start(self) -> None:
        """Take up what the last server left. To be called once, before anything else.

        What is assigned is offered again; workers get the usual time from now on to show themselves.
        """
        now_s = self.now_s()

        def look(rows: CommandRows) -> tuple[list[WorkerRow], list[tuple[int, int, float]]]:
            return rows.workers(), rows.cancelled_since(now_s - CANCEL_NOTICE_S)

        workers, cancelled = self.store.read(look)
        for worker in workers:
            if worker.status is not WorkerStatus.INSTALLING:
                self.presence.expect(worker.number)
        for number, holder, time_s in cancelled:
            self.deliveries.notice_cancelled(holder, number, max(0.0, now_s - time_s))
        self._sweeper = asyncio.ensure_future(self._sweep_often())

    def drain(self) -> None:
        """Let those go who wait: they ask the next server."""
        self._stopping.set()
        self.deliveries.close()
        self.logs.wake_all()

    async def stop(self) -> None:
        """End what goes on. The store is closed by others."""
        self.drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._remarks:
            await asyncio.wait(self._remarks)
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
            For texts that cannot be stored, or no command at all.
        """
        if not text:
            raise InvalidArgument("command: must not be empty")
        check_text(text, "command", MAX_COMMAND_BYTES)
        check_text(container, "container", MAX_CONTAINER_BYTES)
        container = container or self.rules.default_container
        now_s = self.now_s()

        def insert(rows: CommandRows) -> int:
            if request:
                known = rows.requested(request)
                if known is not None:
                    return known
            command = rows.insert_command(text, container, now_s, request)
            rows.add_event(command, None, 0)
            rows.at_end(self._assign)
            return command.number

        return await self.store.write(insert)

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
        self, letters: str, limit: int, offset: int, convert: Callable[[list[tuple[int, str, str, str]]], _V]
    ) -> _V:
        """Return commands by ascending id, as ``convert`` makes them of number, text, container and status.

        Parameters
        ----------
        letters : str
            Statuses that are wanted; empty for all.
        limit : int
            How many at most; -1 for all.
        convert : callable
            Called in a thread: lists may be long.
        """
        statuses = sorted(set(letters)) if letters else None
        return await self.store.read_in_thread(lambda rows: convert(rows.commands(statuses, limit, offset)))

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

        def change(rows: CommandRows) -> tuple[int, Sequence[int]]:
            worker = rows.worker_named(name)
            again: Sequence[int] = ()
            if worker is None:
                worker = WorkerRow(
                    0, name, WorkerStatus.READY, 1 if concurrency is None else concurrency, instance=caller.instance,
                    created_s=now_s, seen_s=now_s,
                )
                rows.insert_worker(worker)
            else:
                # The same process may register twice: its answer was lost, say.
                if not (caller.instance and caller.instance == worker.instance):
                    again = lost.restarted(rows, worker, owned, self.rules, now_s)
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
            return worker.number, again

        arrived: list[int] = []
        try:
            number, again = await self.store.write(change)
            self.presence.hear(number, caller.peer, bool(caller.instance))
        finally:
            for arriving in arrived:
                self._arriving.pop(arriving, None)
        self.deliveries.forget(again)
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
        check_id(number, "worker_id")
        self.presence.touch(number)
        worker = self._worker_that_calls(number, caller)
        is_new = self.presence.hear(number, caller.peer, bool(caller.instance))
        if is_new or worker.status in (
            WorkerStatus.OFFLINE, WorkerStatus.PAUSED_OFFLINE, WorkerStatus.FAILING_OFFLINE
        ):
            await self.store.write(lambda rows: self._came_back(rows, number))
        if owned is not None:
            await self._take_back_disowned(number, owned)
        deadline = self._clock() + hold_s
        while True:
            answer = self.store.read(lambda rows: self._answer(rows, number, owned))
            left = deadline - self._clock()
            if answer.offers or answer.lost or left <= 0 or self._stopping.is_set():
                return answer
            await self.deliveries.wait(number, left)
            self._worker_that_calls(number, caller)

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
            self._worker_that_calls(caller.worker, caller, gone=Aborted)
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
        self._missing.pop(number, None)
        self.presence.forget(number)

    def assign_soon(self, rows: CommandRows) -> None:
        """Have the group of writes that this belongs to end with an assignment."""
        rows.at_end(self._assign)

    def _assign(self, rows: CommandRows) -> None:
        scheduling.assign(rows, {**self.presence.present, **self._arriving.copy()}, self.now_s())

    def _came_back(self, rows: CommandRows, number: int) -> None:
        worker = rows.worker(number)
        if worker is not None and lost.is_back(worker):
            rows.update_worker(worker)
        rows.at_end(self._assign)

    def _worker_that_calls(
        self, number: int, caller: Caller, gone: type[Error] = NotFound
    ) -> WorkerRow:
        worker = self.store.read(lambda rows: rows.worker(number))
        if worker is None or worker.status is WorkerStatus.DELETED:
            self.presence.forget(number)
            raise gone(f"worker {number} is not known" + ("" if worker is None else " any more: it was deleted"))
        if caller.instance and caller.instance != worker.instance:
            raise Aborted(f"worker {number}: another process has registered as {worker.name!r}")
        return worker

    async def _take_back_disowned(self, number: int, owned: Mapping[int, int]) -> None:
        """Take back what a worker has not named for a while: an answer of either side was lost on the way."""
        begun = self.store.read(lambda rows: rows.of_worker(number, BEGUN))
        missing = [command.number for command in begun if owned.get(command.number) != command.attempt]
        if not missing:
            self._missing.pop(number, None)
            return
        now = self._clock()
        former = self._missing.get(number, {})
        since = self._missing[number] = {command: former.get(command, now) for command in missing}
        # Not at once: this ping may have been under way before the command was taken.
        gone = frozenset(command for command, time_s in since.items() if now - time_s > MISSING_S)
        if not gone:
            return
        now_s = self.now_s()

        def take_back(rows: CommandRows) -> None:
            worker = rows.worker(number)
            if worker is not None:
                lost.disowned(rows, worker, gone, self.rules, now_s)
                rows.at_end(self._assign)

        await self.store.write(take_back)

    def _answer(self, rows: CommandRows, number: int, owned: Mapping[int, int] | None) -> PingAnswer:
        worker = rows.worker(number)
        if worker is None or worker.status is WorkerStatus.DELETED:
            raise NotFound(f"worker {number} is not known")
        gone = []
        for claimed, attempt in (owned or {}).items():
            state = rows.state_of(claimed)
            if state is None or state[1] != number or state[2] != attempt:
                gone.append(claimed)
            elif state[0] is Status.CANCELLED and claimed not in self.deliveries.cancelled(number):
                self.deliveries.notice_cancelled(number, claimed)
        offers = [
            Offer(command.number, command.text, command.container, Status.ASSIGNED, command.attempt)
            for command in rows.of_worker(number, frozenset({Status.ASSIGNED}))
            if self.deliveries.offer(number, command.number)
        ]
        for row in map(rows.command, self.deliveries.cancelled(number)):
            offers.append(Offer(row.number, row.text, row.container, Status.CANCELLED, row.attempt))
        return PingAnswer(worker.concurrency, offers, gone)

    def _changed(self, changes: list[Any]) -> None:
        for change in changes:
            for watcher in self._watchers:
                watcher(change)

    def _log_change(self, change: CommandChange) -> None:
        if change.after in TERMINAL:
            self.logs.wake(change.number)
        begins = change.after is Status.PENDING and change.before not in (
            None, Status.PENDING, Status.ASSIGNED, Status.SUSPENDED
        )
        if change.remark or begins:
            task = asyncio.ensure_future(self._remark(change, begins))
            self._remarks[task] = None
            task.add_done_callback(lambda done: self._remarks.pop(done, None))

    async def _remark(self, change: CommandChange, begins: bool) -> None:
        # Until the line is there a follower takes the output as incomplete.
        with self.logs.sending(change.number):
            try:
                if change.remark:
                    attempt = change.attempt - 1 if begins else change.attempt
                    await self.logs.remark(change.number, change.remark, attempt)
                if begins:
                    await self.logs.begin_attempt(change.number, change.attempt)
            except Error as error:
                logger.warning(
                    "a line is missing in a command's output", extra={"command": change.number, "reason": error.message}
                )

    # Beside the calls

    async def _sweep_often(self) -> None:
        rules = self.rules
        period = min(_LONGEST_SWEEP_S, rules.offline_s / 4, rules.redelivery_s / 4, rules.evict_s / 4)
        while True:
            await asyncio.sleep(max(_SHORTEST_SWEEP_S, period))
            try:
                await self.sweep()
            except Error as error:
                logger.warning("workers could not be looked after", extra={"reason": error.message})

    async def sweep(self) -> None:
        """Take from workers what they have fallen silent with, and hand out what is left lying."""
        rules, now_s = self.rules, self.now_s()
        silent = self.presence.silent(rules.offline_s)
        evicted = frozenset(self.presence.silent(rules.evict_s))
        for number in silent:
            self.presence.leave(number)
        unconfirmed = self.deliveries.unconfirmed()
        for _, number in unconfirmed:
            # It was in vain with this one: others come first, until it pings again.
            self.presence.leave(number)
        seen: dict[int, float] = {}
        if self._clock() - self._seen_stored > _SEEN_S:
            self._seen_stored = self._clock()
            seen = {number: now_s - self.presence.silence(number) for number in self.presence.present}

        def look_after(rows: CommandRows) -> None:
            for number in silent:
                worker = rows.worker(number)
                if worker is None or worker.status is WorkerStatus.DELETED:
                    continue
                if lost.went_offline(rows, worker, now_s):
                    logger.warning("a worker is silent", extra={"worker": worker.name, "seconds": rules.offline_s})
                if number in evicted:
                    why = f"worker {worker.name} was silent for more than {rules.evict_s:g} s"
                    for command in lost.give_up(rows, worker, rules, now_s, why):
                        logger.warning("a worker lost a task", extra={"worker": worker.name, "task": command.number})
            lost.reclaim(rows, unconfirmed, now_s)
            for number, time_s in seen.items():
                rows.see_worker(number, time_s)
            rows.at_end(self._assign)

        if silent or unconfirmed or seen or self.store.read(lambda rows: rows.has_pending()):
            await self.store.write(look_after)
        for number in evicted:
            # It has nothing left to lose, and need not be looked at before it calls again.
            self.presence.give_up(number)


def _check_concurrency(concurrency: int | None) -> None:
    if concurrency is not None and concurrency > MAX_CONCURRENCY:
        raise InvalidArgument(f"concurrency: {concurrency} is more than {MAX_CONCURRENCY}")
