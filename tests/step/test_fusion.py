"""Element-wise kernels that are run as one: the same bits, the same errors, a trace of every node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import Program, StepContext
from runtime._ext.kernels import fused
from runtime._ext.step_context import StepTrace
from runtime.dtypes import DataType
from runtime.step import straight
from runtime.step.compile import CompiledStep
from tests.step.maker import GraphMaker, Runner

Array = np.ndarray[Any, Any]

FLOAT, DOUBLE, INT32 = DataType.FLOAT, DataType.DOUBLE, DataType.INT32
UNARY = ("Neg", "Square", "Tanh", "Sigmoid", "Relu", "Abs", "Exp")
BINARY = ("Add", "Sub", "Mul", "Maximum", "RealDiv", "SquaredDifference")
SAME_SHAPES = ("TanhGrad", "ReluGrad", "AddN")


def compiled(maker: GraphMaker, feeds: list[str], fetches: list[str]) -> CompiledStep:
    step = Runner(maker).compile(feeds, fetches)
    assert isinstance(step.executor, Program)
    return step


def size(step: CompiledStep) -> int:
    assert isinstance(step.executor, Program)
    return step.executor.num_instructions


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that compiles without fusing."""

    def make(*args: Any) -> CompiledStep:
        with monkeypatch.context() as context:
            context.setattr(straight, "fuse", lambda *args: None)
            return compiled(*args)

    return make


def test_a_tree_becomes_one_kernel() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("y")
    maker.op("Tanh", "t", maker.op("Add", "a", "x", "y"))
    maker.op("Mul", "m", "t", maker.op("Sigmoid", "s", "y"))
    step = compiled(maker, ["x:0", "y:0"], ["m:0"])
    assert size(step) == 1
    x = np.linspace(-3, 3, 5000, dtype=np.float32)
    np.testing.assert_allclose(step.run(StepContext(1, None), [x, x])[0], np.tanh(x + x) / (1 + np.exp(-x)), 1e-6)


def test_what_is_fetched_or_read_elsewhere_is_made() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Square", "b", maker.op("Neg", "a", "x"))
    maker.op("Exp", "c", "b")
    assert size(compiled(maker, ["x:0"], ["c:0"])) == 1
    assert size(compiled(maker, ["x:0"], ["c:0", "a:0"])) == 1
    assert size(compiled(maker, ["x:0"], ["c:0", "b:0"])) == 1
    maker.op("Shape", "shape", "b", out_type=INT32)
    step = compiled(maker, ["x:0"], ["c:0", "shape:0"])
    assert size(step) == 2
    first, shape = step.run(StepContext(1, None), [np.full((2, 3), 2, np.float32)])
    assert shape.tolist() == [2, 3]
    assert np.allclose(first, np.exp(4))


def test_a_value_that_is_used_twice_within_the_tree() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "a", "x")
    maker.op("Mul", "b", "a", "a")
    maker.op("Sub", "c", "b", "a")
    step = compiled(maker, ["x:0"], ["c:0"])
    assert size(step) == 1
    assert step.run(StepContext(1, None), [np.array([2, 3], np.float32)])[0].tolist() == [6, 12]


