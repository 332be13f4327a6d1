"""Queues where operations wait: order of arrival, closing, cancelling, and nothing lost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime._ext.executor import StepContext
from runtime.devices.device import cpu_device
from runtime.dtypes import DataType
from runtime.errors import Cancelled, DeadlineExceeded, OutOfRange
from runtime.ops.state.queue import Queue
from runtime.ops.state.stores import FifoStore, PriorityStore, ShuffleStore, Store
from runtime.step.environment import SessionState
from runtime.step.files import FileAccess

WAIT_S = 10.0


class Answer:
    """What `done` was called with; fails on a second call."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self.calls = 0
        self.elements: list[Any] | None = None
        self.error: BaseException | None = None

    def __call__(self, elements: Any, error: BaseException | None) -> None:
        self.calls += 1
        assert self.calls == 1, "done was called twice"
        self.elements, self.error = elements, error
        self._set.set()

    @property
    def waits(self) -> bool:
        return not self._set.is_set()

    def numbers(self) -> list[int]:
        """Return the first component of what was dequeued."""
        assert self._set.wait(WAIT_S), "no answer"
        if self.error is not None:
            raise self.error
        assert self.elements is not None
        return [int(element[0]) for element in self.elements]


class Bench:
    """A queue of one integer component, and steps that use it."""

    def __init__(self, capacity: int = -1, store: Store | None = None, kind: str = "FIFOQueue",
                 behind: int = 0) -> None:
        self.queue = Queue(kind, "_1_q", [DataType.INT32], [()], capacity, store or FifoStore(), behind)
        self._session = SessionState(cpu_device("worker", 0), FileAccess(None))
        self._steps = 0

    def step(self) -> StepContext:
        self._steps += 1
        return StepContext(self._steps, self._session)

    def put(self, *numbers: int, step: StepContext | None = None) -> Answer:
        answer = Answer()
        self.queue.enqueue(step or self.step(), [(np.array(number, np.int32),) for number in numbers], answer)
        return answer

    def get(self, count: int = 1, step: StepContext | None = None, allow_fewer: bool = False) -> Answer:
        answer = Answer()
        self.queue.dequeue(step or self.step(), count, answer, allow_fewer=allow_fewer)
        return answer

    def shut(self, cancel: bool = False, step: StepContext | None = None) -> Answer:
        answer = Answer()
        self.queue.shut(step or self.step(), answer, cancel_pending_enqueues=cancel)
        return answer


def test_a_dequeue_waits_for_an_element() -> None:
    bench = Bench()
    first, second = bench.get(), bench.get()
    assert first.waits and second.waits
    bench.put(1)
    assert first.numbers() == [1]
    assert second.waits
    bench.put(2)
    assert second.numbers() == [2]


def test_an_enqueue_waits_for_room_and_puts_in_what_fits() -> None:
    bench = Bench(capacity=2)
    many = bench.put(1, 2, 3, 4)
    one = bench.put(5)
    assert many.waits and one.waits
    assert bench.queue.size() == 2
    assert bench.get().numbers() == [1]
    assert many.waits, "the third is in, the fourth not yet"
    assert bench.get().numbers() == [2]
    assert not many.waits
    assert one.waits
    assert bench.get(3).numbers() == [3, 4, 5]
    assert not one.waits


def test_a_dequeue_of_more_than_the_capacity_gets_there() -> None:
    bench = Bench(capacity=2)
    many = bench.get(5)
    assert not bench.put(1, 2, 3).waits
    assert many.waits
    assert bench.queue.size() == 0, "what a waiting dequeue holds leaves room"
    bench.put(4, 5, 6)
    assert many.numbers() == [1, 2, 3, 4, 5]
    assert bench.queue.size() == 1


def test_waiters_are_served_in_order_of_arrival() -> None:
    bench = Bench()
    many, one = bench.get(3), bench.get()
    bench.put(1, 2)
    assert many.waits and one.waits, "the later one must not overtake"
    bench.put(3)
    assert many.numbers() == [1, 2, 3]
    assert one.waits
    bench.put(4)
    assert one.numbers() == [4]


def test_closing_lets_dequeues_empty_the_queue() -> None:
    bench = Bench()
    bench.put(1, 2)
    assert not bench.shut().waits
    assert bench.queue.closed
    with pytest.raises(Cancelled, match=r"^FIFOQueue '_1_q' is closed\.$"):
        bench.put(3).numbers()
    assert bench.get().numbers() == [1]
    text = r"^FIFOQueue '_1_q' is closed and has insufficient elements \(requested 2, current size 1\)$"
    with pytest.raises(OutOfRange, match=text):
        bench.get(2).numbers()
    assert bench.get(5, allow_fewer=True).numbers() == [2]
    with pytest.raises(OutOfRange, match=r"\(requested 1, current size 0\)$"):
        bench.get().numbers()
    with pytest.raises(Cancelled, match=r"^Queue '_1_q' is already closed\.$"):
        bench.shut().numbers()


def test_closing_wakes_a_waiting_dequeue_and_puts_back_what_it_held() -> None:
    bench = Bench()
    many, fewer = bench.get(3), bench.get(3, allow_fewer=True)
    bench.put(1, 2)
    bench.shut()
    with pytest.raises(OutOfRange, match=r"\(requested 1, current size 0\)$"):
        many.numbers()
    assert fewer.numbers() == [1, 2]


def test_closing_waits_for_enqueues_that_wait() -> None:
    bench = Bench(capacity=1)
    bench.put(1)
    late = bench.put(2)
    closing = bench.shut()
    assert late.waits and closing.waits and not bench.queue.closed
    assert bench.get().numbers() == [1]
    assert not late.waits and not closing.waits
    assert bench.queue.closed
    assert bench.get().numbers() == [2]


