"""Switch, Merge and loops in frames, as TensorFlow's executor runs them."""

from __future__ import annotations

import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import DeadFetch
from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, Runner

INT = DataType.INT32
BOOL = DataType.BOOL


def _cond(maker: GraphMaker, name: str = "c") -> None:
    """Add ``NAME/merge = p ? x + 1 : x * 10`` over placeholders x and p."""
    maker.op("Switch", f"{name}/switch", "x", "p")
    maker.op("Identity", f"{name}/then", f"{name}/switch:1")
    maker.op("Identity", f"{name}/else", f"{name}/switch")
    maker.const(f"{name}/one", np.float32(1), f"{name}/then")
    maker.const(f"{name}/ten", np.float32(10), f"{name}/else")
    maker.op("Add", f"{name}/add", f"{name}/then", f"{name}/one")
    maker.op("Mul", f"{name}/mul", f"{name}/else", f"{name}/ten")
    maker.op("Merge", f"{name}/merge", f"{name}/mul", f"{name}/add", N=2)


def _both(runner: Runner, fetches: str | list[str], feeds: dict[str, object]) -> object:
    """Run as the compiler likes and in frames; return what both compute."""
    found = runner.run(fetches, feeds)
    assert runner.by_dataflow(fetches, feeds) == found
    return found


@pytest.fixture
def conditional() -> Runner:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    _cond(maker)
    maker.op("Neg", "after", "c/merge")
    maker.op("NoOp", "waits_for_then", "^c/add")
    maker.op("ControlTrigger", "trigger", "^c/add", "^c/mul")
    maker.const("after_trigger", np.float32(7), "trigger")
    maker.const("after_then", np.float32(8), "waits_for_then")
    return Runner(maker)


@pytest.mark.parametrize(("taken", "value", "index"), [(True, 4.0, 1), (False, 30.0, 0)])
def test_merge_takes_the_live_branch_and_tells_its_index(conditional, taken, value, index):
    merged, which, after = conditional.run(["c/merge:0", "c/merge:1", "after:0"], {"x:0": np.float32(3), "p:0": taken})
    assert (merged, which, after) == (value, index, -value)
    assert which.dtype == np.int32
    assert which.shape == ()


@pytest.mark.parametrize(
    ("index", "value", "branch"), [(0, 4.0, 0), (1, 6.0, 1), (2, 30.0, 2), (3, 30.0, 2), (-1, 30.0, 2)]
)
def test_a_switch_of_many_outputs_takes_one_and_the_last_for_any_other_index(index, value, branch):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("i", INT)
    maker.op("_SwitchN", "switch", "x", "i", num_outs=3)
    for number, by in enumerate((1, 3, 10)):
        maker.op("Identity", f"in{number}", f"switch:{number}")
        maker.const(f"by{number}", np.float32(by), f"in{number}")
    maker.op("Add", "branch0", "in0", "by0")
    maker.op("Add", "branch1", "in1", "by1")
    maker.op("Mul", "branch2", "in2", "by2")
    maker.op("Merge", "merge", "branch0", "branch1", "branch2", N=3)
    runner = Runner(maker)
    feeds = {"x:0": np.float32(3), "i:0": np.int32(index)}
    assert runner.run(["merge:0", "merge:1"], feeds) == [value, branch]
    for number in {0, 1, 2} - {branch}:
        with pytest.raises(DeadFetch):
            runner.run([f"switch:{number}"], feeds)


def test_fetching_the_untaken_side_says_which_fetch_is_dead(conditional):
    with pytest.raises(DeadFetch) as caught:
        conditional.run(["c/merge:0", "c/add:0"], {"x:0": np.float32(3), "p:0": False})
    assert caught.value.index == 1
    assert caught.value.code == 13


def test_death_travels_along_control_edges(conditional):
    feeds = {"x:0": np.float32(3), "p:0": False}
    with pytest.raises(DeadFetch):
        conditional.run("after_then:0", feeds)
    assert conditional.run("after_then:0", {"x:0": np.float32(3), "p:0": True}) == 8


def test_a_control_trigger_is_live_whatever_arrives(conditional):
    for taken in (True, False):
        assert conditional.run("after_trigger:0", {"x:0": np.float32(3), "p:0": taken}) == 7


def test_a_fed_value_inside_a_branch_is_live(conditional):
    fed = {"x:0": np.float32(3), "p:0": False, "c/then:0": np.float32(50)}
    assert conditional.run("c/add:0", fed | {"c/one:0": np.float32(5)}) == 55


def test_a_dead_predicate_kills_both_sides():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    maker.op("Switch", "predicate", "p", "p", T=BOOL)
    maker.op("Switch", "inner", "x", "predicate:1")
    maker.op("Merge", "both", "inner", "inner:1", N=2)
    runner = Runner(maker)
    assert runner.run("both:0", {"x:0": np.float32(2), "p:0": True}) == 2
    with pytest.raises(DeadFetch):
        runner.run("both:0", {"x:0": np.float32(2), "p:0": False})


