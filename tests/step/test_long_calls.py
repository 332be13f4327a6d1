"""A step that is cancelled leaves a long call of a library behind; nothing comes of it, and there are not many."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime._ext import long_calls, running_step
from runtime._ext.errors import Cancelled, InvalidArgument, ResourceExhausted
from runtime._ext.executor import BoundKernel, Program, StepContext
from runtime.dtypes import DataType, from_numpy
from tests.step.maker import GraphMaker, Runner
from tests.step.test_cancelling import cancelled_at_work

F32 = np.dtype(np.float32).num
LINEAR = long_calls.COSTS["linear"]
LARGE = np.zeros(4 << 20, np.float32)  # expected to take longer than a step waits in its own thread
PATIENCE_S = 60.0


def program(call: Any, name: str = "node", cost: int | None = LINEAR) -> Program:
    kernel = BoundKernel(None, name, call, None, 1, [F32], None, False, cost)
    return Program([kernel], [(0,)], [(1,)], 2, [], [F32], [1], [None])


class Held:
    """A definition whose calls last until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.step: StepContext | None = None

    def __call__(self, x: Any) -> Any:
        self.begun.release()
        self.go.wait(PATIENCE_S)
        return x[:1] + 1


def no_call_is_left() -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while long_calls.left_calls() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not long_calls.left_calls()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()
    assert no_call_is_left()


def leave(made: Program, held: Held, feed: Any = LARGE) -> None:
    """Run a program in a thread and cancel its step within the call."""
    step, outcome = StepContext(1, None), []

    def run() -> None:
        try:
            outcome.append(made.run(step, [feed]))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert held.begun.acquire(timeout=PATIENCE_S)
    reason = Cancelled("enough")
    step.cancel(reason)
    thread.join(PATIENCE_S)
    assert outcome == [reason]


def test_a_cancelled_step_leaves_its_call_behind(held):
    leave(program(held, "slow"), held)
    assert long_calls.left_calls() == ["slow"]
    held.go.set()
    assert no_call_is_left()


def test_a_call_that_was_left_behind_keeps_its_inputs(held):
    feed = LARGE.copy()
    alive = weakref.ref(feed)
    leave(program(held), held, feed)
    del feed
    assert alive() is not None
    held.go.set()
    assert no_call_is_left()
    deadline = time.monotonic() + PATIENCE_S
    while alive() is not None and time.monotonic() < deadline:
        gc.collect()  # the error that the step ended with holds the frames that it passed
        time.sleep(0.01)
    assert alive() is None


def test_no_further_long_call_begins_while_too_many_are_left_behind(held):
    for number in range(long_calls.MOST_LEFT):
        leave(program(held, f"slow{number}"), held)
    with pytest.raises(ResourceExhausted, match="slow0, slow1, .*slow7") as caught:
        program(held, "next").run(StepContext(1, None), [LARGE])
    assert "{{node next}}" in caught.value.message
    assert program(lambda x: x, "short").run(StepContext(1, None), [LARGE[:10]])[0].size == 10
    held.go.set()
    assert no_call_is_left()
    assert program(held, "next").run(StepContext(1, None), [LARGE])[0] == [1]


def test_python_code_that_was_left_behind_ends():
    begun = threading.Event()

    def endless(x: Any) -> Any:
        while True:
            begun.set()

    step = StepContext(1, None)
    threading.Thread(target=lambda: (begun.wait(PATIENCE_S), step.cancel(Cancelled("enough")))).start()
    with pytest.raises(Cancelled, match="enough"):
        program(endless).run(step, [LARGE])
    assert no_call_is_left()


def thread_of_call(made: list[int], seconds: float = 0.0) -> Any:
    def call(x: Any) -> Any:
        made.append(threading.get_ident())
        time.sleep(seconds)
        return x

    return call


def test_short_calls_run_where_they_stand():
    made: list[int] = []
    for cost, feed in ((LINEAR, LARGE[:100]), (LINEAR, LARGE[:100_000]), (None, LARGE)):
        program(thread_of_call(made), cost=cost).run(StepContext(1, None), [feed])
    assert made == [threading.get_ident()] * 3


def test_calls_tell_how_long_the_next_will_take():
    made: list[int] = []
    slow = program(thread_of_call(made, 0.05))
    for _ in range(2):
        slow.run(StepContext(1, None), [LARGE[:100_000]])
    assert made[0] == threading.get_ident() != made[1]
    made.clear()
    quick = program(thread_of_call(made))
    for _ in range(20):
        quick.run(StepContext(1, None), [LARGE])
    assert made[0] != threading.get_ident()
    assert threading.get_ident() in made