def test_closing_can_cancel_enqueues_that_wait() -> None:
    bench = Bench(capacity=1)
    bench.put(1)
    late = bench.put(2)
    assert not bench.shut(cancel=True).waits
    with pytest.raises(Cancelled, match=r"^Enqueue operation was cancelled$"):
        late.numbers()
    assert bench.get().numbers() == [1]
    assert not bench.shut(cancel=True).waits, "closing at once may be repeated"


@pytest.mark.parametrize("store", [FifoStore, PriorityStore, lambda: ShuffleStore(1, 2)])
def test_a_cancelled_dequeue_loses_nothing(store: Any) -> None:
    bench = Bench(store=store())
    step = bench.step()
    many = bench.get(4, step=step)
    bench.put(1, 2, 3)
    after = bench.get()
    assert many.waits and after.waits
    step.cancel(DeadlineExceeded("too late"))
    with pytest.raises(Cancelled, match=r"^Dequeue operation was cancelled$"):
        many.numbers()
    rest = after.numbers() + bench.get(2).numbers()
    assert sorted(rest) == [1, 2, 3]
    if not isinstance(bench.queue._store, ShuffleStore):
        assert rest == [1, 2, 3], "and the order is kept"


def test_a_cancelled_enqueue_lets_the_next_one_in() -> None:
    bench = Bench(capacity=2)
    step = bench.step()
    large, small = bench.put(1, 2, 3, step=step), bench.put(4)
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^Enqueue operation was cancelled$"):
        large.numbers()
    assert small.waits
    assert bench.get(3).numbers() == [1, 2, 4]
    assert not small.waits


def test_a_cancelled_close_leaves_the_queue_open() -> None:
    bench = Bench(capacity=1)
    step = bench.step()
    bench.put(1)
    late, closing = bench.put(2), bench.shut(step=step)
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        closing.numbers()
    assert late.waits
    assert bench.get(2).numbers() == [1, 2]
    assert not bench.queue.closed


def test_a_step_that_is_cancelled_already_does_not_wait() -> None:
    bench = Bench()
    step = bench.step()
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        bench.get(step=step).numbers()
    bench.put(1)
    assert bench.queue.size() == 1


def test_a_finished_operation_leaves_no_callback_with_its_step() -> None:
    bench = Bench()
    step = bench.step()
    waiting = bench.get(step=step)
    bench.put(1)
    assert waiting.numbers() == [1]
    step.cancel(Cancelled("late"))
    assert waiting.calls == 1
    assert bench.queue.size() == 0


def test_dropping_the_queue_ends_everything_that_waits() -> None:
    full, empty = Bench(capacity=0), Bench()
    enqueue, dequeue = full.put(1), empty.get()
    full.queue.close()
    empty.queue.close()
    with pytest.raises(Cancelled):
        enqueue.numbers()
    with pytest.raises(OutOfRange):
        dequeue.numbers()


def test_a_shuffling_queue_keeps_some_behind_until_it_is_closed() -> None:
    bench = Bench(store=ShuffleStore(1, 2), kind="RandomShuffleQueue", behind=2)
    bench.put(1, 2, 3)
    first, second = bench.get(), bench.get(2)
    got = first.numbers()
    assert second.waits
    bench.shut()
    assert sorted(got + second.numbers()) == [1, 2, 3]


def test_equal_priorities_keep_their_order() -> None:
    queue = Queue("PriorityQueue", "q", [DataType.INT64, DataType.INT32], [(), ()], -1, PriorityStore())
    session = SessionState(cpu_device("worker", 0), FileAccess(None))
    elements = [(np.int64(priority), np.int32(number)) for number, priority in enumerate((2, 1, 2, 1, 1))]
    queue.enqueue(StepContext(1, session), elements, Answer())
    answer = Answer()
    queue.dequeue(StepContext(2, session), 5, answer)
    assert answer.elements is not None
    assert [int(element[1]) for element in answer.elements] == [1, 3, 4, 0, 2]


@pytest.mark.parametrize("capacity", [1, 3, -1])
def test_many_threads_lose_and_repeat_nothing(capacity: int) -> None:
    """Producers, consumers and a canceller at once: what was enqueued is dequeued once, or still there."""
    bench = Bench(capacity=capacity)
    per_producer, producers, consumers = 200, 3, 3
    found: list[int] = []
    lock = threading.Lock()
    failures: list[BaseException] = []

    def produce(base: int) -> None:
        try:
            for number in range(0, per_producer, 2):
                bench.put(base + number, base + number + 1).numbers()
        except BaseException as error:
            failures.append(error)

    def consume(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            while True:
                step = bench.step()
                answer = bench.get(int(random.integers(1, 4)), step=step, allow_fewer=True)
                if random.random() < 0.3:
                    step.cancel(Cancelled("away"))
                try:
                    got = answer.numbers()
                except Cancelled:
                    continue
                with lock:
                    found.extend(got)
        except OutOfRange:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=produce, args=(1000 * number,)) for number in range(producers)]
    readers = [threading.Thread(target=consume, args=(number,)) for number in range(consumers)]
    for thread in threads + readers:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    bench.shut().numbers()
    for thread in readers:
        thread.join(30.0)
        assert not thread.is_alive()
    assert not failures
    assert sorted(found) == sorted(1000 * number + i for number in range(producers) for i in range(per_producer))
    assert bench.queue.size() == 0