def test_a_merge_waits_for_its_control_inputs():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    _cond(maker)
    maker.op("Neg", "late", "c/add")  # live or dead, it must arrive first
    maker.op("Merge", "merge", "x", "c/mul", "^late", N=2)
    runner = Runner(maker)
    for taken in (True, False):
        assert runner.run("merge:0", {"x:0": np.float32(3), "p:0": taken}) in ((3,) if taken else (3, 30))


def test_a_constant_without_control_inputs_is_a_live_input_of_a_merge():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    maker.op("Switch", "switch", "x", "p")
    maker.const("five", np.float32(5))
    maker.op("Merge", "merge", "switch:1", "five", N=2)
    assert Runner(maker).run("merge:0", {"x:0": np.float32(3), "p:0": False}) == 5


def test_a_switch_refuses_a_predicate_that_is_no_scalar(conditional):
    with pytest.raises(InvalidArgument, match=r"(?s)must be a scalar.*\[\[\{\{node c/switch\}\}\]\]"):
        conditional.run("c/merge:0", {"x:0": np.float32(3), "p:0": np.array([True])})


@pytest.mark.parametrize("parallel", [1, 2, 10])
@pytest.mark.parametrize("turns", [0, 1, 2, 1000])
def test_a_loop_counts(parallel, turns):
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    maker.loop("w", "zero", "n", parallel=parallel)
    assert _both(Runner(maker), "w/exit:0", {"n:0": np.int32(turns)}) == turns


def _sum_loop(maker: GraphMaker, name: str, limit: str, parallel: int, inner: bool) -> None:
    """Add ``total = sum of i (or of a loop's count up to i) for i < limit``, in the frame of `limit`."""
    frame = {"frame_name": name, "parallel_iterations": parallel}
    maker.op("Enter", f"{name}/i0", "zero", T=INT, **frame)
    maker.op("Enter", f"{name}/s0", "zero", T=INT, **frame)
    maker.op("Enter", f"{name}/n", limit, T=INT, is_constant=True, **frame)
    maker.op("Merge", f"{name}/i", f"{name}/i0", f"{name}/i_next", T=INT, N=2)
    maker.op("Merge", f"{name}/s", f"{name}/s0", f"{name}/s_next", T=INT, N=2)
    maker.op("Less", f"{name}/less", f"{name}/i", f"{name}/n", T=INT)
    maker.op("LoopCond", f"{name}/cond", f"{name}/less")
    maker.op("Switch", f"{name}/is", f"{name}/i", f"{name}/cond", T=INT)
    maker.op("Switch", f"{name}/ss", f"{name}/s", f"{name}/cond", T=INT)
    maker.op("Identity", f"{name}/ib", f"{name}/is:1", T=INT)
    maker.op("Identity", f"{name}/sb", f"{name}/ss:1", T=INT)
    maker.const(f"{name}/one", np.int32(1), f"{name}/ib")
    maker.op("Add", f"{name}/ia", f"{name}/ib", f"{name}/one", T=INT)
    added = f"{name}/ib"
    if inner:
        maker.const(f"{name}/start", np.int32(0), f"{name}/ib")
        added = maker.loop(f"{name}/inner", f"{name}/start", f"{name}/ib", parallel=parallel)
    maker.op("Add", f"{name}/sa", f"{name}/sb", added, T=INT)
    maker.op("NextIteration", f"{name}/i_next", f"{name}/ia", T=INT)
    maker.op("NextIteration", f"{name}/s_next", f"{name}/sa", T=INT)
    maker.op("Exit", f"{name}/i_out", f"{name}/is", T=INT)
    maker.op("Exit", f"{name}/s_out", f"{name}/ss", T=INT)


@pytest.mark.parametrize("parallel", [1, 3, 10])
@pytest.mark.parametrize("inner", [False, True])
def test_nested_loops_give_the_same_at_any_parallelism(parallel, inner):
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    _sum_loop(maker, "w", "n", parallel, inner)
    runner = Runner(maker)
    for turns in (0, 1, 7, 40):
        assert _both(runner, ["w/s_out:0", "w/i_out:0"], {"n:0": np.int32(turns)}) == [sum(range(turns)), turns]


@pytest.mark.parametrize("taken", [True, False])
def test_a_loop_in_an_untaken_branch_ends(taken):
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.placeholder("p", BOOL)
    maker.op("Switch", "switch", "n", "p", T=INT)
    maker.op("Identity", "then", "switch:1", T=INT)
    maker.const("zero", np.int32(0), "then")
    maker.loop("w", "zero", "then")
    maker.op("Neg", "else", "switch", T=INT)
    maker.op("Merge", "merge", "w/exit", "else", T=INT, N=2)
    assert _both(Runner(maker), "merge:0", {"n:0": np.int32(5), "p:0": taken}) == (5 if taken else -5)


