"""runtime.v1.TaskBatches, the worker's side: small tasks one after the other, their outcomes many to a message.

Tasks run in threads, which go from one to the next by themselves. The loop sends what has ended: at once when a thread
has nothing left to do, else every few milliseconds. A task that runs for longer than that is told of, and those that
have not begun go back to the agent when all threads are taken by such tasks: so nothing waits here behind a long one.

A thread that has nothing left to do says itself what has ended where that goes at once, and for a moment reads what
comes next in the loop's place (`runtime._ext.http2_aside`): where tasks come one after the other, the loop has no part
in them. While a task runs the loop reads, so cancellations and questions are heard as ever.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from runtime import wire
from runtime._ext.http2_aside import Aside
from runtime._ext.message_cuts import cut_fields
from runtime._ext.task_messages import PlainOrder, ends_bytes, plain_orders
from runtime.errors import Cancelled, DataLoss, Error, InvalidArgument
from runtime.tasks import messages
from runtime.tasks.worker.conversation import Conversation, Input
from runtime.tasks.worker.function import Worker, traceback_text
from runtime.tasks.worker.interrupts import raise_in_thread
from runtime.tasks.worker.places import Places
from runtime.tasks.worker.task import Task, TaskCancelled, TaskError, sendable
from runtime.tasks.worker.threads import TaskThreads

__all__ = ["BatchRunner"]

logger = logging.getLogger(__name__)

# Between two messages about tasks that have ended, while others follow them.
_FLUSH_S = 0.002
# A task that has run for so long is told of, and nothing waits behind it.
_LONG_S = 0.01
# A thread that has run tasks for so long lets others, calls of Process for instance, have it.
_TURN_S = 0.05

# For how long a thread without a task reads what comes.
_LINGER_S = 0.02

# What the news of a task's begin, or of a long task's end, gets to leave before the next task begins all the same.
_FLUSHED_S = 10.0

# Numbers of TaskOrders.task, and BatchedTask.payload; what a payload has that is not left to protobuf.
_TASKS, _PAYLOAD, _CUT_BYTES = 1, 6, 4 << 10

_CHUNK_BYTES, _INLINE_BYTES = 84000, 16 << 10

_End = wire.runtime_v1.TaskEnd


class _Entry:
    """A task of the stream."""

    __slots__ = (
        "begun_s", "conversation", "deadline_s", "dependencies", "given", "incoming", "is_over", "is_told", "number",
        "payload", "task",
    )

    def __init__(self, given: wire.runtime_v1.BatchedTask | PlainOrder, payload: bytes) -> None:
        self.given = given
        self.payload = payload
        # Those that were not in the message.
        self.dependencies: dict[str, bytes] = {}
        self.number = given.number
        self.begun_s = self.deadline_s = 0.0
        self.is_told = False
        # Whether the agent has been told of its end, or is told of it by the next message.
        self.is_over = False
        self.task: Task | None = None
        self.conversation: _Talk | None = None
        self.incoming: _Incoming | None = None


class _Incoming:
    """What the agent says to one task, as its conversation reads it until that is closed. Belongs to the loop."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None

    def put(self, message: bytes) -> None:
        """Take a message."""
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._messages.popleft()


class _Talk(Conversation):
    """A conversation within the stream: nobody closes a side of it, the output ends it."""

    is_used = False

    def _request_id(self) -> str:
        self.is_used = True
        return super()._request_id()

    async def _end(self, output: bytes) -> None:
        async with self._sending:
            await self._send(output)
        self.close()


class _Slot:
    """A thread's place: what runs there."""

    __slots__ = ("entry", "is_busy", "is_interrupted", "thread", "waiting_since", "work")

    work: Callable[[], None]

    def __init__(self) -> None:
        self.thread = 0
        # When it began to wait for a thread; 0 when it has one, or needs none.
        self.waiting_since = 0.0
        self.entry: _Entry | None = None
        self.is_busy = False
        self.is_interrupted = False