def test_a_sum_of_many_is_formed_as_its_values_come(unfused: Any) -> None:
    """Whatever the order of their making; what others read, or nobody can fuse, is added where it lies."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Softmax", "soft", "x")
    maker.op("Neg", "kept", "x")
    names = ["kept", "soft", "x", "soft"]
    for number in range(200):
        maker.const(f"c{number}", np.float32(number / 7))
        names.insert(number % 3, maker.op("Maximum", f"n{number}", "x", f"c{number}"))
    maker.op("AddN", "sum", *names, N=len(names))
    fetches = ["sum:0", "kept:0"]
    step, plain = compiled(maker, ["x:0"], fetches), unfused(maker, ["x:0"], fetches)
    assert (size(step) < 12, size(plain)) == (True, 203)
    for shape in [(4,), (3, 700), (), (0, 2)]:
        x = np.random.default_rng(1).standard_normal(shape or 1).astype("f4").reshape(shape)
        if shape:  # softmax has no scalars
            ours, theirs = (made.run(StepContext(1, None), [x]) for made in (step, plain))
            assert [value.tobytes() for value in ours] == [value.tobytes() for value in theirs]


def test_a_sum_of_unequal_shapes_says_which() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("y")
    for number, op in enumerate(("Square", "Neg", "Abs", "Square", "Tanh")):
        maker.op(op, f"n{number}", "y" if number == 3 else "x")
    maker.op("AddN", "sum", *(f"n{number}" for number in range(5)), N=5)
    step = compiled(maker, ["x:0", "y:0"], ["sum:0"])
    assert size(step) == 1
    with pytest.raises(InvalidArgument, match=r"AddN must have (.*)Input 0: \[3\] != input 3: \[2\]\n(.*)node sum\}\}"):
        step.run(StepContext(1, None), [np.zeros(3, "f4"), np.zeros(2, "f4")])


def test_a_sum_waits_for_no_variable_longer_than_it_must() -> None:
    """What reads a variable for a sum stays before the variable is written."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("VarHandleOp", "v", dtype=FLOAT, shape=(2,))
    maker.op("AssignVariableOp", "init", "v", "x", dtype=FLOAT)
    maker.op("ReadVariableOp", "read", "v", "^init", dtype=FLOAT)
    maker.op("Square", "a", "read")
    maker.op("Neg", "b", "read")
    maker.op("AssignAddVariableOp", "add", "v", "x", "^a", "^b", dtype=FLOAT)
    maker.op("Exp", "c", "x", "^add")
    maker.op("AddN", "sum", "a", "b", "c", N=3)
    x = np.array([1, 2], np.float32)
    np.testing.assert_allclose(Runner(maker).run("sum:0", {"x:0": x}), x * x - x + np.exp(x), 1e-6)


def test_other_element_types_end_a_tree() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Cast", "wide", maker.op("Neg", "a", "x"), SrcT=FLOAT, DstT=DOUBLE)
    maker.op("Square", "b", "wide", T=DOUBLE)
    assert size(compiled(maker, ["x:0"], ["b:0"])) == 3