def test_a_loop_in_an_untaken_branch_of_a_loop_ends():
    """Every second turn of the outer loop skips the inner one."""
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    frame = {"frame_name": "w", "parallel_iterations": 2}
    maker.op("Enter", "i0", "zero", T=INT, **frame)
    maker.op("Enter", "n_in", "n", T=INT, is_constant=True, **frame)
    maker.op("Merge", "i", "i0", "next", T=INT, N=2)
    maker.op("Less", "less", "i", "n_in", T=INT)
    maker.op("LoopCond", "cond", "less")
    maker.op("Switch", "switch", "i", "cond", T=INT)
    maker.op("Identity", "body", "switch:1", T=INT)
    maker.const("two", np.int32(2), "body")
    maker.const("one", np.int32(1), "body")
    maker.op("FloorMod", "mod", "body", "two", T=INT)
    maker.op("Equal", "odd", "mod", "one", T=INT)
    maker.op("Switch", "branch", "body", "odd", T=INT)
    maker.op("Identity", "yes", "branch:1", T=INT)
    maker.const("start", np.int32(0), "yes")
    maker.loop("inner", "start", "yes")
    maker.op("Merge", "joined", "branch", "inner/exit", T=INT, N=2)
    maker.op("Add", "add", "joined", "one", T=INT)
    maker.op("NextIteration", "next", "add", T=INT)
    maker.op("Exit", "exit", "switch", T=INT)
    assert _both(Runner(maker), "exit:0", {"n:0": np.int32(9)}) == 9


def test_a_conditional_in_a_loop_runs_its_branch_in_every_turn():
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    frame = {"frame_name": "w", "parallel_iterations": 10}
    maker.op("Enter", "i0", "zero", T=INT, **frame)
    maker.op("Enter", "n_in", "n", T=INT, is_constant=True, **frame)
    maker.op("Merge", "i", "i0", "next", T=INT, N=2)
    maker.op("Less", "less", "i", "n_in", T=INT)
    maker.op("LoopCond", "cond", "less")
    maker.op("Switch", "switch", "i", "cond", T=INT)
    maker.op("Identity", "body", "switch:1", T=INT)
    maker.const("five", np.int32(5), "body")
    maker.op("Less", "small", "body", "five", T=INT)
    maker.op("Switch", "branch", "body", "small", T=INT)
    maker.const("one", np.int32(1), "branch")  # waits for the Switch, which is never dead
    maker.op("Add", "plus", "branch:1", "one", T=INT)
    maker.op("Add", "double", "branch", "branch", T=INT)
    maker.op("Merge", "joined", "double", "plus", T=INT, N=2)
    maker.op("NextIteration", "next", "joined", T=INT)
    maker.op("Exit", "exit", "switch", T=INT)
    assert _both(Runner(maker), "exit:0", {"n:0": np.int32(30)}) == 40


def test_inputs_from_different_loops_are_refused():
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.const("zero", np.int32(0))
    maker.loop("v", "zero", "n")
    maker.loop("w", "zero", "n")
    maker.op("Add", "bad", "v/body", "w/body", T=INT)
    maker.op("Exit", "out", "bad", T=INT)
    with pytest.raises(InvalidArgument, match="{{node bad}} has inputs from different frames"):
        Runner(maker).run("out:0", {"n:0": np.int32(3)})


def test_an_exit_outside_of_a_loop_is_refused():
    maker = GraphMaker()
    maker.placeholder("n", INT)
    maker.op("Exit", "out", "n", T=INT)
    with pytest.raises(InvalidArgument, match="Invalid Exit op: Cannot find a corresponding Enter op"):
        Runner(maker).run("out:0", {"n:0": np.int32(3)})


def test_references_pass_through_ref_control_flow():
    maker = GraphMaker()
    maker.placeholder("p", BOOL)
    maker.op("VariableV2", "v", shape=())
    maker.const("three", np.float32(3))
    maker.op("Assign", "init", "v", "three")
    maker.op("RefSwitch", "switch", "v", "p")
    maker.op("AssignAdd", "add", "switch:1", "three")
    maker.op("AssignSub", "sub", "switch", "three")
    maker.op("RefMerge", "merge", "sub", "add", N=2)
    maker.op("Identity", "read", "merge")
    runner = Runner(maker)
    runner.run("init:0")
    assert runner.run("read:0", {"p:0": True}) == 6
    assert runner.run(["read:0", "merge:0"], {"p:0": False}) == [3, 3]


def test_a_switch_of_a_variable_reads_its_value():
    maker = GraphMaker()
    maker.placeholder("p", BOOL)
    maker.op("VariableV2", "v", shape=())
    maker.const("three", np.float32(3))
    maker.op("Assign", "init", "v", "three")
    maker.op("Switch", "switch", "v", "p")
    maker.op("Merge", "merge", "switch", "switch:1", N=2)
    maker.op("Merge", "direct", "v", "switch", N=2)
    runner = Runner(maker)
    with pytest.raises(Exception, match="Attempting to use uninitialized value v"):
        runner.run("merge:0", {"p:0": True})
    runner.run("init:0")
    assert runner.run(["merge:0", "direct:0"], {"p:0": True}) == [3, 3]
