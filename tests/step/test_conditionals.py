"""Conditionals in straight lines: which ones they are, and that nobody sees a difference to dead values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import Dataflow, DeadFetch, Program, StepTrace
from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, Runner

INT, BOOL, FLOAT = DataType.INT32, DataType.BOOL, DataType.FLOAT
BOTH = [False, True]


class CondMaker(GraphMaker):
    """Has a predicate ``p``, its pivots ``no`` and ``yes``, and ``x`` on both sides: ``x/no`` and ``x/yes``."""

    def __init__(self) -> None:
        super().__init__()
        self.placeholder("p", BOOL)
        self.placeholder("q", BOOL)
        self.placeholder("x")
        self.side("p", "no", "yes")
        self.op("Switch", "x/switch", "x", "p")
        self.op("Identity", "x/no", "x/switch")
        self.op("Identity", "x/yes", "x/switch:1")

    def side(self, predicate: str, no: str, yes: str) -> None:
        self.op("Switch", f"{no}/switch", predicate, predicate, T=BOOL)
        self.op("Identity", no, f"{no}/switch", T=BOOL)
        self.op("Identity", yes, f"{no}/switch:1", T=BOOL)


def outcome(run: Callable[[], Sequence[Any]]) -> Any:
    """Return the values of a run, or which fetch is dead."""
    try:
        return [value.tolist() for value in run()]
    except DeadFetch as error:
        return error.index


def both(maker: GraphMaker, fetches: list[str], targets: Sequence[str] = (), kind: type = Program, **feeds: Any) -> Any:
    """Run as a line, which must be possible, and by dataflow; return the outcome of both."""
    runner = Runner(maker)
    names = {f"{name}:0": np.asarray(value) for name, value in feeds.items()}
    compiled = runner.compile(list(names), fetches, targets)
    assert isinstance(compiled.executor, kind)
    found = [outcome(lambda: compiled.run(runner.context(), list(names.values()))) for _ in range(2)]
    assert found[0] == found[1]  # a frame that was used before
    assert outcome(lambda: runner.by_dataflow(fetches, names, targets)) == found[0]
    return found[0]


@pytest.mark.parametrize("p", BOTH)
@pytest.mark.parametrize("q", BOTH)
def test_conditionals_in_conditionals(p, q):
    maker = CondMaker()
    maker.op("Switch", "q/in", "q", "p", T=BOOL)
    maker.side("q/in:1", "inner_no", "inner_yes")
    maker.op("Switch", "y", "x/yes", "q/in:1")
    maker.const("ten", np.float32(10), "inner_yes")
    maker.op("AddV2", "more", "y:1", "ten")
    maker.op("Neg", "less", "y")
    maker.op("Merge", "inner", "less", "more", N=2)
    maker.op("Square", "square", "inner")
    maker.op("Merge", "outer", "x/no", "square", N=2)
    maker.op("AddV2", "sum", "outer", "x")
    feeds = {"p": p, "q": q, "x": np.float32(3)}
    result = (13.0**2 if q else 9.0) if p else 3.0
    assert both(maker, ["sum:0", "outer:1"], **feeds) == [result + 3, int(p)]
    assert both(maker, ["sum:0", "less:0"], **feeds) == ([12, -3] if p and not q else 1)
    assert both(maker, ["inner:1"], **feeds) == ([int(q)] if p else 0)


@pytest.mark.parametrize("p", BOTH)
def test_only_the_side_that_is_taken_has_effects(p):
    maker = CondMaker()
    for name in ("a", "b"):
        maker.call("VarHandleOp", name, dtype=FLOAT, shape=(), container="", shared_name=name)
        maker.call("AssignVariableOp", f"init_{name}", name, "x", dtype=FLOAT)
    maker.op("AssignAddVariableOp", "add_a", "a", "x/yes")
    maker.const("one", np.float32(1), "no")
    maker.op("AssignAddVariableOp", "add_b", "b", "one")
    maker.op("NoOp", "did_a", "^add_a")
    maker.op("ReadVariableOp", "read_a", "a")
    maker.op("ReadVariableOp", "read_b", "b")
    runner = Runner(maker)
    feeds = {"x:0": np.float32(5), "p:0": np.bool_(p)}
    runner.run([], {"x:0": np.float32(5)}, targets=["init_a", "init_b"])
    compiled = runner.compile(list(feeds), [], ["did_a", "add_b"])
    assert isinstance(compiled.executor, Program)
    for _ in range(2):
        compiled.run(runner.context(), [np.asarray(value) for value in feeds.values()])
    assert runner.run(["read_a:0", "read_b:0"]) == ([15, 5] if p else [5, 7])


@pytest.mark.parametrize("p", BOTH)
def test_death_goes_along_control_edges_but_not_through_triggers(p):
    maker = CondMaker()
    maker.op("Neg", "on_yes", "x", "^yes")
    maker.op("NoOp", "group", "^on_yes")
    maker.op("Square", "later", "x", "^group")
    maker.op("ControlTrigger", "trigger", "^on_yes")
    maker.op("Square", "always", "x", "^trigger")
    maker.op("Identity", "same", "x", "^yes")
    maker.const("constant", np.float32(7), "yes")
    feeds = {"p": p, "x": np.float32(3)}
    assert both(maker, ["always:0"], **feeds) == [9]
    for name, value in {"later": 9, "same": 3, "constant": 7, "on_yes": -3}.items():
        assert both(maker, ["always:0", f"{name}:0"], **feeds) == ([9, value] if p else 1)


@pytest.mark.parametrize("p", BOTH)
def test_what_needs_both_sides_never_lives(p):
    maker = CondMaker()
    maker.op("AddV2", "never", "x/no", "x/yes")
    maker.op("Merge", "joined", "never", "x/yes", N=2)
    feeds = {"p": p, "x": np.float32(3)}
    assert both(maker, ["never:0"], **feeds) == 0
    assert both(maker, ["joined:0", "joined:1"], **feeds) == ([3, 1] if p else 0)


@pytest.mark.parametrize("p", BOTH)
@pytest.mark.parametrize("q", BOTH)
def test_a_merge_that_closes_no_conditional_may_be_dead(p, q):
    maker = CondMaker()
    maker.op("Switch", "first", "x/yes", "q")
    maker.op("Neg", "negative", "first")
    maker.op("Merge", "some", "x/no", "negative", N=2)  # dead when both are true
    maker.op("Square", "square", "some")
    maker.op("Square", "both", "square", "^yes")
    feeds = {"p": p, "q": q, "x": np.float32(3)}
    assert both(maker, ["square:0", "some:1"], **feeds) == (0 if p and q else [9, int(p)])
    assert both(maker, ["both:0"], **feeds) == ([81] if p and not q else 0)


@pytest.mark.parametrize("p", BOTH)
def test_two_values_to_one_merge_run_by_dataflow(p):
    maker = CondMaker()
    maker.op("Merge", "either", "x", "x/yes", N=2)
    assert both(maker, ["either:0"], kind=Dataflow, p=p, x=np.float32(3)) == [3]


@pytest.mark.parametrize("index", [0, 1, 2, 5, -1])
def test_a_switch_of_many_sides(index):
    maker = GraphMaker()
    maker.placeholder("i", INT)
    maker.placeholder("x")
    maker.call("_SwitchN", "s", "x", "i", T=FLOAT, num_outs=3)
    maker.op("Neg", "neg", "s")
    maker.op("Square", "square", "s:1")
    maker.op("Merge", "m", "neg", "square", "s:2", N=3)
    assert both(maker, ["m:0", "m:1"], i=np.int32(index), x=np.float32(3)) == [
        [-3, 9, 3][index if 0 <= index < 3 else 2], index if 0 <= index < 3 else 2,
    ]  # fmt: skip


@pytest.mark.parametrize("p", BOTH)
def test_a_value_inside_may_be_fed_and_then_always_lives(p):
    maker = CondMaker()
    maker.op("Neg", "negative", "x/yes")
    maker.op("Square", "square", "negative")
    feeds = {"p": p, "x": np.float32(3), "negative": np.float32(5)}
    assert both(maker, ["square:0", "negative"], **feeds) == [25, 5]
    maker.op("Square", "gated", "x", "^negative")  # the node itself is as dead as ever
    assert both(maker, ["gated:0"], **feeds) == ([9] if p else 0)


@pytest.mark.parametrize("p", BOTH)
def test_a_loop_on_one_side_is_entered_or_not(p):
    maker = CondMaker()
    maker.const("zero", np.int32(0), "yes")
    maker.const("limit", np.int32(4), "yes")
    maker.loop("w", "zero", "limit")
    maker.op("Cast", "turns", "w/exit", SrcT=INT, DstT=FLOAT)
    maker.op("Merge", "joined", "turns", "x/no", N=2)
    feeds = {"p": p, "x": np.float32(3)}
    assert both(maker, ["joined:0"], **feeds) == [4 if p else 3]
    assert both(maker, ["w/exit:0"], **feeds) == ([4] if p else 0)


@pytest.mark.parametrize("p", BOTH)
def test_a_merge_only_waits_for_what_is_dead(p):
    maker = CondMaker()
    maker.const("zero", np.int32(0), "yes")
    maker.const("limit", np.int32(4))
    maker.loop("w", "zero", "limit")
    maker.op("Switch", "again", "x", "p")
    maker.op("Merge", "joined", "again", "again:1", "^w/exit", N=2)
    assert both(maker, ["joined:0"], p=p, x=np.float32(3)) == [3]


@pytest.mark.parametrize("p", BOTH)
def test_a_loop_with_variables_of_different_lives_runs_in_frames(p):
    maker = CondMaker()
    frame = {"frame_name": "w", "parallel_iterations": 10}
    maker.const("zero", np.float32(0))
    for name, start in (("i", "zero"), ("a", "x/yes")):
        maker.op("Enter", f"{name}/enter", start, **frame)
        maker.op("Merge", name, f"{name}/enter", f"{name}/next", N=2)
    maker.op("Enter", "limit", "x", is_constant=True, **frame)
    maker.op("Less", "less", "i", "limit")
    maker.op("LoopCond", "cond", "less")
    for name in ("i", "a"):
        maker.op("Switch", f"{name}/switch", name, "cond")
        maker.op("Identity", f"{name}/body", f"{name}/switch:1")
        maker.op("Exit", f"{name}/exit", f"{name}/switch")
    maker.const("one", np.float32(1), "i/body")
    for name in ("i", "a"):
        maker.op("AddV2", f"{name}/more", f"{name}/body", "one")
        maker.op("NextIteration", f"{name}/next", f"{name}/more")
    assert both(maker, ["i/exit:0"], p=p, x=np.float32(3)) == [3]
    if p:
        assert both(maker, ["i/exit:0", "a/exit:0"], kind=Dataflow, p=p, x=np.float32(3)) == [3, 6]


@pytest.mark.parametrize("p", BOTH)
def test_references_go_through_conditionals(p):
    maker = CondMaker()
    maker.call("VariableV2", "v", dtype=FLOAT, shape=(), container="", shared_name="")
    maker.op("Assign", "init", "v", "x", use_locking=True, validate_shape=True)
    maker.op("RefSwitch", "ref", "v", "p")
    maker.op("AssignAdd", "add", "ref:1", "x/yes", use_locking=True)
    maker.op("RefMerge", "merged", "ref", "add", N=2)
    maker.op("Switch", "value", "v", "p")
    maker.op("Merge", "plain", "value", "value:1", "^merged", N=2)
    runner = Runner(maker)
    runner.run([], {"x:0": np.float32(5)}, targets=["init"])
    feeds = {"x:0": np.float32(2), "p:0": np.bool_(p)}
    compiled = runner.compile(list(feeds), ["merged:0", "merged:1", "plain:0"])
    assert isinstance(compiled.executor, Program)
    found = compiled.run(runner.context(), [np.asarray(value) for value in feeds.values()])
    assert [float(value) for value in found[:2]] == ([7, 1] if p else [5, 0])
    assert float(found[2]) in (5, 7)
    assert float(runner.by_dataflow("merged:0", feeds)) == (9 if p else 5)


def test_a_predicate_that_is_no_scalar_names_the_switch():
    maker = CondMaker()
    maker.op("Neg", "negative", "x/yes")
    runner = Runner(maker)
    feeds = {"p:0": np.array([True]), "x:0": np.float32(1)}
    text = r"must be a scalar, but it has shape \[1\](.|\n)*\{\{node x/switch\}\}"
    for run in (runner.run, runner.by_dataflow):
        with pytest.raises(InvalidArgument, match=text):
            run("negative:0", feeds)
    assert runner.run("negative:0", {**feeds, "p:0": np.bool_(True)}) == -1


def test_an_error_on_the_side_that_is_not_taken_is_none():
    maker = CondMaker()
    maker.const("axes", np.array([0, 0], np.int32), "yes")
    maker.op("Transpose", "wrong", "x/yes", "axes", Tperm=INT)
    maker.op("Merge", "m", "wrong", "x/no", N=2)
    runner = Runner(maker)
    for _ in range(2):
        assert runner.run("m:0", {"p:0": np.bool_(False), "x:0": np.float32(1)}) == 1
        with pytest.raises(InvalidArgument, match=r"\{\{node wrong\}\}"):
            runner.run("m:0", {"p:0": np.bool_(True), "x:0": np.float32(1)})


def test_a_trace_shows_every_node_of_the_side_that_is_taken():
    maker = CondMaker()
    maker.op("Neg", "negative", "x/yes")
    maker.op("Merge", "m", "negative", "x/no", N=2)
    runner = Runner(maker)
    compiled = runner.compile(["p:0", "x:0"], ["m:0"])
    trace = StepTrace()
    feeds = [np.asarray(True), np.asarray(np.float32(1))]
    assert compiled.run(runner.context(trace=trace), feeds) == [-1]
    assert {"x/switch", "negative", "m"} <= {event[1].name for event in trace.events}


@pytest.mark.parametrize("p", BOTH)
def test_memory_is_given_back_on_the_side_that_is_not_taken(p):
    """What the skipped side would have used last is released all the same."""
    maker = CondMaker()
    maker.op("Square", "large", "x")
    maker.op("Switch", "large/switch", "large", "p")
    maker.op("Neg", "negative", "large/switch:1")
    maker.op("Merge", "m", "negative", "x/no", N=2)
    maker.op("Square", "end", "m")
    runner = Runner(maker)
    compiled = runner.compile(["p:0", "x:0"], ["end:0"])
    context = runner.context()
    given = np.arange(1 << 16, dtype=np.float32)
    found = compiled.run(context, [np.asarray(p), given])
    assert found[0][3] == (81 if p else 9)
    assert context.held_bytes == found[0].nbytes
    del found
    assert context.held_bytes == 0


def test_a_loop_with_conditionals_in_body_and_condition():
    """``while (i < 6 if i is even else i < 8): a = -a if i == 1 else a + i``, the counter held back by both sides."""
    maker = GraphMaker()
    frame = {"frame_name": "w", "parallel_iterations": 10}
    maker.placeholder("x", INT)
    maker.const("zero", np.int32(0))
    for name, start in (("i", "zero"), ("a", "x")):
        maker.op("Enter", f"{name}/enter", start, T=INT, **frame)
        maker.op("Merge", name, f"{name}/enter", f"{name}/next", T=INT, N=2)
    for name, value in (("two", 2), ("none", 0), ("six", 6), ("eight", 8)):
        maker.const(name, np.int32(value), "i")
    maker.op("FloorMod", "rest", "i", "two", T=INT)
    maker.op("Equal", "even", "rest", "none", T=INT)
    maker.op("Switch", "i/even", "i", "even", T=INT)
    maker.op("Less", "less6", "i/even:1", "six", T=INT)
    maker.op("Less", "less8", "i/even", "eight", T=INT)
    maker.op("Merge", "verdict", "less6", "less8", T=BOOL, N=2)
    maker.op("LoopCond", "cond", "verdict")
    for name in ("i", "a"):
        maker.op("Switch", f"{name}/switch", name, "cond", T=INT)
        maker.op("Identity", f"{name}/body", f"{name}/switch:1", T=INT)
        maker.op("Exit", f"{name}/exit", f"{name}/switch", T=INT)
    maker.const("one", np.int32(1), "i/body")
    maker.op("Equal", "first", "i/body", "one", T=INT)
    maker.op("Switch", "a/first", "a/body", "first", T=INT)
    maker.op("Neg", "negative", "a/first:1", T=INT)
    maker.op("Switch", "i/first", "i/body", "first", T=INT)
    maker.op("AddV2", "more", "a/first", "i/first", T=INT)
    maker.op("Merge", "a/joined", "negative", "more", T=INT, N=2)
    maker.op("AddV2", "following", "i/body", "one", "^a/joined", T=INT)
    maker.op("NextIteration", "i/next", "following", T=INT)
    maker.op("NextIteration", "a/next", "a/joined", T=INT)
    i, a = 0, 5
    while i < 6 if i % 2 == 0 else i < 8:
        i, a = i + 1, -a if i == 1 else a + i
    assert both(maker, ["i/exit:0", "a/exit:0"], x=np.int32(5)) == [i, a]
