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

# What is promised is 0.1 s on a machine of one's own; other processes may hold a thread up for some time.
SOON_S = 1.0
STEPS = {**{name: (make, {}) for name, make in LOOPS.items()}, **LONG}


def cancelled_after(compiled: Any, step: StepContext, feeds: list[Any], seconds: float) -> float:
    """Run a step in a thread, cancel it, and return how long it took to end."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(compiled.run(step, feeds))
        except Exception as error:
            outcome.append(error)
        outcome.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(seconds)
    assert not outcome, "the step has ended before it was cancelled"
    reason = Cancelled("enough")
    started = time.monotonic()
    step.cancel(reason)
    thread.join(60)
    assert outcome[0] is reason
    return float(outcome[1] - started)


@pytest.mark.parametrize("name", STEPS)
def test_a_cancelled_step_ends_soon(name):
    make, feeds = STEPS[name]
    maker, fetch = make()
    runner = Runner(maker)
    compiled = runner.compile(list(feeds), [fetch])
    best = min(cancelled_after(compiled, StepContext(1, runner.state), list(feeds.values()), 0.15) for _ in range(2))
    assert best < SOON_S


def test_a_kernel_that_was_cut_short_gives_out_nothing():
    """Also when it is the last of its step: its memory was never filled."""
    make, feeds = LONG["MatMul float"]
    maker, fetch = make()
    runner = Runner(maker)
    compiled = runner.compile(list(feeds), [fetch])
    former = worker_pool.workers()
    worker_pool.set_workers(1)
    try:
        cancelled_after(compiled, StepContext(1, runner.state), list(feeds.values()), 0.1)
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
