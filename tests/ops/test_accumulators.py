"""Gradient accumulators where takers wait: in order, for enough gradients, until they are cancelled."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime._ext.executor import StepContext
from runtime.dtypes import DataType
from runtime.errors import Cancelled, InvalidArgument
from runtime.ops.state.accumulator import DenseAccumulator, SparseAccumulator
from tests.ops.waiting import WAIT_S, Answer, Steps


@pytest.fixture
def steps() -> Steps:
    return Steps()


def dense(is_mean: bool = True) -> DenseAccumulator:
    return DenseAccumulator("a", DataType.FLOAT, None, is_mean)


def take(accumulator: Any, step: StepContext, required: int) -> Answer:
    answer = Answer()
    accumulator.take(step, required, answer)
    return answer


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def test_a_taker_waits_for_enough_gradients(steps: Steps) -> None:
    accumulator = dense()
    answer = take(accumulator, steps.new(), 2)
    accumulator.apply(0, number(1))
    assert answer.waits
    accumulator.apply(0, number(4))
    assert answer.result() == 2.5
    assert (accumulator.count, accumulator.global_step) == (0, 1)


def test_takers_are_served_in_order(steps: Steps) -> None:
    accumulator = dense(is_mean=False)
    first, second = take(accumulator, steps.new(), 2), take(accumulator, steps.new(), 1)
    accumulator.apply(0, number(1))
    assert second.waits, "the first needs it"
    accumulator.apply(0, number(2))
    assert first.result() == 3
    accumulator.apply(0, number(9))  # of the step before
    assert second.waits
    accumulator.apply(1, number(5))
    assert second.result() == 5


def test_a_cancelled_taker_leaves_the_gradients(steps: Steps) -> None:
    accumulator = dense()
    step = steps.new()
    first, second = take(accumulator, step, 3), take(accumulator, steps.new(), 1)
    accumulator.apply(0, number(7))
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled, match=r"^TakeGrad operation was cancelled$"):
        first.result()
    assert second.result() == 7
    step.cancel(Cancelled("again"))
    assert first.calls == 1


def test_a_step_that_is_cancelled_already_does_not_wait(steps: Steps) -> None:
    step = steps.new()
    step.cancel(Cancelled("away"))
    with pytest.raises(Cancelled):
        take(dense(), step, 1).result()


def test_dropping_the_accumulator_ends_the_takers(steps: Steps) -> None:
    accumulator = dense()
    answer = take(accumulator, steps.new(), 1)
    accumulator.close()
    with pytest.raises(Cancelled):
        answer.result()


def test_a_gradient_that_does_not_fit_changes_nothing(steps: Steps) -> None:
    accumulator = dense()
    accumulator.apply(0, np.ones(2, np.float32))
    with pytest.raises(InvalidArgument, match=r"^Shape mismatch: expected \[2\], got \[3\]$"):
        accumulator.apply(0, np.ones(3, np.float32))
    assert take(accumulator, steps.new(), 1).result().tolist() == [1, 1]


def test_what_was_given_is_not_changed(steps: Steps) -> None:
    accumulator, first, second = dense(is_mean=False), np.ones(2, np.float32), np.ones(2, np.float32)
    rows = np.ones((2, 1), np.float32)
    for _ in range(2):
        accumulator.apply(0, first)
        accumulator.apply(0, second)
    taken = take(accumulator, steps.new(), 4).result()
    assert first.tolist() == second.tolist() == [1, 1]
    accumulator.apply(1, taken)
    accumulator.apply(1, taken)
    assert taken.tolist() == [4, 4]
    sparse = SparseAccumulator("a", DataType.FLOAT, None, False)
    indices = np.array([0, 3])
    for _ in range(3):
        sparse.apply(0, indices, rows, None, False)
    assert rows.tolist() == [[1], [1]]
    found = take(sparse, steps.new(), 3).result()
    assert [part.tolist() for part in found] == [[0, 3], [[3], [3]], [-1, 1]]


def test_many_threads_lose_no_gradient(steps: Steps) -> None:
    accumulator, workers, each = dense(is_mean=False), 4, 300
    total, failures = 0.0, []

    def apply() -> None:
        try:
            for _ in range(each):
                accumulator.apply(1 << 40, number(1))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=apply) for _ in range(workers)]
    for thread in threads:
        thread.start()
    taken = 0
    while taken < workers * each:
        value = take(accumulator, steps.new(), 1).result()
        taken += int(value)
        total += float(value)
    for thread in threads:
        thread.join(WAIT_S)
    assert not failures
    assert total == workers * each
    assert accumulator.count == 0