def test_a_long_chain_becomes_several_kernels(unfused: Any) -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    value = "x"
    for number in range(100):
        value = maker.op("Sub", f"n{number}", value, "x")
    step, plain = compiled(maker, ["x:0"], [f"{value}:0"]), unfused(maker, ["x:0"], [f"{value}:0"])
    assert size(step) == -(-100 // fused.MAX_STEPS)
    x = np.linspace(1, 2, 3000, dtype=np.float32)
    assert step.run(StepContext(1, None), [x])[0].tobytes() == plain.run(StepContext(1, None), [x])[0].tobytes()


@pytest.mark.parametrize("shapes", [
    [(4, 6), (6,), ()], [(4, 6), (1, 6), (1, 1)], [(4, 6), (6,), (4, 6)], [(3, 5, 7), (5, 7), (1,)], [(1,), (), ()],
    [(2000,), (2000,), (1,)], [(3, 5000), (5000,), ()], [(700, 3), (3,), (700, 3)], [(1, 1), (1,), (1, 1)],
    [(300, 1500), (1500,), (300, 1500)], [(0, 3), (3,), ()],
    # for these the parts are run one by one
    [(4, 6), (4, 1), (6,)], [(4, 1), (1, 6), ()], [(3, 5, 7), (5, 7), (7,)], [(6,), (2, 6), (4, 1, 1)], [(), (), ()],
    [(6,), (1, 1), (1, 1, 1)],
])
def test_random_trees_give_the_bits_of_their_parts(shapes: list[tuple[int, ...]], unfused: Any) -> None:
    rng = np.random.default_rng(5)
    smaller = 0
    for kind, dtype in ((FLOAT, np.float32), (DOUBLE, np.float64)):
        for _ in range(8):
            maker = GraphMaker()
            for name in ("x", "y", "z"):
                maker.placeholder(name, kind)
            maker.op("AddN", "same", "x", "x", N=2, T=kind)
            names = ["x", "y", "z", "same"]
            for number in range(int(rng.integers(2, 20))):
                op = rng.choice(UNARY + BINARY + SAME_SHAPES[:2])
                if op in UNARY:
                    inputs = [rng.choice(names[-4:])]
                elif op in BINARY:
                    inputs = list(rng.choice(names[-4:], 2))
                else:
                    inputs = ["same", "x"]
                names.append(maker.op(str(op), f"n{number}", *map(str, inputs), T=kind))
            fetches = [f"{names[-1]}:0"]
            arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
            arrays = [np.asarray(array) for array in arrays]
            feeds = ["x:0", "y:0", "z:0"]
            step, plain = compiled(maker, feeds, fetches), unfused(maker, feeds, fetches)
            smaller += size(step) < size(plain)
            with np.errstate(all="ignore"):
                ours, theirs = step.run(StepContext(1, None), arrays)[0], plain.run(StepContext(1, None), arrays)[0]
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(ours, theirs)
            assert np.array_equal(np.signbit(ours), np.signbit(theirs))
    assert smaller


def test_biases_of_layers() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("bias")
    maker.op("Relu", "relu", maker.op("BiasAdd", "add", "x", "bias"))
    step = compiled(maker, ["x:0", "bias:0"], ["relu:0"])
    assert size(step) == 1
    rng = np.random.default_rng(1)
    for shape in [(128, 10), (3, 2000), (2, 3, 5), (4, 1)]:
        x, bias = rng.standard_normal(shape).astype("f4"), rng.standard_normal(shape[-1]).astype("f4")
        assert np.array_equal(step.run(StepContext(1, None), [x, bias])[0], np.maximum(x + bias, 0))
    with pytest.raises(InvalidArgument, match="as many biases") as caught:
        step.run(StepContext(1, None), [np.zeros((2, 3), "f4"), np.zeros(1, "f4")])
    assert str(caught.value).endswith("\n\t [[{{node add}}]]") and str(caught.value).count("{{node") == 1


def test_an_error_names_the_node_that_made_it() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("y")
    maker.op("Neg", "last", maker.op("Mul", "middle", maker.op("Exp", "first", "x"), "y"))
    step = compiled(maker, ["x:0", "y:0"], ["last:0"])
    assert size(step) == 1
    with pytest.raises(InvalidArgument, match=r"Incompatible shapes: \[3\] vs. \[2\]\n\t \[\[\{\{node middle\}\}\]\]"):
        step.run(StepContext(1, None), [np.zeros(3, "f4"), np.zeros(2, "f4")])


def test_a_traced_step_runs_every_node() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Neg", "c", maker.op("Mul", "b", maker.op("Exp", "a", "x"), "x"))
    step = compiled(maker, ["x:0"], ["c:0"])
    x = np.array([1, 2], np.float32)
    plain = step.run(StepContext(1, None), [x])[0]
    for _ in range(2):
        trace = StepTrace()
        traced = step.run(StepContext(1, None, trace), [x])[0]
        assert [event[1].name for event in trace.events] == ["a", "b", "c"]
        assert traced.tobytes() == plain.tobytes()


def test_a_dying_input_takes_the_result() -> None:
    maker = GraphMaker()
    maker.placeholder("x", DOUBLE)
    value = maker.op("Cast", "made", "x", SrcT=DOUBLE, DstT=FLOAT)
    maker.op("Neg", "b", maker.op("Square", "a", value))
    x = np.arange(5.0)
    step = compiled(maker, ["x:0"], ["b:0"])
    assert step.run(StepContext(1, None), [x])[0].tolist() == [0, -1, -4, -9, -16]


def test_nothing_moves_behind_a_write() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("VarHandleOp", "v", dtype=FLOAT, shape=(3,))
    maker.op("AssignVariableOp", "init", "v", "x", dtype=FLOAT)
    maker.op("ReadVariableOp", "read", "v", "^init", dtype=FLOAT)
    maker.op("Square", "square", "read")
    maker.op("AssignAddVariableOp", "add", "v", "x", "^square", dtype=FLOAT)
    maker.op("Neg", "negated", "square", "^add")
    step = compiled(maker, ["x:0"], ["negated:0"])
    x = np.array([1, 2, 3], np.float32)
    context = Runner(maker)
    assert context.run(["negated:0"], {"x:0": x})[0].tolist() == [-1, -4, -9]
    assert size(step) >= 4


@pytest.mark.parametrize(("steps", "inputs"), [
    ([], 1), ([None] * (fused.MAX_STEPS + 1), 1), ([None], 0), ([None], fused.MAX_INPUTS + 1),
])
def test_too_much_for_one_kernel(steps: list[Any], inputs: int) -> None:
    with pytest.raises(ValueError, match="can be one kernel"):
        fused.fuse(steps, inputs)
