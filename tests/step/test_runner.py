"""Which thread a step runs in."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from runtime._ext.errors import Cancelled, InvalidArgument
from runtime.step.runner import StepRunner
from tests.step.maker import GraphMaker, Runner


class Compiled:
    """Stands for a compiled step that takes as long as it is told to."""

    def __init__(self, seconds=0.0, blocking=False, bounded=True):
        self.blocking = blocking
        self.bounded = bounded
        self.timing = {}
        self.seconds = seconds
        self.threads = []

    def run(self, step, feeds):
        self.threads.append(threading.current_thread())
        time.sleep(self.seconds)
        return list(feeds)

    def start(self, step, feeds, done):
        done(self.run(step, feeds), None)


class Step:
    hand_over = None


SMALL = [np.zeros(1, np.float32)]
LARGE = [np.zeros(1 << 20, np.float32)]


@pytest.fixture
def runner(no_leaks):
    with StepRunner(2, short_s=0.1) as made:  # far from what scheduling on a busy machine costs
        yield made


def test_a_step_is_short_once_it_was_measured_to_be(runner):
    compiled = Compiled()
    assert not runner.runs_here(compiled, SMALL)
    runner.run(compiled, Step(), SMALL)
    assert runner.runs_here(compiled, SMALL)
    compiled.seconds = 1.0
    runner.run(compiled, Step(), SMALL)
    assert not runner.runs_here(compiled, SMALL)
    compiled.seconds = 0
    for _ in range(6):
        runner.run(compiled, Step(), SMALL)
    assert runner.runs_here(compiled, SMALL)


def test_feeds_of_another_size_are_judged_by_themselves(runner):
    compiled = Compiled()
    runner.run(compiled, Step(), SMALL)
    assert runner.runs_here(compiled, SMALL)
    assert not runner.runs_here(compiled, LARGE)


def test_a_step_that_waits_never_runs_to_its_end_here(runner):
    compiled = Compiled(blocking=True)
    compiled.timing[0] = 0.0
    assert not runner.runs_here(compiled)


def test_a_step_that_may_take_any_time_never_runs_here(runner):
    compiled = Compiled(bounded=False)
    compiled.timing[0] = 0.0
    assert not runner.runs_here(compiled)
    compiled.blocking = True
    _started(runner, compiled)
    assert compiled.threads[0] is not threading.current_thread()


def _started(runner, compiled, feeds=SMALL):
    ended = threading.Event()
    answers = []

    def done(outputs, error):
        answers.append((outputs, error))
        ended.set()

    runner.start(compiled, Step(), feeds, done)
    assert ended.wait(10)
    return answers[0]


def test_started_steps_run_in_the_pool(runner):
    compiled = Compiled()
    for _ in range(5):
        assert _started(runner, compiled) == (SMALL, None)
    assert threading.current_thread() not in compiled.threads
    assert len(set(compiled.threads)) <= 2


def test_a_waiting_step_begins_here_when_its_beginning_is_short(runner):
    compiled = Compiled(blocking=True)
    for _ in range(2):
        _started(runner, compiled)
    assert compiled.threads[0] is not threading.current_thread()
    deadline = time.monotonic() + 10
    while not compiled.timing and time.monotonic() < deadline:
        time.sleep(0.001)
    compiled.timing[0] = 0.0
    _started(runner, compiled)
    assert compiled.threads[-1] is threading.current_thread()


def test_errors_reach_done(runner):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("CheckNumerics", "check", "x", message="found")
    graph = Runner(maker)
    compiled = graph.compile(["x:0"], ["check:0"])
    ended = threading.Event()
    errors = []
    runner.start(
        compiled,
        graph.context(),
        [np.array(np.nan, np.float32)],
        lambda outputs, error: (errors.append(error), ended.set()),
    )
    assert ended.wait(10)
    assert isinstance(errors[0], InvalidArgument)


def test_two_long_steps_run_side_by_side(runner):
    barrier = threading.Barrier(2, timeout=10)
    ended = threading.Semaphore(0)
    for _ in range(2):
        runner.hand_over(lambda: (barrier.wait(), ended.release()))
    for _ in range(2):
        assert ended.acquire(timeout=10)


def test_the_pool_grows_while_long_steps_hold_all_of_it(runner):
    """Work behind steps that do not end begins all the same; the threads for it end when they are idle."""
    gate, ended = threading.Event(), threading.Event()
    for _ in range(20):
        runner.hand_over(gate.wait)
    runner.hand_over(ended.set)
    assert ended.wait(10)
    assert not gate.is_set()
    gate.set()
    assert _until(lambda: len(runner.pool._threads) == 2 and runner.pool._idle == 2)
    barrier = threading.Barrier(3, timeout=10)
    for _ in range(2):
        runner.hand_over(barrier.wait)
    barrier.wait()


def test_a_pool_whose_work_goes_on_does_not_grow(runner):
    ended = threading.Semaphore(0)
    for _ in range(40):
        runner.hand_over(lambda: (time.sleep(0.01), ended.release()))
    for _ in range(40):
        assert ended.acquire(timeout=10)
    # A busy machine may hold both threads up for longer than that once.
    assert runner.pool._started <= 4


def test_closing_ends_the_threads_of_a_pool_that_has_grown(no_leaks):
    runner = StepRunner(1)
    gate = threading.Event()
    for _ in range(10):
        runner.hand_over(gate.wait)
    assert _until(lambda: len(runner.pool._threads) > 3)
    gate.set()
    runner.close()


def _until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_work_that_fails_is_logged_and_the_thread_lives_on(runner, caplog):
    ended = threading.Event()
    runner.hand_over(lambda: 1 / 0)
    runner.hand_over(lambda: 1 / 0)
    runner.hand_over(ended.set)
    assert ended.wait(10)
    assert "work in a step thread failed" in caplog.text


def test_a_closed_runner_finishes_what_it_has_and_refuses_more(no_leaks):
    runner = StepRunner(1)
    ran = []
    gate = threading.Event()
    runner.hand_over(gate.wait)
    runner.hand_over(lambda: ran.append(1))
    gate.set()
    runner.close()
    runner.close()
    assert ran == [1]
    with pytest.raises(Cancelled, match="closed"):
        runner.start(Compiled(), Step(), SMALL, lambda outputs, error: None)


def test_a_pool_of_no_threads_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        StepRunner(0)
