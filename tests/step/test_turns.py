"""Loops that never end let everybody else have the interpreter."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from runtime._ext.errors import Cancelled
from runtime._ext.executor import StepContext
from tests.step.endless import LOOPS
from tests.step.maker import GraphMaker, Runner

# Some 15 ms on a machine of one's own, 35 at most; without turns it is 100 ms for most and up to a second.
USUAL_S = 0.06
MANY = 36


@contextmanager
def running(name: str, count: int) -> Iterator[list[StepContext]]:
    """Run a step in many threads; cancel them at the end."""
    maker, fetch = LOOPS[name]()
    runner = Runner(maker)
    compiled = runner.compile([], [fetch])
    steps = [StepContext(number, runner.state) for number in range(count)]

    def run(step: StepContext) -> None:
        with pytest.raises(Cancelled):
            compiled.run(step, [])

    threads = [threading.Thread(target=run, args=[step]) for step in steps]
    for thread in threads:
        thread.start()
    try:
        yield steps
    finally:
        for step in steps:
            step.cancel(Cancelled("enough"))
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("name", ["frames", "functions", "long turns"])
def test_another_thread_waits_little_beside_many_endless_loops(name):
    with running(name, MANY):
        time.sleep(0.3)  # until each has used up its first slice
        waits = []
        for _ in range(60):
            started = time.perf_counter()
            time.sleep(0.001)
            waits.append(time.perf_counter() - started)
    assert sorted(waits)[len(waits) // 2] < USUAL_S


def test_every_loop_has_its_turn():
    """None of them is forgotten: each goes on within a second or two."""
    maker, fetch = LOOPS["functions"]()
    runner = Runner(maker)
    with running("functions", MANY):
        compiled = runner.compile([], [fetch])
        late = StepContext(1, runner.state)
        threading.Timer(1.0, late.cancel, [Cancelled("its time is up")]).start()
        started = time.monotonic()
        with pytest.raises(Cancelled, match="its time is up"):
            compiled.run(late, [])
        assert time.monotonic() - started < 5


def test_a_short_step_beside_many_loops_is_answered():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "y", "x")
    runner = Runner(maker)
    compiled = runner.compile(["x:0"], ["y:0"])
    with running("frames", MANY):
        for number in range(20):
            assert compiled.run(StepContext(number, None), [np.float32(number).reshape(())]) == [-number]


def test_a_step_that_waits_for_its_turn_is_cancelled_at_once():
    with running("functions", MANY) as steps:
        time.sleep(0.5)
        started = time.monotonic()
        for step in steps:
            step.cancel(Cancelled("enough"))
    assert time.monotonic() - started < 2
