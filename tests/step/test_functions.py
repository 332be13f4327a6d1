"""Calls of library functions: PartitionedCall, If, Case, While, For and calls by name."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime._ext.errors import Cancelled, InvalidArgument, NotFound, ResourceExhausted
from runtime._ext.executor import Program
from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, Runner, function

FLOAT = DataType.FLOAT
INT = DataType.INT32
BOOL = DataType.BOOL
STRING = DataType.STRING


def _call(
    maker: GraphMaker, name: str, callee: str, *inputs: str, op: str = "PartitionedCall", outputs: int = 1
) -> None:
    maker.call(
        op,
        name,
        *inputs,
        f=function(callee),
        Tin=[FLOAT] * len([i for i in inputs if i[0] != "^"]),
        Tout=[FLOAT] * outputs,
    )


def _double(maker: GraphMaker, name: str = "double") -> None:
    body = maker.function(name, {"x": FLOAT}, {"y": ("add:z:0", FLOAT)})
    body.op("Add", "add", "x", "x")


@pytest.fixture
def maker() -> GraphMaker:
    made = GraphMaker()
    made.placeholder("x")
    _double(made)
    return made


def test_a_call_runs_the_body(maker):
    _call(maker, "call", "double", "x")
    maker.call("double", "by_name", "call")
    runner = Runner(maker)
    assert runner.run(["call:0", "by_name:0"], {"x:0": np.float32(3)}) == [6, 12]
    assert isinstance(runner.compile(["x:0"], ["by_name:0"]).executor, Program)


def test_functions_call_functions_and_errors_name_the_way(maker):
    fail = maker.function("fail", {"x": FLOAT}, {"y": ("check:output:0", FLOAT)})
    fail.op("CheckNumerics", "check", "x", message="found")
    outer = maker.function("outer", {"x": FLOAT}, {"y": ("second:output:0", FLOAT)})
    _call(outer, "first", "double", "x")
    _call(outer, "second", "fail", "first:output:0")
    _call(maker, "call", "outer", "x")
    runner = Runner(maker)
    assert runner.run("call:0", {"x:0": np.float32(3)}) == 6
    for run in (runner.run, runner.by_dataflow):
        with pytest.raises(InvalidArgument) as caught:
            run("call:0", {"x:0": np.float32(np.nan)})
        assert caught.value.message == "found : Tensor had NaN values\n\t [[{{node call/second/check}}]]"


def test_side_effects_run_although_no_output_needs_them(maker):
    body = maker.function("count", {"x": FLOAT}, {"y": ("x", FLOAT)}, control_outputs=["add"])
    body.op("VarHandleOp", "v", shape=(), shared_name="v")
    body.op("AssignAddVariableOp", "add", "v:resource:0", "x")
    body.op("Neg", "unused", "x")
    _call(maker, "call", "count", "x", op="StatefulPartitionedCall")
    maker.op("VarHandleOp", "v", shape=(), shared_name="v")
    maker.const("zero", np.float32(0))
    maker.op("AssignVariableOp", "init", "v", "zero")
    maker.op("ReadVariableOp", "read", "v")
    runner = Runner(maker)
    runner.run([], targets=["init"])
    assert runner.run("call:0", {"x:0": np.float32(2)}) == 2
    runner.run([], {"x:0": np.float32(3)}, targets=["call"])
    assert runner.run("read:0") == 5


def _branches(maker: GraphMaker) -> None:
    maker.function("same", {"x": FLOAT}, {"y": ("x", FLOAT)})
    fail = maker.function("never", {"x": FLOAT}, {"y": ("check:output:0", FLOAT)})
    fail.const("nan", np.float32(np.nan))
    fail.op("CheckNumerics", "check", "nan:output:0", message="ran")


@pytest.mark.parametrize("op", ["If", "StatelessIf"])
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (BOOL, True, 6),
        (BOOL, False, 3),
        (INT, np.int32(-1), 6),
        (INT, np.int32(0), 3),
        (FLOAT, np.float32(0.5), 6),
        (FLOAT, np.zeros((2, 2), np.float32), 6),
        (FLOAT, np.zeros((0, 2), np.float32), 3),
        (STRING, np.array(b"no", dtype=object), 6),
        (STRING, np.array(b"", dtype=object), 3),
    ],
)
def test_if_takes_one_branch_by_truth(maker, op, kind, value, expected):
    _branches(maker)
    maker.placeholder("p", kind)
    maker.call(
        op,
        "if",
        "p",
        "x",
        Tcond=kind,
        Tin=[FLOAT],
        Tout=[FLOAT],
        then_branch=function("double"),
        else_branch=function("same"),
    )
    assert Runner(maker).run("if:0", {"x:0": np.float32(3), "p:0": value}) == expected


def test_the_other_branch_does_not_run(maker):
    _branches(maker)
    maker.placeholder("p", BOOL)
    maker.call(
        "If",
        "if",
        "p",
        "x",
        Tcond=BOOL,
        Tin=[FLOAT],
        Tout=[FLOAT],
        then_branch=function("double"),
        else_branch=function("never"),
    )
    runner = Runner(maker)
    assert runner.run("if:0", {"x:0": np.float32(3), "p:0": True}) == 6
    with pytest.raises(InvalidArgument, match=r"\{\{node if/check\}\}"):
        runner.run("if:0", {"x:0": np.float32(3), "p:0": False})


@pytest.mark.parametrize(("index", "expected"), [(0, 6), (1, 3), (-1, 3), (9, 3)])
def test_case_takes_the_last_branch_when_the_index_is_out_of_range(maker, index, expected):
    _branches(maker)
    maker.placeholder("i", INT)
    maker.call("Case", "case", "i", "x", Tin=[FLOAT], Tout=[FLOAT], output_shapes=[])
    for name in ("double", "same"):
        maker.proto.node[-1].attr["branches"].list.func.add(name=name)
    assert Runner(maker).run("case:0", {"x:0": np.float32(3), "i:0": np.int32(index)}) == expected


def _while(maker: GraphMaker, op: str = "While") -> None:
    """Add ``while``: from (i, x), while i < 10: i += 1, x += x."""
    cond = maker.function("cond", {"i": INT, "x": FLOAT}, {"go": ("less:z:0", BOOL)})
    cond.const("ten", np.int32(10))
    cond.op("Less", "less", "i", "ten:output:0", T=INT)
    body = maker.function("body", {"i": INT, "x": FLOAT}, {"i_out": ("add:z:0", INT), "x_out": ("sum:z:0", FLOAT)})
    body.const("one", np.int32(1))
    body.op("Add", "add", "i", "one:output:0", T=INT)
    body.op("Add", "sum", "x", "x")
    maker.placeholder("start", INT)
    maker.call(op, "while", "start", "x", T=[INT, FLOAT], cond=function("cond"), body=function("body"))


@pytest.mark.parametrize("op", ["While", "StatelessWhile"])
def test_while_runs_until_its_condition_fails(maker, op):
    _while(maker, op)
    runner = Runner(maker)
    x = np.array([1, 2], np.float32)
    for start, factor in ((0, 1024), (9, 2), (10, 1), (99, 1)):
        number, value = runner.run(["while:0", "while:1"], {"start:0": np.int32(start), "x:0": x})
        assert number == max(start, 10)
        np.testing.assert_array_equal(value, x * factor)
    np.testing.assert_array_equal(x, [1, 2])


def test_for_runs_over_a_range(maker):
    body = maker.function("body", {"i": INT, "x": FLOAT}, {"y": ("add:z:0", FLOAT)})
    body.op("Cast", "float", "i", T=INT, DstT=FLOAT)
    body.op("Add", "add", "x", "float:y:0")
    for name in ("start", "limit", "delta"):
        maker.placeholder(name, INT)
    maker.call("For", "for", "start", "limit", "delta", "x", T=[FLOAT], body=function("body"))
    runner = Runner(maker)

    def run(start: int, limit: int, delta: int) -> float:
        return float(
            runner.run(
                "for:0",
                {
                    "x:0": np.float32(100),
                    "start:0": np.int32(start),
                    "limit:0": np.int32(limit),
                    "delta:0": np.int32(delta),
                },
            )
        )

    assert run(0, 5, 2) == 106
    assert run(5, 0, -2) == 109
    assert run(3, 3, 1) == 100
    with pytest.raises(InvalidArgument, match="does not end"):
        run(0, 5, -1)


def test_a_cancelled_while_ends(maker):
    """The body does nothing that would notice the cancellation by itself."""
    cond = maker.function("cond", {"x": FLOAT}, {"go": ("yes:output:0", BOOL)})
    cond.const("yes", np.bool_(True))
    maker.function("body", {"x": FLOAT}, {"y": ("x", FLOAT)})
    maker.call("While", "while", "x", T=[FLOAT], cond=function("cond"), body=function("body"))
    runner = Runner(maker)
    compiled = runner.compile(["x:0"], ["while:0"])
    step = runner.context()
    timer = threading.Timer(0.1, step.cancel, [Cancelled("enough")])
    timer.start()
    with pytest.raises(Cancelled, match=r"^enough$"):
        compiled.run(step, [np.zeros((), np.float32)])
    timer.join()


def test_recursion_ends_at_a_bound(maker):
    """factorial-like: f(x) = x <= 0 ? 0 : f(x - 1) + 2, and a function that calls itself for ever."""
    body = maker.function("f", {"x": FLOAT}, {"y": ("if:output:0", FLOAT)})
    body.const("zero", np.float32(0))
    body.op("Greater", "more", "x", "zero:output:0")
    body.call(
        "If",
        "if",
        "more:z:0",
        "x",
        Tcond=BOOL,
        Tin=[FLOAT],
        Tout=[FLOAT],
        then_branch=function("again"),
        else_branch=function("stop"),
    )
    again = maker.function("again", {"x": FLOAT}, {"y": ("add:z:0", FLOAT)})
    again.const("one", np.float32(1))
    again.const("two", np.float32(2))
    again.op("Sub", "less", "x", "one:output:0")
    _call(again, "inner", "f", "less:z:0")
    again.op("Add", "add", "inner:output:0", "two:output:0")
    stop = maker.function("stop", {"x": FLOAT}, {"y": ("none:output:0", FLOAT)})
    stop.const("none", np.float32(0))
    forever = maker.function("forever", {"x": FLOAT}, {"y": ("inner:output:0", FLOAT)})
    _call(forever, "inner", "forever", "x")
    _call(maker, "call", "f", "x")
    _call(maker, "endless", "forever", "x")
    runner = Runner(maker)
    assert runner.run("call:0", {"x:0": np.float32(30)}) == 60
    with pytest.raises(ResourceExhausted, match=r"nest too deeply"):
        runner.run("endless:0", {"x:0": np.float32(1)})
    assert runner.run("call:0", {"x:0": np.float32(3)}) == 6


def test_frames_inside_a_function():
    maker = GraphMaker()
    maker.placeholder("n", INT)
    body = maker.function("count", {"n": INT}, {"y": ("w/exit:output:0", INT)})
    body.const("zero", np.int32(0))
    inner = GraphMaker(body._nodes)
    inner.loop("w", "zero:output:0", "n")
    names = {
        "enter": "output",
        "limit": "output",
        "merge": "output",
        "less": "z",
        "cond": "output",
        "body": "output",
        "one": "output",
        "add": "z",
        "next": "output",
    }
    for node in maker.proto.library.function[0].node_def:  # inputs in a function name the argument of the producer
        for position, text in enumerate(node.input):
            local = text.partition("/")[2].partition(":")[0]
            if text.startswith("w/switch"):
                node.input[position] = "w/switch:output_true:0" if text.endswith(":1") else "w/switch:output_false:0"
            elif local in names and not text.startswith("^"):
                node.input[position] = f"{text}:{names[local]}:0"
    maker.call("PartitionedCall", "call", "n", f=function("count"), Tin=[INT], Tout=[INT])
    assert Runner(maker).run("call:0", {"n:0": np.int32(12)}) == 12


def test_a_function_that_does_not_fit_is_refused_with_its_node(maker):
    maker.call("PartitionedCall", "call", "x", f=function("double"), Tin=[FLOAT], Tout=[FLOAT, FLOAT])
    with pytest.raises(InvalidArgument, match=r"(?s)results of types \[float\].*\{\{node call\}\}"):
        Runner(maker).run("call:0", {"x:0": np.float32(1)})


def test_an_unknown_function_is_not_found(maker):
    _call(maker, "call", "nothing", "x")
    with pytest.raises(NotFound, match=r"(?s)nothing.*\{\{node call\}\}"):
        Runner(maker).run("call:0", {"x:0": np.float32(1)})
