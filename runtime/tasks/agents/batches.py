"""runtime.v1.TaskBatches, the agent's side: small tasks on one stream, some of them ahead of what the worker runs.

A worker of this project takes them one after the other and tells many outcomes with one message. What it has not begun
is not its own yet: it gives that back when a task takes long, and when it dies only what is known to have begun has
failed. What may have begun without that being known goes back to the queue as a suspect: the next worker says before
it begins it, so that a task which kills its worker is found out at the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext import task_messages
from runtime._ext.message_parts import MessageParts
from runtime.errors import Cancelled, Error, InvalidArgument, Unavailable, Unimplemented, Unknown
from runtime.objects.value import Value
from runtime.tasks.agents.attempt import DEADLINE_TEXT
from runtime.tasks.agents.batched_call import BatchedCall
from runtime.tasks.agents.durations import MeanDuration
from runtime.tasks.leases import Lease
from runtime.tasks.model import FailureKind
from runtime.transport.place import here

if TYPE_CHECKING:
    from runtime._ext.http2_client_stream import StreamCall
    from runtime.objects.recent import Content
    from runtime.tasks.tasks import Tasks

__all__ = ["BatchOwner", "BatchStream", "is_batchable"]

# Input of at most so many bytes goes along with a task.
_INPUT_BYTES = 2 << 20
# From where on a payload is sent from where it lies.
_PART_BYTES = 4 << 10
# Results of at most so many bytes come along with a task's end; they lie in a row of the store.
_INLINE_BYTES = 16 << 10
# A worker is given what it runs within so many seconds, but no more than this.
_AHEAD_S = 0.01
_MAX_AHEAD = 512
_MAX_BYTES = 4 << 20
# What tasks are taken to last before any has ended, and the weight of the latest ones, each, in the mean: some quick
# ones must have ended here before the worker is given tasks ahead.
_FIRST_MEAN_S = 0.2
_WEIGHT = 0.3
# How often tasks are looked at that have not been told to have begun, although it is their turn.
_LOOK_S = 0.5


def is_batchable(lease: Lease) -> bool:
    """Return whether a task's input is small enough, and there."""
    task = lease.task
    nbytes = task.payload.size
    if not task.dependencies:
        return nbytes <= _INPUT_BYTES
    nbytes += sum(value.size for value in task.inputs.values())
    return nbytes <= _INPUT_BYTES and len(task.inputs) == len(task.dependencies)


class BatchOwner(Protocol):
    """The agent, as its stream sees it."""

    def batch_changed(self) -> None:
        """There may be room, or nothing left."""
        ...

    def batch_ended(self, number: int, num_failed: int, seconds: float) -> None:
        """So many tasks have ended, after so many seconds of work together."""
        ...

    def batch_returned(self, leases: list[Lease]) -> None:
        """Tasks have not begun and never will here."""
        ...

    def batch_talks(self, lease: Lease, call: BatchedCall, began: float) -> None:
        """A task has something to say; what becomes of it is for an `Attempt` to find out."""
        ...

    def batches_refused(self) -> None:
        """The worker has no such service."""
        ...

    def batch_is_suspect(self) -> None:
        """Something may still run at the worker."""
        ...

    def batch_records(self, outcome: asyncio.Future[Any]) -> None:
        """An outcome is on its way to the disk."""
        ...


class _Sent:
    """A task that the worker has."""

    __slots__ = ("call", "has_begun", "lease", "nbytes", "number", "since", "timer")

    def __init__(self, number: int, lease: Lease, nbytes: int, since: float) -> None:
        self.number = number
        self.lease = lease
        self.nbytes = nbytes
        self.since = since
        self.has_begun = False
        self.call: BatchedCall | None = None
        self.timer: asyncio.TimerHandle | None = None


