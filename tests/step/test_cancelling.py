"""A step that is cancelled ends soon, wherever it is, and nothing of it is given out."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import numpy as np
import pytest

from runtime._ext import running_step, worker_pool
from runtime._ext.errors import Cancelled
from runtime._ext.executor import StepContext
from runtime.dtypes import DataType
from tests.step.endless import LONG, LOOPS
from tests.step.maker import GraphMaker, Runner

STEPS = {**{name: (make, {}) for name, make in LOOPS.items()}, **LONG}

# A step that has not ended after so long is not going to.
HANGING_S = 60.0
# Kernels that are one call of a definition show no progress that could be waited for.
SILENT_S = 0.1


def cancelled_at_work(compiled: Any, step: StepContext, feeds: list[Any]) -> tuple[int, int]:
    """Run a step in a thread and cancel it when it is at work.

    Returns
    -------
    nodes, tasks : int
        How many nodes have run since the cancellation, and how many tasks of kernels have begun.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(compiled.run(step, feeds))
        except Exception as error:
            outcome.append(error)

    tasks = worker_pool.tasks_begun()
    thread = threading.Thread(target=run)
    thread.start()
    patience = time.monotonic() + SILENT_S
    while step.worked + worker_pool.tasks_begun() - tasks < 6 and time.monotonic() < patience:
        time.sleep(0.001)
    assert not outcome, "the step has ended before it was cancelled"
    reason = Cancelled("enough")
    step.cancel(reason)
    nodes, tasks = step.worked, worker_pool.tasks_begun()
    thread.join(HANGING_S)
    assert outcome, "the step goes on"
    assert outcome[0] is reason
    return step.worked - nodes, worker_pool.tasks_begun() - tasks


@pytest.mark.parametrize("name", STEPS)
def test_a_cancelled_step_does_next_to_nothing_more(name):
    """At most the node that is running, and of its kernel what each thread has just taken.

    How long that is, `bench_executor` measures.
    """
    make, feeds = STEPS[name]
    maker, fetch = make()
    runner = Runner(maker)
    compiled = runner.compile(list(feeds), [fetch])
    nodes, tasks = cancelled_at_work(compiled, StepContext(1, runner.state), list(feeds.values()))
    assert nodes <= 3  # the node, and its turn of a loop
    assert tasks <= worker_pool.workers()


def test_a_kernel_that_was_cut_short_gives_out_nothing():
    """Also when it is the last of its step: its memory was never filled."""
    make, feeds = LONG["MatMul float"]
    maker, fetch = make()
    runner = Runner(maker)
    compiled = runner.compile(list(feeds), [fetch])
    former = worker_pool.workers()
    worker_pool.set_workers(1)
    try:
        cancelled_at_work(compiled, StepContext(1, runner.state), list(feeds.values()))
    finally:
        worker_pool.set_workers(former)


def test_a_variable_is_changed_as_a_whole_or_not_at_all():
    maker = GraphMaker()
    maker.op("VariableV2", "w", shape=(1 << 24,), dtype=DataType.FLOAT)
    maker.placeholder("x")
    maker.op("Assign", "init", "w", "x")
    maker.placeholder("rate")
    maker.op("ApplyGradientDescent", "update", "w", "rate", "x")
    runner = Runner(maker)
    x = np.ones(1 << 24, np.float32)
    runner.run(["init:0"], {"x:0": x})
    compiled = runner.compile(["x:0", "rate:0"], ["update:0"])
    for delay in (0.0, 0.001, 0.002, 0.005):
        step = StepContext(1, runner.state)
        timer = threading.Timer(delay, step.cancel, [Cancelled("enough")])
        timer.start()
        with contextlib.suppress(Cancelled):
            compiled.run(step, [x, np.float32(1).reshape(())])
        timer.join()
        value = runner.run(["w:0"])[0]
        assert value.min() == value.max()


def test_a_thread_without_a_step_is_never_stopped():
    assert not running_step.stopped()
