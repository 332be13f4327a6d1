"""Loops in frames that run without: which they are, and that nobody sees a difference."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime._ext.errors import Cancelled, InvalidArgument
from runtime._ext.executor import Dataflow, FrameLoop, Program, StepTrace
from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, Runner

INT = DataType.INT32
BOOL = DataType.BOOL
FLOAT = DataType.FLOAT


class LoopMaker(GraphMaker):
    """Writes ``while i < n`` with more variables than the counter; `close` ends it."""

    def __init__(self, *variables: str, name: str = "w") -> None:
        super().__init__()
        self.placeholder("n", INT)
        self.placeholder("x")
        self.const("zero", np.int32(0))
        self._name = name
        self._frame = {"frame_name": name, "parallel_iterations": 10}
        self.enter("limit", "n", INT)
        self._variable("i", "zero", INT)
        self.op("Less", "less", "i", "limit", T=INT)
        self.op("LoopCond", "cond", "less")
        self._switch("i", INT)
        self.const("one", np.int32(1), "i/body")
        self.op("AddV2", "i/more", "i/body", "one", T=INT)
        for variable in variables:
            self._variable(variable, "x", FLOAT)
            self._switch(variable, FLOAT)

    def enter(self, name: str, source: str, kind: DataType = FLOAT) -> str:
        """Add what stays the same in all turns."""
        return self.op("Enter", name, source, T=kind, is_constant=True, **self._frame)

    def _variable(self, name: str, start: str, kind: DataType) -> None:
        self.op("Enter", f"{name}/enter", start, T=kind, **self._frame)
        self.op("Merge", name, f"{name}/enter", f"{name}/next", T=kind, N=2)

    def _switch(self, name: str, kind: DataType) -> None:
        self.op("Switch", f"{name}/switch", name, "cond", T=kind)
        self.op("Identity", f"{name}/body", f"{name}/switch:1", T=kind)

    def close(self, *controls: str, **results: str) -> Runner:
        """Say what the variables of the next turn are."""
        waits = [f"^{control}" for control in controls]
        self.op("NextIteration", "i/next", "i/more", *waits, T=INT)
        self.op("Exit", "i/exit", "i/switch", T=INT)
        for name, result in results.items():
            self.op("NextIteration", f"{name}/next", result)
            self.op("Exit", f"{name}/exit", f"{name}/switch")
        return Runner(self)


FEEDS = {"n:0": np.int32(3), "x:0": np.array([1, 2], np.float32)}


def both(runner: Runner, fetches: list[str], targets: tuple[str, ...] = (), kind: type = Program) -> list[list[float]]:
    """Run without frames, which must be possible, and with; return what both compute."""
    compiled = runner.compile(list(FEEDS), fetches, targets)
    assert isinstance(compiled.executor, kind)
    found = [value.tolist() for value in compiled.run(runner.context(), list(FEEDS.values()))]
    assert [value.tolist() for value in runner.by_dataflow(fetches, FEEDS, targets)] == found
    return found


def test_variables_may_change_places_and_stay_as_they_are():
    maker = LoopMaker("a", "b", "c")
    maker.op("AddV2", "sum", "a/body", "b/body")
    runner = maker.close(a="b/body", b="sum", c="c/body")
    assert both(runner, ["a/exit:0", "b/exit:0", "c/exit:0", "i/exit:0"]) == [[3, 6], [5, 10], [1, 2], 3]


def test_what_the_condition_computes_goes_to_the_body_and_out():
    maker = LoopMaker("a")
    maker.op("Square", "square", "a")
    maker.op("Switch", "square/switch", "square", "cond")
    maker.op("Exit", "square/exit", "square/switch")
    maker.op("Sub", "less_a", "square/switch:1", "a/body")
    runner = maker.close(a="less_a")
    expected = np.array([1, 2], np.float32)
    for _ in range(3):
        expected = expected**2 - expected
    assert both(runner, ["square/exit:0", "a/exit:0"]) == [(expected**2).tolist(), expected.tolist()]


def test_values_of_the_condition_reach_the_body_without_a_switch():
    maker = LoopMaker("a")
    maker.op("Square", "square", "a")
    maker.op("AddV2", "more", "a/body", "square")
    assert both(maker.close(a="more"), ["a/exit:0"]) == [[42, 1806]]


def test_what_nobody_reads_is_left_out_of_both_parts_of_a_loop():
    """What hangs on constants alone runs in all turns, and so is handed from the condition to the body."""
    maker = LoopMaker("a")
    maker.enter("other", "x")
    maker.op("Square", "square", "other")
    maker.op("Mul", "unread", "square", "a/body")
    maker.op("AddV2", "sum", "a/body", "a/body", "^unread")
    assert both(maker.close(a="sum"), ["a/exit:0"]) == [[8, 16]]


def test_a_loop_of_no_turns_gives_what_entered():
    runner = LoopMaker("a").close(a="a/body")
    feeds = {**FEEDS, "n:0": np.int32(0)}
    assert [value.tolist() for value in runner.run(["a/exit:0", "i/exit:0"], feeds)] == [[1, 2], 0]


def test_assignments_in_the_body_run_in_every_turn_but_the_last():
    """The counter waits for the assignment, and a trigger waits for both."""
    maker = LoopMaker("a")
    maker.call("VarHandleOp", "v", dtype=FLOAT, shape=(2,), container="", shared_name="v")
    maker.call("AssignVariableOp", "init", "v", "x", dtype=FLOAT)
    maker.op("ControlTrigger", "trigger", "^add", "^a/body")
    maker.const("ten", np.array([10, 10], np.float32), "trigger", "i/body")
    maker.op("AssignAddVariableOp", "add", "v", "a/body")
    maker.op("Mul", "product", "a/body", "ten")
    maker.op("ReadVariableOp", "read", "v", "^a/exit")
    runner = maker.close("add", a="product")
    for _ in range(2):
        runner.run([], FEEDS, targets=["init"])
        compiled = runner.compile(list(FEEDS), ["read:0", "a/exit:0"])
        assert isinstance(compiled.executor, Program)
        read, left = compiled.run(runner.context(), list(FEEDS.values()))
        assert (read.tolist(), left.tolist()) == ([112, 224], [1000, 2000])


def test_loops_in_loops_run_without_frames():
    maker = LoopMaker("a")
    maker.const("start", np.int32(0), "i/body")
    maker.loop("inner", "start", "i/body")
    maker.op("Cast", "turns", "inner/exit", SrcT=INT, DstT=FLOAT)
    maker.op("AddV2", "sum", "a/body", "turns")
    assert both(maker.close(a="sum"), ["a/exit:0"]) == [[4, 5]]


@pytest.mark.parametrize("regular", [True, False])
def test_a_loop_beside_a_conditional(regular):
    """One line with it, or one node of the dataflow when two values may come to the Merge."""
    maker = LoopMaker("a")
    maker.placeholder("p", BOOL)
    maker.op("Switch", "side", "x", "p")
    maker.op("Neg", "negative", "side")
    maker.op("Merge", "joined", "negative", "side:1", N=2)
    maker.op("Merge", "either", "x", "side", N=2)
    maker.op("AddV2", "sum", "a/body", "a/body")
    runner = maker.close(a="sum")
    fetches = ["joined:0", "a/exit:0", *([] if regular else ["either:0"])]
    for taken, value in ((True, [1, 2]), (False, [-1, -2])):
        feeds = {**FEEDS, "p:0": np.bool_(taken)}
        compiled = runner.compile(list(feeds), fetches)
        if regular:
            assert isinstance(compiled.executor, Program)
        else:
            assert isinstance(compiled.executor, Dataflow)
            assert sum(kernel is not None and "Switch" in kernel.node.op for kernel in compiled.executor.kernels) == 2
        found = compiled.run(runner.context(), [np.asarray(value) for value in feeds.values()])
        assert [value.tolist() for value in found[:2]] == [value, [8, 16]]


def with_two_values(maker: LoopMaker) -> Runner:
    """To whose Merge either value may come first."""
    maker.op("Equal", "never", "i/body", "limit", T=INT)
    maker.op("Switch", "side", "a/body", "never")
    maker.op("Merge", "joined", "a/body", "side:1", N=2)
    return maker.close(a="joined")


def with_two_ends(maker: LoopMaker) -> Runner:
    maker.op("LoopCond", "other", "less")
    maker.op("Switch", "second", "a", "other")
    maker.op("AddV2", "sum", "second:1", "a/body")
    return maker.close(a="sum")


def with_merge_index(maker: LoopMaker) -> Runner:
    maker.op("Cast", "which", "a:1", SrcT=INT, DstT=FLOAT)
    maker.op("AddV2", "sum", "which", "a/body")
    return maker.close(a="sum")


def with_later_trigger(maker: LoopMaker) -> Runner:
    """The trigger is live in the last turn, and so is what waits for it."""
    maker.op("ControlTrigger", "trigger", "^a/body")
    maker.op("Square", "square", "a", "^trigger")
    maker.op("Identity", "again", "a/body", "^square")
    return maker.close(a="again")


@pytest.mark.parametrize("write", [with_two_values, with_two_ends, with_merge_index, with_later_trigger])
def test_other_loops_run_in_frames(write):
    maker = LoopMaker("a")
    maker.enter("zero_in", "zero", INT)
    runner = write(maker)
    assert both(runner, ["a/exit:0"], kind=Dataflow)


@pytest.mark.parametrize(("feed", "fetch"), [("i/more:0", "a/exit:0"), ("a/body:0", "a/exit:0"), (None, "i/body:0")])
def test_a_loop_with_a_feed_or_a_fetch_inside_runs_in_frames(feed, fetch):
    runner = LoopMaker("a").close(a="a/body")
    feeds = [*FEEDS] if feed is None else [*FEEDS, feed]
    if feed is None:
        assert isinstance(runner.compile(feeds, [fetch]).executor, Dataflow)
    else:  # a value from outside belongs to no turn
        with pytest.raises(InvalidArgument, match="different frames|outside of any loop"):
            runner.compile(feeds, [fetch])


def test_what_a_loop_gives_may_be_fed_while_it_still_runs():
    maker = LoopMaker("a")
    maker.op("AddV2", "sum", "a/body", "a/body")
    maker.op("Neg", "end", "a/exit", "^i/exit")
    runner = maker.close(a="sum")
    feeds = {**FEEDS, "a/exit:0": np.float32(4)}
    assert isinstance(runner.compile(list(feeds), ["end:0", "i/exit:0"]).executor, Program)
    assert runner.run(["end:0", "i/exit:0"], feeds) == runner.by_dataflow(["end:0", "i/exit:0"], feeds) == [-4, 3]


def test_an_error_names_the_node_and_the_step_lives_on():
    maker = LoopMaker("a")
    maker.const("axes", np.array([0, 0], np.int32), "a/body")
    maker.op("Transpose", "wrong", "a/body", "axes", Tperm=INT)
    runner = maker.close(a="wrong")
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            runner.run("a/exit:0", FEEDS)
        assert caught.value.message.count("{{node wrong}}") == 1
        assert runner.run("i/exit:0", FEEDS) == 3


def test_a_condition_that_is_no_scalar_is_refused():
    maker = LoopMaker("a")
    runner = maker.close(a="a/body")
    with pytest.raises(InvalidArgument, match=r"must be a scalar, but it has shape \[2\](.|\n)*\{\{node \w/switch\}\}"):
        runner.run("i/exit:0", {**FEEDS, "n:0": np.array([1, 2], np.int32)})


def test_a_trace_shows_every_node_of_every_turn():
    maker = LoopMaker("a")
    maker.op("AddV2", "sum", "a/body", "a/body")
    runner = maker.close(a="sum")
    trace = StepTrace()
    compiled = runner.compile(list(FEEDS), ["a/exit:0"])
    found = compiled.run(runner.context(trace=trace), list(FEEDS.values()))
    assert found[0].tolist() == [8, 16]
    names = [event[1].name for event in trace.events]
    counts = {"a/enter": 1, "a": 4, "less": 4, "a/switch": 4, "sum": 3, "a/next": 3, "a/exit": 1}
    assert {name: names.count(name) for name in counts} == counts


def test_a_function_with_a_loop_in_frames_runs_without_them_and_is_traced_with():
    maker = GraphMaker()
    maker.placeholder("n", INT)
    body = maker.function("count", {"limit": INT}, {"turns": ("w/exit:output:0", INT)})
    body.const("zero", np.int32(0))
    frame = {"frame_name": "w", "parallel_iterations": 10}
    body.op("Enter", "w/enter", "zero:output:0", T=INT, **frame)
    body.op("Enter", "w/limit", "limit", T=INT, is_constant=True, **frame)
    body.op("Merge", "w/merge", "w/enter:output:0", "w/next:output:0", T=INT, N=2)
    body.op("Less", "w/less", "w/merge:output:0", "w/limit:output:0", T=INT)
    body.op("LoopCond", "w/cond", "w/less:z:0")
    body.op("Switch", "w/switch", "w/merge:output:0", "w/cond:output:0", T=INT)
    body.const("w/one", np.int32(1), "w/switch")
    body.op("AddV2", "w/add", "w/switch:output_true:0", "w/one:output:0", T=INT)
    body.op("NextIteration", "w/next", "w/add:z:0", T=INT)
    body.op("Exit", "w/exit", "w/switch:output_false:0", T=INT)
    maker.call("count", "call", "n")
    runner = Runner(maker)
    compiled = runner.compile(["n:0"], ["call:0"])
    trace = StepTrace()
    assert compiled.run(runner.context(), [np.int32(5)]) == [5]
    assert compiled.run(runner.context(trace=trace), [np.asarray(np.int32(5))]) == [5]
    assert sum(event[1].name == "w/next" for event in trace.events) == 5


def test_a_loop_that_does_not_end_is_cancelled():
    maker = LoopMaker()
    maker.op("Identity", "same", "i/body", T=INT)
    maker.op("NextIteration", "i/next", "same", T=INT)
    maker.op("Exit", "i/exit", "i/switch", T=INT)
    runner = Runner(maker)
    compiled = runner.compile(list(FEEDS), ["i/exit:0"])
    assert isinstance(compiled.executor, Program)
    context = runner.context()
    timer = threading.Timer(0.05, context.cancel, [Cancelled("enough")])
    timer.start()
    with pytest.raises(Cancelled, match="enough"):
        compiled.run(context, list(FEEDS.values()))
    timer.join(10)


def test_a_loop_of_wrong_numbers_is_refused():
    line = Program([], [], [], 1, [], [-1], [0], [None])
    with pytest.raises(ValueError, match="1 variables and 0 constants"):
        FrameLoop(line, line, 1, 0, [1], [0])
    with pytest.raises(ValueError, match="2 values given to a loop that 1 enter"):
        FrameLoop(line, line, 1, 0, [0], [0])(Runner(GraphMaker()).context(), 1, 2)