class BatchStream:
    """The stream to one worker. Belongs to its loop.

    Parameters
    ----------
    tasks : Tasks
    call : StreamCall
        Of TaskBatches.Run.
    concurrency : int
        Tasks that the worker runs at a time.
    suspects : dict of int to None
        Numbers of tasks that may have killed a worker; updated.
    owner : BatchOwner
    is_near : bool
        Whether the worker runs on this machine, and may read input from its files.

    Attributes
    ----------
    is_over : bool
        Whether the stream has ended; then the worker has nothing of it any more.
    reads_places : bool
        Whether the worker reads medium objects where they lie.
    """

    def __init__(
        self,
        tasks: Tasks,
        call: StreamCall,
        concurrency: int,
        suspects: dict[int, None],
        owner: BatchOwner,
        *,
        is_near: bool = False,
    ) -> None:
        self.is_over = False
        self.reads_places = False
        self._tells_places = is_near
        self._awaits_places = False
        self._tasks = tasks
        self._call = call
        self._concurrency = concurrency
        self._suspects = suspects
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._sent: dict[int, _Sent] = {}
        self._nbytes = 0
        self._typical_bytes = 1
        self._num_begun = 0
        self._last_number = 0
        self._mean = MeanDuration(_FIRST_MEAN_S, _WEIGHT)
        self._heard = 0.0
        self._sending = asyncio.Lock()
        # Whether what was sent at once has not left yet: then the next message waits for it.
        self._is_behind = False
        self._saying: dict[asyncio.Task[None], None] = {}
        self._look_timer: asyncio.TimerHandle | None = None
        # Whether a task has to read first what the worker has said.
        self._is_held = False
        call.take_by(self._take_usual)
        self._listener = asyncio.ensure_future(self._listen())

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def running(self) -> list[str]:
        """Ids of the attempts that run, or are next to run; those that talk are told of by others."""
        found: list[str] = []
        for sent in self._sent.values():
            if len(found) == self._concurrency:
                break
            if sent.call is None:
                found.append(sent.lease.task.id)
        return found

    def room(self) -> int:
        """Return how many tasks the worker is to be given now."""
        num_sent = len(self._sent)
        if self._num_begun >= self._concurrency or self._nbytes >= _MAX_BYTES:
            return 0
        least = max(0, self._concurrency - num_sent)
        ahead = min(
            _MAX_AHEAD,
            int(_AHEAD_S * self._concurrency / max(self._mean.seconds, 1e-6)),
            _MAX_BYTES // self._typical_bytes,
        )
        # Many at a time: each message costs both sides as much as several tasks.
        return max(least, self._concurrency + ahead - num_sent) if num_sent <= ahead // 2 else least

    async def give(self, leases: Sequence[Lease], objects: Mapping[Value, Content] | None = None) -> None:
        """Send tasks to the worker. What is sent when the stream ends is dealt with, whenever that is.

        Parameters
        ----------
        objects : mapping of Value to Content
            The contents of those parts of the input that are objects. Nobody changes them.
        """
        orders = self._orders(leases, objects)
        if orders is not None:
            await self._say(orders)
            if objects and self._tells_places:
                await self._tell_places()

    def give_at_once(self, lease: Lease) -> bool:
        """Send a task without objects if nothing else is being sent; tell whether that was done."""
        if self.is_over or self._is_behind or self._sending.locked():
            return False
        orders = self._orders([lease], None)
        if orders is not None:
            with contextlib.suppress(Error):  # what ends the stream is told to its listener, which sees to its tasks
                self._is_behind = not self._call.post(orders)
        return True

    def _orders(self, leases: Sequence[Lease], objects: Mapping[Value, Content] | None) -> bytes | MessageParts | None:
        """Return the message that gives tasks to the worker, None if none is left, having taken note of them."""
        is_first = not self._last_number
        orders = task_messages.OrdersWriter(
            self._tasks.limits.chunk_bytes if is_first else 0, _INLINE_BYTES if is_first else 0
        )
        now = self._loop.time()
        add, interrupted, suspects = orders.add, self._interrupted, self._suspects
        for lease in leases:
            if lease.is_interrupted:
                if lease.is_cancelled and not lease.is_lost:
                    self._tasks.confirm_soon(lease)
                continue
            task = lease.task
            self._last_number = number = self._last_number + 1
            payload: bytes | Content = task.payload.data
            nbytes = task.payload.size
            if task.payload.ref is not None and objects is not None:
                payload = objects[task.payload]
            elif nbytes >= _PART_BYTES:
                payload = (task.payload.data,)
            dependencies = []
            for key in task.dependencies:
                value = task.inputs[key]
                data = value.data if value.ref is None or objects is None else b"".join(objects[value])
                dependencies.append((key, data))
                nbytes += len(data)
            options = task.options
            add(
                number,
                task.session,
                task.id,
                task.expected_keys,
                options.entries,
                payload,
                dependencies,
                options.max_duration_s,
                bool(task.attempt) or lease.number in suspects,
            )
            sent = self._sent[number] = _Sent(number, lease, nbytes, now)
            self._nbytes += nbytes
            self._typical_bytes = nbytes or 1
            lease.on_interrupt = functools.partial(interrupted, sent)
        if self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look)
        if not orders.num_tasks:
            return None
        return orders.tobytes() if orders.is_whole else MessageParts(orders.parts())

    async def give_places(self, leases: Sequence[Lease]) -> None:
        """Send tasks with the places of those parts of their input that are medium objects; the others have none."""
        orders = wire.runtime_v1.TaskOrders()
        now = self._loop.time()
        for lease in leases:
            if lease.is_interrupted:
                if lease.is_cancelled and not lease.is_lost:
                    self._tasks.confirm_soon(lease)
                continue
            task = lease.task
            self._last_number = number = self._last_number + 1
            given = orders.task.add(
                number=number,
                session_id=task.session,
                task_id=task.id,
                expected_output_key=task.expected_keys,
                payload=task.payload.data,
                max_duration_s=task.options.max_duration_s,
                is_announced=bool(task.attempt) or lease.number in self._suspects,
            )
            if task.options.entries:
                given.options.update(task.options.entries)
            # What is read there costs the worker no memory before its turn.
            nbytes = len(task.payload.data)
            if task.payload.ref is not None:
                _place(given.placed_payload, task.payload)
            for key in task.dependencies:
                value = task.inputs[key]
                if value.ref is not None:
                    _place(given.dependency.add(key=key).placed, value)
                else:
                    given.dependency.add(key=key, data=value.data)
                nbytes += len(value.data)
            sent = self._sent[number] = _Sent(number, lease, nbytes, now)
            self._nbytes += nbytes
            self._typical_bytes = nbytes or 1
            lease.on_interrupt = functools.partial(self._interrupted, sent)
        if self._look_timer is None:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look)
        if orders.task:
            await self.say(orders)

    async def _tell_places(self) -> None:
        """Tell the worker in which file medium objects lie, as soon as there is one."""
        file = self._tasks.objects.places_file()
        if file is not None:
            self._tells_places, self._awaits_places = False, True
            told = wire.runtime_v1.PlacesFile(boot_id=here().boot_id, **file._asdict())
            await self.say(wire.runtime_v1.TaskOrders(places=told))

    async def say(self, orders: wire.runtime_v1.TaskOrders) -> None:
        """Send a message; raises the error with which the stream has ended."""
        await self._say(orders.SerializeToString())

    async def _say(self, orders: bytes | MessageParts) -> None:
        async with self._sending:
            await self._call.send(orders)
            self._is_behind = False

    def drop(self, number: int) -> None:
        """Have a task end whose outcome is recorded already, or is of no use."""
        sent = self._pop(number)
        if sent is not None:
            self._say_soon(wire.runtime_v1.TaskOrders(cancel=[number]))
            self._owner.batch_is_suspect()
            self._owner.batch_changed()

    def renew(self) -> None:
        """Give a sign of life for every task."""
        for sent in self._sent.values():
            if sent.call is None and not sent.lease.is_ended and not sent.lease.is_lost:
                sent.lease.renew()

    def release(self) -> None:
        """Give back every task that does not talk; others see to those that do."""
        for sent in [sent for sent in self._sent.values() if sent.call is None]:
            self.drop(sent.number)
            if not sent.lease.is_ended and not sent.lease.is_lost:
                self._record(sent.lease.release())

    def close(self) -> None:
        """End the stream."""
        self._call.cancel()

    # What the worker says

    async def _listen(self) -> None:
        error: Error = Unavailable("the worker ended its stream of tasks")
        try:
            while (data := await self._call.receive()) is not None:
                if (ends := task_messages.simple_ends(data, _INLINE_BYTES)) is not None:
                    self._heard = self._loop.time()
                    self._take_values(ends)
                    self._owner.batch_changed()
                    continue
                self._is_held = True
                try:
                    news = wire.runtime_v1.TaskNews.FromString(data)
                except DecodeError:
                    raise InvalidArgument("the worker sent what is no TaskNews") from None
                self._take(news)
                for talk in news.talk:
                    # Nothing of the stream is read meanwhile, as little as of a call of Process.
                    sent = self._sent.get(talk.number)
                    if sent is not None and sent.call is not None:
                        await sent.call.room()
                self._is_held = False
        except Error as raised:
            error = raised
        finally:
            self._call.cancel()
            self._lost(error)

    def _take_usual(self, data: bytes) -> bool:
        """Take what has come at once if it tells of nothing but tasks that have ended with a value."""
        if self._is_held:
            return False
        ends = task_messages.simple_ends(data, _INLINE_BYTES)
        if ends is None:
            return False
        self._heard = self._loop.time()
        try:
            self._take_values(ends)
        except Exception:
            return False  # the listener takes it again, which ends the stream; what was taken is known
        self._owner.batch_changed()
        return True

    def _take(self, news: wire.runtime_v1.TaskNews) -> None:
        self._heard = self._loop.time()
        for talk in news.talk:
            sent = self._known(talk.number)
            if sent is None:
                continue
            if sent.call is None:
                sent.call = BatchedCall(self, sent.number)
                self._stop_timer(sent)
                self._owner.batch_talks(sent.lease, sent.call, sent.since)
            sent.call.put(talk.message)
        for number in news.begun:
            sent = self._known(number)
            if sent is not None and not sent.has_begun:
                self._begin(sent)
        if news.end:
            self._take_ends(news.end)
        if news.reads_places:
            # Once, and only where it was told of the file: else tasks would go back and forth.
            self.reads_places, self._awaits_places = self._awaits_places, False
        if news.unread:
            self._take_unread(news.unread)
        if news.returned:
            found = [sent for number in news.returned if (sent := self._pop(self._checked(number))) is not None]
            self._owner.batch_returned([sent.lease for sent in found])
        self._owner.batch_changed()

    def _take_unread(self, numbers: Iterable[int]) -> None:
        """Have tasks run anew that the worker has not found the input of; it gets no places any more."""
        self.reads_places = False
        back: list[Lease] = []
        for number in numbers:
            sent = self._pop(self._checked(number))
            if sent is None:
                continue
            lease = sent.lease
            if not sent.has_begun:
                back.append(lease)
            elif not lease.is_ended and not lease.is_lost:
                self._record(lease.fail(FailureKind.CALL, "the worker has not found the input of the task"))
        self._owner.batch_returned(back)

    def _take_values(self, ends: Sequence[tuple[int, bytes, int]]) -> None:
        """Take note of tasks that have ended with one value: number, value and microseconds of each."""
        succeeded: list[tuple[Lease, dict[str, Value]]] = []
        others: list[wire.runtime_v1.TaskEnd] = []
        count = elapsed_us = 0
        now_s = self._tasks.now_s()
        known, suspects = self._sent, self._suspects
        for number, data, took_us in ends:
            sent = known.get(number)
            if sent is None or sent.call is not None or len(sent.lease.task.expected_keys) != 1:
                others.append(wire.runtime_v1.TaskEnd(number=number, value=data, elapsed_us=took_us))
                continue
            self._pop(number)
            lease = sent.lease
            if suspects:
                suspects.pop(lease.number, None)
            count += 1
            elapsed_us += took_us
            if lease.started_s is None:
                # Whole milliseconds: what has begun in the same one is written together.
                lease.started_s = now_s - took_us // 1000 / 1000
            if lease.is_lost or lease.is_ended:
                continue
            if lease.is_cancelled:
                self._tasks.confirm_soon(lease)
            else:
                succeeded.append((lease, {lease.task.expected_keys[0]: Value(data)}))
        self._count(succeeded, count, 0, elapsed_us)
        if others:
            self._take_ends(others)

    def _count(
        self, succeeded: list[tuple[Lease, dict[str, Value]]], number: int, num_failed: int, elapsed_us: int
    ) -> None:
        """Record successes, and count tasks that have ended."""
        if succeeded:
            self._owner.batch_records(self._tasks.succeed_all(succeeded))
        if number:
            self._mean.add(elapsed_us / number / 1e6, number)
            self._owner.batch_ended(number, num_failed, elapsed_us / 1e6)

    def _take_ends(self, ends: Iterable[wire.runtime_v1.TaskEnd]) -> None:
        succeeded: list[tuple[Lease, dict[str, Value]]] = []
        number = num_failed = elapsed_us = 0
        now_s = self._tasks.now_s()
        for end in ends:
            sent = self._pop(self._checked(end.number))
            if sent is None:
                continue
            lease = sent.lease
            self._suspects.pop(lease.number, None)
            kind = end.WhichOneof("outcome")
            if sent.call is not None:
                self._end_talk(sent.call, kind, end)
                continue
            number += 1
            elapsed_us += end.elapsed_us
            if lease.started_s is None:
                lease.started_s = now_s - end.elapsed_us / 1e6
            if lease.is_lost or lease.is_ended:
                continue
            if lease.is_cancelled:
                self._tasks.confirm_soon(lease)
            elif kind == "value" and len(lease.task.expected_keys) == 1 and len(end.value) <= _INLINE_BYTES:
                succeeded.append((lease, {lease.task.expected_keys[0]: Value(end.value)}))
            elif kind == "values" and sum(len(value.data) for value in end.values.value) <= _INLINE_BYTES:
                succeeded.append((lease, {value.key: Value(value.data) for value in end.values.value}))
            elif kind == "error":
                self._record(lease.report_error(end.error))
            elif kind == "failure":
                num_failed += 1
                self._record(lease.fail(FailureKind.CALL, end.failure))
            else:
                num_failed += 1
                text = f"the worker ended the task with {kind or 'nothing'}, which does not belong there"
                self._record(lease.fail(FailureKind.PROTOCOL, text))
        self._count(succeeded, number, num_failed, elapsed_us)

    def _end_talk(self, call: BatchedCall, kind: str | None, end: wire.runtime_v1.TaskEnd) -> None:
        """End a task that has an `Attempt`."""
        if kind == "error":
            output = wire.armonik.Output(error=wire.armonik.Output.Error(details=end.error))
            call.put(wire.armonik.ProcessReply(output=output).SerializeToString())
            call.end(None)
        elif kind == "failure":
            call.end(Unknown(end.failure))
        elif kind == "cancelled":
            call.end(Cancelled("the task was cancelled"))
        elif kind is None:
            call.end(None)  # its output has said the rest
        else:
            call.end(InvalidArgument(f"the worker ended a task with {kind} that had told its results"))

    def _begin(self, sent: _Sent) -> None:
        sent.has_begun = True
        self._num_begun += 1
        lease = sent.lease
        if sent.call is None and not lease.is_ended and not lease.is_lost:
            self._tasks.start_lease(lease)
            sent.timer = self._loop.call_later(lease.task.options.max_duration_s, self._expire, sent)

    # What ends otherwise

    def _interrupted(self, sent: _Sent) -> None:
        """The task is canceled, or its lease is lost."""
        if sent.call is None and self._sent.get(sent.number) is sent:
            self.drop(sent.number)
            if sent.lease.is_cancelled and not sent.lease.is_lost and not sent.lease.is_ended:
                self._tasks.confirm_soon(sent.lease)

    def _expire(self, sent: _Sent) -> None:
        if self._sent.get(sent.number) is sent and sent.call is None:
            self.drop(sent.number)
            lease, seconds = sent.lease, sent.lease.task.options.max_duration_s
            self._owner.batch_ended(1, 1, seconds)
            if not lease.is_ended and not lease.is_lost:
                if lease.started_s is None:
                    lease.started_s = self._tasks.now_s() - seconds
                self._record(lease.fail(FailureKind.TIMEOUT, DEADLINE_TEXT))

    def _look(self) -> None:
        """See whether the worker still tells what it does: one that hangs as a whole could not say what has begun."""
        self._look_timer = None
        now = self._loop.time()
        for _, sent in zip(range(self._concurrency), list(self._sent.values())):
            silent_s = now - max(self._heard, sent.since)
            if not sent.has_begun and sent.call is None and silent_s > sent.lease.task.options.max_duration_s:
                self._expire(sent)
                self._call.cancel()
        if self._sent:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look)

    def _lost(self, error: Error) -> None:
        """The stream has ended, and with it what the worker had."""
        self.is_over = True
        if self._look_timer is not None:
            self._look_timer.cancel()
        back: list[Lease] = []
        num_failed = 0
        for sent in list(self._sent.values()):
            self._pop(sent.number)
            lease = sent.lease
            if sent.call is not None:
                sent.call.end(error)
            elif lease.is_ended or lease.is_lost:
                continue
            elif lease.is_cancelled:
                self._tasks.confirm_soon(lease)
            elif sent.has_begun:
                num_failed += 1
                self._suspects.pop(lease.number, None)
                reason = f"the worker was lost while it ran the task: {error.message}"
                self._record(lease.fail(FailureKind.CALL, reason))
            else:
                self._suspects[lease.number] = None
                back.append(lease)
        if back:
            self._tasks.give_back(back)
        if isinstance(error, Unimplemented):
            self._owner.batches_refused()
        self._owner.batch_ended(num_failed, num_failed, 0.0)
        self._owner.batch_is_suspect()
        self._owner.batch_changed()

    # Inside

    def _checked(self, number: int) -> int:
        if number > self._last_number:
            raise InvalidArgument(f"the worker tells of task {number} of the stream, which it was not given")
        return number

    def _known(self, number: int) -> _Sent | None:
        return self._sent.get(self._checked(number))

    def _pop(self, number: int) -> _Sent | None:
        sent = self._sent.pop(number, None)
        if sent is not None:
            self._nbytes -= sent.nbytes
            self._num_begun -= sent.has_begun
            self._stop_timer(sent)
            if sent.call is None:
                sent.lease.on_interrupt = None
        return sent

    def _stop_timer(self, sent: _Sent) -> None:
        if sent.timer is not None:
            sent.timer.cancel()
            sent.timer = None

    def _record(self, outcome: Coroutine[Any, Any, object]) -> None:
        self._owner.batch_records(asyncio.ensure_future(outcome))

    def _say_soon(self, orders: wire.runtime_v1.TaskOrders) -> None:
        async def say() -> None:
            with contextlib.suppress(Error):  # the listener is told too
                await self.say(orders)

        saying = self._loop.create_task(say())
        self._saying[saying] = None
        saying.add_done_callback(lambda done: self._saying.pop(done, None))


def _place(message: wire.runtime_v1.PlacedBytes, value: Value) -> None:
    ref = value.ref
    assert ref is not None and not ref.is_shared
    message.offset, message.size, message.crc32c = ref.place, ref.size, ref.crc