def test_objects_count_with_their_length():
    made: list[int] = []
    feed = np.empty(1, object)
    kernel = BoundKernel(None, "node", thread_of_call(made), None, 1, [feed.dtype.num], None, False, LINEAR)
    texts = Program([kernel], [(0,)], [(1,)], 2, [], [feed.dtype.num], [1], [None])
    for text in (b"x", bytes(1 << 22)):
        feed[0] = text
        texts.run(StepContext(1, None), [feed])
    assert made[0] == threading.get_ident() != made[1]


def test_a_long_call_fails_as_a_short_one_does():
    def refuse(x: Any) -> Any:
        raise InvalidArgument("no")

    with pytest.raises(InvalidArgument, match="no\n.*node refusing"):
        program(refuse, "refusing").run(StepContext(1, None), [LARGE])


def test_what_a_long_call_makes_is_on_the_account_of_its_step():
    step = StepContext(1, None, memory_limit=LARGE.nbytes // 2)
    with pytest.raises(ResourceExhausted, match="OOM when node asked for"):
        program(lambda x: x + 1).run(step, [LARGE])
    step = StepContext(1, None)
    program(lambda x: x + 1).run(step, [LARGE])
    assert step.peak_bytes == LARGE.nbytes


def test_a_long_call_is_told_when_its_step_is_cancelled(held):
    seen = threading.Event()

    def call(x: Any) -> Any:
        held.begun.release()
        deadline = time.monotonic() + PATIENCE_S
        while not running_step.stopped() and time.monotonic() < deadline:
            held.go.wait(0.01)
        if running_step.stopped():
            seen.set()
        return x

    leave(program(call), held)
    assert no_call_is_left()


def test_a_definition_that_takes_the_step_cannot_be_left_behind():
    with pytest.raises(ValueError, match="node n: a definition that takes the step"):
        BoundKernel(None, "n", lambda step: None, None, 0, [], None, True, LINEAR)


def test_a_process_ends_while_a_call_that_was_left_behind_runs():
    code = """
import threading, time
import numpy as np
from runtime._ext.errors import Cancelled
from runtime._ext.executor import BoundKernel, Program, StepContext
step = StepContext(1, None)
def call(x):
    step.cancel(Cancelled("enough"))
    time.sleep(1000)
kernel = BoundKernel(None, "n", call, None, 1, [11], None, False, 0)
try:
    Program([kernel], [(0,)], [(1,)], 2, [], [11], [1], [None]).run(step, [np.zeros(4 << 20, np.float32)])
except Cancelled:
    print("left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert (done.stdout, done.stderr) == ("left\n", "")


def texts(count: int, text: bytes) -> Any:
    made = np.empty(count, object)
    made[:] = [text] * count
    return made


def scalar(value: bytes) -> Any:
    made = np.empty((), object)
    made[()] = value
    return made


# Each takes half a second or more; what it leaves behind is waited for.
REAL: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "Svd": ({}, [np.random.default_rng(1).standard_normal((1400, 1400))]),
    "SelfAdjointEigV2": ({}, [np.random.default_rng(1).standard_normal((2200, 2200))]),
    "FFT2D": ({}, [np.zeros((5000, 5000), np.complex64)]),
    "Unique": ({}, [np.random.default_rng(1).standard_normal(6_000_000)]),
    "MatMul": ({}, [np.ones((1000, 1000), np.int32)] * 2),
    "Igamma": ({}, [np.linspace(1, 9, 12_000).reshape(-1, 1), np.linspace(1, 9, 1000)]),
    "RegexReplace": ({}, [texts(100_000, b"the quick brown fox"), scalar(b"q(u)ick.*f"), scalar(b"x")]),
    "StringSplitV2": ({}, [texts(1_000_000, b"the quick brown fox"), scalar(b" ")]),
}


# Code in Python, or a loop of ours in pieces, which ends itself when its step does.
ENDS_ITSELF = ("Igamma", "RegexReplace", "StringSplitV2")


# What ends Python code may find it in a callback of a weak reference, which only says that it was interrupted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("op", REAL)
def test_a_cancelled_step_ends_within_a_call_of_a_library(op):
    attrs, feeds = REAL[op]
    maker = GraphMaker()
    kinds = [DataType.STRING if feed.dtype == object else from_numpy(feed.dtype) for feed in feeds]
    names = [maker.placeholder(f"x{number}", kind) for number, kind in enumerate(kinds)]
    maker.op(op, "kernel", *names, **attrs, **({} if kinds[0] in (DataType.STRING, DataType.COMPLEX64)
                                               else {"T": kinds[0]}))
    runner = Runner(maker)
    compiled = runner.compile([f"{name}:0" for name in names], ["kernel:0"])
    cancelled_at_work(compiled, StepContext(1, runner.state), feeds)
    assert long_calls.left_calls() == ["kernel"] or op in ENDS_ITSELF
    assert no_call_is_left()
