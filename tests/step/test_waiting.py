"""Steps in which something waits: in the graph, in loops, and in library functions; and partial runs of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime._ext.errors import Cancelled, Internal, InvalidArgument
from runtime._ext.executor import StepContext
from runtime.dtypes import DataType
from runtime.ops import registry
from runtime.step.runner import StepRunner
from tests.step.maker import GraphMaker, Runner, function

FLOAT = DataType.FLOAT
INT = DataType.INT32
BOOL = DataType.BOOL


class Waits:
    """Makes ``Neg`` an op that waits: its answer is computed by `release`, or at once, or in another thread."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.parked: list[tuple[Any, Any]] = []
        self.threads: list[threading.Thread] = []

    def bind(self, node: Any, env: Any) -> Any:
        def run(step: StepContext, done: Any, value: Any) -> None:
            if self.mode == "at once":
                done(np.negative(value), None)
            elif self.mode == "thread":
                thread = threading.Thread(target=done, args=[np.negative(value), None])
                self.threads.append(thread)
                thread.start()
            else:
                entry = (value, done)
                self.parked.append(entry)
                step.on_cancel(lambda: self._cancel(entry))

        return run

    def _cancel(self, entry: tuple[Any, Any]) -> None:
        if entry in self.parked:
            self.parked.remove(entry)
            entry[1](None, Cancelled("the wait was cancelled"))

    def release(self) -> None:
        value, done = self.parked.pop(0)
        done(np.negative(value), None)

    def __enter__(self) -> Waits:
        registry.load()
        self._former = registry._KERNELS["Neg"]
        registry._KERNELS["Neg"] = replace(self._former, bind=self.bind, asynchronous=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        registry._KERNELS["Neg"] = self._former
        for thread in self.threads:
            thread.join(10)


@pytest.fixture(params=["at once", "thread"])
def waits(request: pytest.FixtureRequest) -> Iterator[Waits]:
    with Waits(request.param) as made:
        yield made


@pytest.fixture
def parks() -> Iterator[Waits]:
    with Waits("park") as made:
        yield made


class Answer:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.count = 0

    def __call__(self, outputs: Any, error: BaseException | None) -> None:
        self.outputs, self.error = outputs, error
        self.count += 1
        self.event.set()

    def get(self) -> Any:
        assert self.event.wait(20), "the step did not end"
        assert self.count == 1
        if self.error is not None:
            raise self.error
        return self.outputs


def _run(runner: Runner, fetches: list[str], feeds: dict[str, Any]) -> Any:
    compiled = runner.compile(list(feeds), fetches)
    assert compiled.blocking
    with StepRunner(2) as pool:
        answer = Answer()
        pool.start(compiled, runner.context(), [np.asarray(value) for value in feeds.values()], answer)
        return answer.get()


def test_a_graph_with_a_waiting_op(waits):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "neg", "x")
    maker.op("Add", "add", "neg", "neg")
    assert _run(Runner(maker), ["add:0"], {"x:0": np.float32(3)}) == [-6]


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_loop_in_frames_that_waits_in_every_turn(waits, parallel):
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    maker.loop("w", "zero", "n", parallel=parallel)
    maker.op("Neg", "w/there", "w/add", T=INT)
    maker.op("Neg", "w/back", "w/there", T=INT)
    for node in maker.proto.node:
        if node.name == "w/next":
            node.input[0] = "w/back"
    assert _run(Runner(maker), ["w/exit:0"], {"n:0": np.int32(50)}) == [50]


def _functions(maker: GraphMaker) -> None:
    body = maker.function("minus", {"x": FLOAT}, {"y": ("neg:y:0", FLOAT)})
    body.op("Neg", "neg", "x")
    twice = maker.function("twice", {"x": FLOAT}, {"y": ("sum:z:0", FLOAT)})
    twice.call("PartitionedCall", "call", "x", f=function("minus"), Tin=[FLOAT], Tout=[FLOAT])
    twice.call("minus", "by_name", "call:output:0")
    twice.op("Add", "sum", "by_name:y:0", "by_name:y:0")
    maker.function("same", {"x": FLOAT}, {"y": ("x", FLOAT)})


def test_calls_of_functions_that_wait(waits):
    maker = GraphMaker()
    maker.placeholder("x")
    _functions(maker)
    maker.call("StatefulPartitionedCall", "call", "x", f=function("twice"), Tin=[FLOAT], Tout=[FLOAT])
    maker.call("twice", "by_name", "call")
    assert _run(Runner(maker), ["by_name:0"], {"x:0": np.float32(3)}) == [12]