class BatchRunner:
    """The tasks of one stream. Belongs to its loop, apart from what says that it runs in a thread.

    Parameters
    ----------
    worker : Worker
        An ordinary function.
    threads : TaskThreads
    concurrency : int
        Tasks at a time.
    progress : callable
        See `runtime.tasks.worker.service.WorkerService`.
    left_behind : callable
        Called with a function that interrupts a task, and one that says whether it has ended, for each task that was
        cancelled while it ran.
    send : callable
        Sends a TaskNews; returns when it has left.
    post : callable
        Sends one and tells at once whether it has left.
    aside : callable
        Returns the `Aside` by which threads send and read, or None; called on the loop.
    """

    def __init__(
        self,
        worker: Worker,
        threads: TaskThreads,
        concurrency: int,
        progress: Callable[[str, float, str], object],
        left_behind: Callable[[Callable[[], None], Callable[[], bool]], None],
        send: Callable[[bytes], Any],
        post: Callable[[bytes], bool],
        aside: Callable[[], Aside | None] = lambda: None,
    ) -> None:
        self._worker = worker
        self._threads = threads
        self._progress = progress
        self._left_behind = left_behind
        self._send = send
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._slots = [_Slot() for _ in range(concurrency)]
        for slot in self._slots:
            slot.work = functools.partial(self._work, slot)
        self._queue: deque[_Entry] = deque()
        # Those that have not ended, by number; what a thread has ended is taken out when it is told.
        self._entries: dict[int, _Entry] = {}
        self._last_number = 0
        self._chunk_bytes, self._inline_bytes = _CHUNK_BYTES, _INLINE_BYTES
        self._ended: list[tuple[int, str, Any, int]] = []
        self._begun: list[int] = []
        self._returned: list[int] = []
        self._unread: list[int] = []
        self._places: Places | None = None
        self._tells_places = False
        self._talks: list[tuple[int, bytes]] = []
        self._sending = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        # When it is due. The handle itself does not know where uvloop rounds what is left down to nothing.
        self._timer_due = 0.0
        self._closed = False
        self._begin_aside = aside
        self._is_beside = False
        self._aside: Aside | None = None
        self._failure: Exception | None = None

    async def serve(self, requests: AsyncIterator[bytes]) -> None:
        """Run what comes until the agent closes its side.

        Raises
        ------
        InvalidArgument
            The agent sends what cannot be.
        """
        try:
            async for data in requests:
                if self._failure is not None:
                    raise self._failure
                self._take(*_orders(data))
        finally:
            self._close()

    # What the agent says

    def take(self, data: bytes) -> bool:
        """Take a message in the read callback; False when it cannot be, which `serve` says then."""
        try:
            self._take(*_orders(data))
        except Exception as error:
            self._failure = error
            return False
        if not self._is_beside:
            # From now on everything is taken here, so that no thread reads while there is something to take.
            self._is_beside = True
            self._loop.call_soon(self._go_beside)
        return True

    def _go_beside(self) -> None:
        if not self._closed:
            self._aside = self._begin_aside()

    def _take(self, orders: wire.runtime_v1.TaskOrders, payloads: Sequence[bytes | None]) -> None:
        self._chunk_bytes = orders.chunk_bytes or self._chunk_bytes
        self._inline_bytes = orders.inline_bytes or self._inline_bytes
        if orders.HasField("places"):
            self._places = Places.open(orders.places)
            self._tells_places = self._places is not None
            self._flush_soon()
        for given in orders.task:
            if given.number <= self._last_number:
                raise InvalidArgument(f"task[].number: {given.number} behind {self._last_number}; it must grow")
            self._last_number = given.number
        self._add(orders, payloads)
        for talk in orders.talk:
            told = self._entries.get(talk.number)
            if told is not None and told.incoming is not None:
                told.incoming.put(talk.message)
        for number in orders.cancel:
            self._cancel(number)
        if orders.task:
            self._start()

    def _add(self, orders: wire.runtime_v1.TaskOrders, payloads: Sequence[bytes | None]) -> None:
        """Queue tasks."""
        for given, payload in zip(orders.task, payloads or [None] * len(orders.task), strict=True):
            entry = self._entries[given.number] = _Entry(given, given.payload if payload is None else payload)
            self._queue.append(entry)

    def _start(self) -> None:
        """Have threads look for tasks."""
        waiting = len(self._queue)
        for slot in self._slots:
            if not waiting:
                break
            with self._lock:
                is_idle = not slot.is_busy
                slot.is_busy = True
            if is_idle:
                waiting -= 1
                self._submit(slot)
        self._look_in(_FLUSH_S if waiting else _LONG_S)

    def _look_in(self, seconds: float) -> None:
        """Look at what runs in so many seconds, or sooner."""
        due = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer, self._timer_due = self._loop.call_at(due, self._tick), due

    def _submit(self, slot: _Slot) -> None:
        slot.waiting_since = time.monotonic()
        self._threads.start(slot.work)

    def _cancel(self, number: int) -> None:
        entry = self._entries.get(number)
        if entry is None:
            return
        with self._lock:
            if entry.is_over:
                return
            entry.is_over = True
            slot = next((slot for slot in self._slots if slot.entry is entry), None)
            if slot is None:
                self._queue.remove(entry)
            self._ended.append((number, "cancelled", slot is not None, 0))
        if slot is not None:
            self._abandon(slot, entry)
            self._give_back()
        self._flush_soon()

    def _abandon(self, slot: _Slot, entry: _Entry) -> None:
        """Have a task end of which nobody wants to know any more."""
        if entry.task is not None:
            entry.task.cancel()

        def interrupt() -> None:
            with self._lock:
                if slot.entry is entry:
                    slot.is_interrupted = True
                    raise_in_thread(slot.thread, TaskCancelled)

        self._left_behind(interrupt, lambda: slot.entry is not entry)

    def _close(self) -> None:
        """Forget what has not begun, and have the rest end."""
        self._closed = True
        self._aside = None
        with self._lock:
            self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        for slot in self._slots:
            with self._lock:
                entry = slot.entry
                is_wanted = entry is not None and not entry.is_over
                if entry is not None:
                    entry.is_over = True
            if entry is not None and is_wanted:
                self._abandon(slot, entry)
        for entry in self._entries.values():
            if entry.conversation is not None:
                entry.conversation.close()
        if self._flushing is not None:
            self._flushing.cancel()

    # What is said to the agent

    def _tick(self) -> None:
        self._timer = None
        if self._closed:
            return
        now = time.monotonic()
        is_busy = False
        num_long = 0
        with self._lock:
            for slot in self._slots:
                is_busy = is_busy or slot.is_busy
                entry = slot.entry
                if entry is None:
                    # A call of Process may have the thread.
                    num_long += slot.is_busy and 0 < slot.waiting_since < now - _LONG_S
                    continue
                if not entry.is_told and not entry.is_over and now - entry.begun_s > _LONG_S:
                    entry.is_told = True
                    self._begun.append(entry.number)
                num_long += entry.is_told or entry.is_over
        if num_long == len(self._slots):
            self._give_back()
        if is_busy:
            # A thread that finds nothing more to do tells by itself what has ended.
            self._look_in(_FLUSH_S if self._queue else _LONG_S)
        if self._has_news:
            self._flush_soon()

    def _give_back(self) -> None:
        """Return what has not begun."""
        with self._lock:
            for entry in self._queue:
                entry.is_over = True
                self._returned.append(entry.number)
            self._queue.clear()

    @property
    def _has_news(self) -> bool:
        return bool(self._ended or self._begun or self._returned or self._unread or self._tells_places)

    def _flush_soon(self) -> None:
        """Send what there is to say, and all that there is when the agent has read it if it reads slowly."""
        if self._flushing is not None and not self._flushing.done():
            return
        has_left = False
        if not self._sending.locked():
            if not self._has_news:
                return
            try:
                has_left = self._post(self._news())
            except (Error, OSError):
                return  # as below
        if not has_left:
            self._flushing = asyncio.ensure_future(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            # Once even if there is nothing: what was posted before leaves with it.
            await self._flush()
            while self._has_news:
                await self._flush()
        except (Error, OSError):
            pass  # the stream has ended: whoever reads from it is told

    async def _flush(self) -> None:
        """Send what there is to say."""
        async with self._sending:
            await self._send(self._news())

    def _news(self) -> bytes:
        news = wire.runtime_v1.TaskNews()
        talks, self._talks = self._talks, []
        with self._lock:
            begun, self._begun = self._begun, []
            ended, self._ended = self._ended, []
            returned, self._returned = self._returned, []
            unread, self._unread = self._unread, []
        news.reads_places, self._tells_places = self._tells_places, False
        for number, message in talks:
            news.talk.add(number=number, message=message)
        news.begun.extend(begun)
        entries, add = self._entries, news.end.add
        for number, kind, value, elapsed_us in ended:
            entries.pop(number, None)
            if kind == "value":
                add(number=number, value=value, elapsed_us=elapsed_us)
            elif kind == "cancelled":
                add(number=number, cancelled=_End.Cancelled(is_running=value))
            elif kind == "values":
                values = [wire.runtime_v1.NamedBytes(key=key, data=data) for key, data in value.items()]
                add(number=number, values=wire.runtime_v1.NamedValues(value=values), elapsed_us=elapsed_us)
            elif kind == "talked":
                add(number=number, elapsed_us=elapsed_us)
            else:
                add(number=number, elapsed_us=elapsed_us, **{kind: value})
        for number in (*returned, *unread):
            entries.pop(number, None)
        news.unread.extend(unread)
        news.returned.extend(returned)
        return news.SerializeToString()

    # In a thread

    def _work(self, slot: _Slot) -> None:
        """Run tasks until there are none, or others are to have the thread."""
        slot.thread = threading.get_ident()
        slot.waiting_since = 0.0
        until = time.monotonic() + _TURN_S
        while True:
            try:
                if not self._next(slot, until):
                    return
            except TaskCancelled:
                continue  # an interrupt that came when its task had just ended

    def _next(self, slot: _Slot, until: float) -> bool:
        """Run a task; return whether to go on."""
        now = time.monotonic()
        with self._lock:
            if slot.entry is not None:  # see `_work`
                slot.entry = None
            if slot.is_interrupted:
                slot.is_interrupted = False
                raise_in_thread(slot.thread, None)
            entry = None
            if now < until and self._queue:
                entry = self._queue.popleft()
                # Before others see it: who looks how long it has run would find that it has begun long ago.
                entry.begun_s = now
                entry.deadline_s = now + entry.given.max_duration_s
                slot.entry = entry
            is_idle = entry is None and not self._queue
        if entry is None:
            if is_idle:
                return self._linger(slot)
            if not self._closed:
                self._submit(slot)
            return False
        if not entry.is_over and self._read(entry):
            if entry.given.is_announced:
                self._announce(entry)
            self._run(entry)
            # The next one is read into the same memory.
            entry.payload, entry.dependencies = b"", {}
        with self._lock:
            slot.entry = None
            if slot.is_interrupted:
                slot.is_interrupted = False
                raise_in_thread(slot.thread, None)
            is_told = entry.is_told
        if is_told:
            self._wait_for_flush()
        return True

    def _linger(self, slot: _Slot) -> bool:
        """Say what has ended, and wait a moment for more; return whether something has come."""
        aside = self._aside
        if aside is not None and self._say_here(aside):
            with self._threads.lingering(aside.wake) as may_wait:
                if may_wait:
                    aside.read(self._has_queue, self._take_here, _LINGER_S)
        with self._lock:
            if self._queue:
                return True
            slot.is_busy = False
            has_news = self._has_news
        if has_news or aside is None:
            self._loop.call_soon_threadsafe(self._idle)
        return False

    def _say_here(self, aside: Aside) -> bool:
        """Say what has ended, if that goes at once and there is nothing else to say; tell whether nothing is left."""
        with self._lock:
            if self._begun or self._returned or self._unread or self._talks or self._tells_places:
                return False
            ended = [(number, value, took_us) for number, kind, value, took_us in self._ended if kind == "value"]
            if len(ended) < len(self._ended):
                return False
            if not ended:
                return True
            if not aside.post(ends_bytes(ended)):
                return False
            self._ended = []
        for number, _, _ in ended:
            self._entries.pop(number, None)
        return True

    def _has_queue(self) -> bool:
        return bool(self._queue)

    def _take_here(self, data: bytes) -> bool:
        """Take a message in a thread that reads; False where it is one for the loop."""
        # The loop's next look finds what runs for long; without one that is due it has to arrange for it.
        if self._closed or self._timer is None:
            return False
        orders = plain_orders(data)
        if not orders or (len(orders) > 1 and len(self._slots) > 1):
            return False  # it is about something else, or others are to be woken
        last = self._last_number
        for given in orders:
            if given.number <= last:
                return False
            last = given.number
        self._last_number = last
        for given in orders:
            entry = self._entries[given.number] = _Entry(given, given.payload)
            self._queue.append(entry)
        return True

    def _idle(self) -> None:
        """A thread has nothing to do; on the loop."""
        if self._queue and not self._closed:
            self._start()  # something came just when it stopped looking
        if self._has_news and not self._closed:
            self._flush_soon()

    def _read(self, entry: _Entry) -> bool:
        """Read what lies in places; return whether it was there, else the task goes back."""
        given, places = entry.given, self._places
        if isinstance(given, PlainOrder):
            return True
        try:
            if given.HasField("placed_payload"):
                entry.payload = _placed(places, given.placed_payload)
            for part in given.dependency:
                if part.HasField("placed"):
                    entry.dependencies[part.key] = _placed(places, part.placed)
        except DataLoss as error:
            with self._lock:
                if not entry.is_over:
                    entry.is_over = True
                    self._unread.append(entry.number)
                    logger.warning("the input of task %r is asked for again: %s", given.task_id, error.message)
            return False
        return True

    def _announce(self, entry: _Entry) -> None:
        with self._lock:
            entry.is_told = True
            self._begun.append(entry.number)
        self._wait_for_flush()

    def _wait_for_flush(self) -> None:
        if not self._closed:
            # What is suppressed: the stream has ended, or the loop, or the agent reads nothing for a long time.
            with contextlib.suppress(Error, OSError, concurrent.futures.CancelledError, RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._flush(), self._loop).result(_FLUSHED_S)

    def _run(self, entry: _Entry) -> None:
        """Run a task and note what became of it."""
        worker = self._worker
        given = entry.given
        try:
            if worker.is_plain:
                returned = worker.run_plain(entry.payload)
                is_small = type(returned) is bytes and len(returned) <= self._inline_bytes
                if is_small and len(given.expected_output_key) == 1:
                    self._end(entry, "value", returned)
                    return
                task = self._task(entry)
            else:
                task = self._task(entry)
                returned = worker.run(task)
            values = worker.results(task, returned)
            try:
                encoded = {key: task.to_bytes(value, f"result {key!r}") for key, value in values.items()}
            except InvalidArgument as error:
                raise TaskError(str(error)) from None
            self._succeed(entry, task, encoded)
        except TaskError as error:
            self._end(entry, "error", sendable(error))
        except TaskCancelled as error:
            self._end(entry, "failure", sendable(error) or f"task {given.task_id!r} is cancelled")
        except BaseException as error:  # sys.exit() ends a task, not the thread in which others are to run
            text = traceback_text(error)
            if not entry.is_over:
                logger.warning("task %r failed\n%s", given.task_id, text)
            self._end(entry, "failure", text)

    def _succeed(self, entry: _Entry, task: Task, values: Mapping[str, bytes]) -> None:
        conversation = entry.conversation
        assert conversation is not None
        if not conversation.is_used and sum(map(len, values.values())) <= self._inline_bytes:
            if len(values) == 1 and len(entry.given.expected_output_key) == 1:
                self._end(entry, "value", *values.values())
            else:
                self._end(entry, "values", dict(values))
            return
        for key, value in values.items():
            task.wait_for(conversation.result(key, value))
        task.wait_for(conversation.ok())
        self._end(entry, "talked", None)

    def _end(self, entry: _Entry, kind: str, value: Any) -> None:
        elapsed_us = int((time.monotonic() - entry.begun_s) * 1e6)
        with self._lock:
            if entry.is_over:
                return
            entry.is_over = True
            self._ended.append((entry.number, kind, value, elapsed_us))

    def _task(self, entry: _Entry) -> Task:
        """Return a task as its function sees it."""
        given = entry.given
        entry.incoming = _Incoming()

        async def send(message: bytes) -> None:
            if self._closed:
                raise Cancelled("the agent has gone")
            self._talks.append((entry.number, message))
            await self._flush()

        conversation = entry.conversation = _Talk(entry.incoming, send, self._chunk_bytes)
        arguments = (
            Input(
                given.session_id,
                given.task_id,
                dict(given.options),
                tuple(given.expected_output_key),
                entry.payload,
                {part.key: entry.dependencies.get(part.key, part.data) for part in given.dependency},
                self._chunk_bytes,
            ),
            conversation,
            self._worker.is_arrays,
            self._progress,
            lambda: max(0.0, entry.deadline_s - time.monotonic()),
        )
        entry.task = Task(self._loop, *arguments)
        if entry.is_over:  # cancelled meanwhile
            entry.task.cancel()
        return entry.task


def _orders(data: bytes) -> tuple[wire.runtime_v1.TaskOrders, Sequence[bytes | None]]:
    """Return a message, and of each of its tasks the payload that was left out of it because it is long."""
    # Long payloads are taken from where they lie: protobuf would copy each of them twice.
    rest, places = cut_fields(data, _TASKS, _PAYLOAD, _CUT_BYTES)
    payloads = [None if place is None else data[place[0] : place[1]] for place in places]
    return messages.parse(wire.runtime_v1.TaskOrders, rest), payloads


def _placed(places: Places | None, place: wire.runtime_v1.PlacedBytes) -> bytes:
    if places is None:
        raise DataLoss("no file of places is open")
    return places.read(place)