@pytest.mark.parametrize(("taken", "expected"), [(True, -3), (False, 3)])
def test_a_branch_that_waits_beside_one_that_does_not(waits, taken, expected):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    _functions(maker)
    maker.call(
        "If",
        "if",
        "p",
        "x",
        Tcond=BOOL,
        Tin=[FLOAT],
        Tout=[FLOAT],
        then_branch=function("minus"),
        else_branch=function("same"),
    )
    assert _run(Runner(maker), ["if:0"], {"x:0": np.float32(3), "p:0": taken}) == [expected]


def _while(maker: GraphMaker, limit: int) -> None:
    cond = maker.function("cond", {"i": INT, "x": FLOAT}, {"go": ("less:z:0", BOOL)})
    cond.const("limit", np.int32(limit))
    cond.op("Less", "less", "i", "limit:output:0", T=INT)
    body = maker.function("body", {"i": INT, "x": FLOAT}, {"i_out": ("add:z:0", INT), "x_out": ("neg:y:0", FLOAT)})
    body.const("one", np.int32(1))
    body.op("Add", "add", "i", "one:output:0", T=INT)
    body.op("Neg", "neg", "x")
    maker.placeholder("start", INT)
    maker.call("While", "while", "start", "x", T=[INT, FLOAT], cond=function("cond"), body=function("body"))


@pytest.mark.parametrize("turns", [0, 1, 2001])
def test_a_while_that_waits_does_not_grow_the_stack(waits, turns):
    if waits.mode == "thread":
        turns = min(turns, 21)
    maker = GraphMaker()
    maker.placeholder("x")
    _while(maker, turns)
    number, value = _run(Runner(maker), ["while:0", "while:1"], {"start:0": np.int32(0), "x:0": np.float32(3)})
    assert (number, value) == (turns, 3 if turns % 2 == 0 else -3)


def test_a_for_that_waits(waits):
    maker = GraphMaker()
    maker.placeholder("x")
    body = maker.function("body", {"i": INT, "x": FLOAT}, {"y": ("neg:y:0", FLOAT)})
    body.op("Neg", "neg", "x")
    maker.const("zero", np.int32(0))
    maker.const("one", np.int32(1))
    maker.placeholder("n", INT)
    maker.call("For", "for", "zero", "n", "one", "x", T=[FLOAT], body=function("body"))
    assert _run(Runner(maker), ["for:0"], {"x:0": np.float32(3), "n:0": np.int32(7)}) == [-3]


def test_errors_in_functions_that_wait_name_the_way(waits):
    maker = GraphMaker()
    maker.placeholder("x")
    fail = maker.function("fail", {"x": FLOAT}, {"y": ("check:output:0", FLOAT)})
    fail.op("Neg", "neg", "x")
    fail.op("CheckNumerics", "check", "neg:y:0", message="found")
    maker.call("PartitionedCall", "call", "x", f=function("fail"), Tin=[FLOAT], Tout=[FLOAT])
    with pytest.raises(InvalidArgument) as caught:
        _run(Runner(maker), ["call:0"], {"x:0": np.float32(np.inf)})
    assert caught.value.message == "found : Tensor had Inf values\n\t [[{{node call/check}}]]"


@pytest.mark.parametrize("form", ["graph", "call", "while"])
def test_cancelling_a_waiting_step_ends_it_at_once(parks, form, no_leaks):
    maker = GraphMaker()
    maker.placeholder("x")
    fetch, feeds = "neg:0", [np.zeros((), np.float32)]
    names = ["x:0"]
    if form == "graph":
        maker.op("Neg", "neg", "x")
    elif form == "call":
        _functions(maker)
        maker.call("twice", "neg", "x")
    else:
        _while(maker, 5)
        fetch, names, feeds = "while:0", ["start:0", "x:0"], [np.zeros((), np.int32), *feeds]
    runner = Runner(maker)
    compiled = runner.compile(names, [fetch])
    step = runner.context()
    answer = Answer()
    compiled.start(step, feeds, answer)
    assert len(parks.parked) == 1
    step.cancel(Cancelled("the session was closed"))
    with pytest.raises(Cancelled) as caught:
        answer.get()
    assert caught.value.message == "the session was closed"
    assert not parks.parked


def test_one_failing_node_ends_the_waiting_ones(parks):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "neg", "x")
    maker.op("CheckNumerics", "check", "x", message="found")
    runner = Runner(maker)
    answer = Answer()
    runner.compile(["x:0"], ["neg:0", "check:0"]).start(runner.context(), [np.array(np.nan, np.float32)], answer)
    with pytest.raises(InvalidArgument, match="found : Tensor had NaN values"):
        answer.get()
    assert not parks.parked


# Partial runs.


@pytest.fixture
def partial() -> Runner:
    maker = GraphMaker()
    maker.placeholder("a")
    maker.placeholder("b")
    maker.const("two", np.float32(2))
    maker.op("Add", "sum", "a", "two")
    maker.op("Mul", "product", "sum", "b")
    maker.op("NoOp", "barrier", "^b")
    maker.op("Identity", "after", "sum", "^barrier")
    maker.op("Neg", "neg", "b")
    return Runner(maker)


def _one(value: float) -> Any:
    return np.full((), value, np.float32)


def test_a_partial_run_answers_what_it_can(partial):
    compiled = partial.compile(["a:0", "b:0"], ["sum:0", "product:0", "after:0", "two:0"], partial=True)
    step = partial.context()
    run = compiled.begin_partial(step)
    first, second, rest, end = Answer(), Answer(), Answer(), Answer()
    run.feed(0, _one(3))
    run.fetch([0, 3], first)
    assert first.get() == [5, 2]
    run.fetch([1], second)
    run.fetch([2], rest)
    assert not second.count
    assert not rest.count
    run.feed(1, _one(10))
    run.finish(end)
    assert second.get() == [50]
    assert rest.get() == [5]
    assert end.get() is None
    with pytest.raises(InvalidArgument, match="fetch 0 of the partial run has been taken"):
        run.fetch([0], Answer())
    with pytest.raises(InvalidArgument, match="feed 0 of the partial run has been given"):
        run.feed(0, _one(3))


def test_a_partial_run_checks_its_feeds(partial):
    run = partial.compile(["a:0"], ["sum:0"], partial=True).begin_partial(partial.context())
    with pytest.raises(Internal, match="_recv_a_0"):
        run.feed(0, np.zeros((), np.int32))
    run.feed(0, _one(1))
    answer = Answer()
    run.fetch([0], answer)
    assert answer.get() == [3]


def test_cancelling_a_partial_run_ends_its_calls(partial):
    run = partial.compile(["a:0", "b:0"], ["product:0"], partial=True).begin_partial(partial.context())
    answer = Answer()
    run.fetch([0], answer)
    run.cancel(Cancelled("closed"))
    with pytest.raises(Cancelled, match="closed"):
        answer.get()


@pytest.mark.parametrize("indices", [[], [3]], ids=["nothing", "a constant"])
def test_a_partial_run_answers_a_call_that_comes_while_another_is_answered(partial, indices):
    run = partial.compile(["a:0", "b:0"], ["sum:0", "product:0", "after:0", "two:0"], partial=True).begin_partial(
        partial.context()
    )
    second = Answer()
    run.feed(0, _one(3))
    run.fetch([0], lambda outputs, error: run.fetch(indices, second))
    assert second.get() == [2] * len(indices)


def test_a_cancellation_while_a_call_is_answered_ends_the_others(partial):
    run = partial.compile(["a:0", "b:0"], ["sum:0", "product:0"], partial=True).begin_partial(partial.context())
    waiting = Answer()
    run.fetch([1], waiting)
    run.feed(0, _one(3))
    run.fetch([0], lambda outputs, error: run.cancel(Cancelled("closed")))
    with pytest.raises(Cancelled, match="closed"):
        waiting.get()


def test_a_step_for_partial_runs_must_be_compiled_so(partial):
    with pytest.raises(ValueError, match="partial=True"):
        partial.compile(["a:0"], ["sum:0"]).begin_partial(partial.context())


def test_a_partial_run_goes_on_in_the_pool(partial, no_leaks):
    with StepRunner(1) as pool:
        step = StepContext(1, partial.state, hand_over=pool.hand_over)
        run = partial.compile(["a:0", "b:0"], ["sum:0", "product:0"], partial=True).begin_partial(step)
        for index, value, expected in ((0, 3, 5), (1, 4, 20)):
            answer = Answer()
            run.feed(index, _one(value))
            run.fetch([index], answer)
            assert answer.get() == [expected]
        end = Answer()
        run.finish(end)
        assert end.get() is None
