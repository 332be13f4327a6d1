"""What the arrays of a step hold: counted, told, and bounded."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext import running_step
from runtime._ext.errors import ResourceExhausted
from runtime._ext.executor import Dataflow, Program, StepContext
from runtime._ext.running_step import MemoryBound
from runtime.dtypes import DataType
from runtime.master.master import Master
from runtime.master.metadata import PEAK_BYTES
from tests.graph.graphs import graph_def, node, placeholder
from tests.step.maker import GraphMaker, Runner, function

INT32, INT64, FLOAT = DataType.INT32, DataType.INT64, DataType.FLOAT
MIB = 1 << 20


def fill(maker: GraphMaker, name: str = "fill") -> str:
    return maker.op("Fill", name, "dims", "value", T=FLOAT, index_type=INT32)


@pytest.fixture
def maker() -> GraphMaker:
    made = GraphMaker()
    made.placeholder("dims", INT32)
    made.placeholder("value")
    fill(made)
    return made


def feeds(elements: int) -> list[Any]:
    return [np.array([elements], np.int32), np.float32(1).reshape(())]


def run(maker: GraphMaker, fetch: str, elements: int, limit: int = 0, executor: type = Program) -> StepContext:
    """Run a step and return its context; its outputs are gone."""
    compiled = Runner(maker).compile(["dims:0", "value:0"], [fetch])
    assert isinstance(compiled.executor, executor)
    step = StepContext(1, None, memory_limit=limit)
    compiled.run(step, feeds(elements))
    return step


def test_an_array_counts_from_its_birth_to_its_death(maker):
    before = running_step.held_bytes()
    compiled = Runner(maker).compile(["dims:0", "value:0"], ["fill:0"])
    step = StepContext(1, None)
    outputs = compiled.run(step, feeds(MIB))
    assert step.held_bytes == step.peak_bytes == 4 * MIB
    assert running_step.held_bytes() == before + 4 * MIB
    del step
    assert running_step.held_bytes() == before + 4 * MIB
    del outputs
    assert running_step.held_bytes() == before


def test_the_peak_is_what_was_alive_at_once(maker):
    value = "fill"
    for number in range(5):  # each needs the one before and the first, and is not fused with it
        value = maker.op("AddN", f"sum{number}", value, "fill", "fill", N=3)
    maker.op("Sum", "sum", value, maker.const("all", np.array([0], np.int32)), T=FLOAT, Tidx=INT32)
    step = run(maker, "sum:0", MIB)
    assert step.held_bytes == 0
    assert 8 * MIB <= step.peak_bytes <= 12 * MIB


def test_small_arrays_are_not_worth_counting(maker):
    assert run(maker, "fill:0", (running_step.COUNTED_BYTES - 1) // 4).peak_bytes == 0


@pytest.mark.parametrize("executor", [Program, Dataflow])
def test_the_node_that_asks_for_too_much_is_named(maker, executor):
    maker.op("Neg", "negated", "fill")
    if executor is Dataflow:
        maker.op("Switch", "switch", "negated", maker.const("yes", np.bool_(True)))
        maker.op("Merge", "negated_if", "negated", "switch:1", N=2)  # two values may come to it
    fetch = "negated_if:0" if executor is Dataflow else "negated:0"
    run(maker, fetch, MIB, 8 * MIB, executor)
    run(maker, fetch, MIB, 0, executor)
    with pytest.raises(ResourceExhausted) as caught:
        run(maker, fetch, 2 * MIB + 100, 8 * MIB, executor)
    assert str(caught.value) == (
        "OOM when Fill asked for 8389008 bytes: the arrays of the step hold 0 bytes, step_memory_limit is 8388608 bytes"
        "\n\t [[{{node fill}}]]"
    )


def test_the_bytes_held_by_then_are_told(maker):
    maker.op("Cast", "doubles", "fill", SrcT=FLOAT, DstT=DataType.DOUBLE)
    with pytest.raises(ResourceExhausted, match=r"OOM when Cast asked for 8388608 bytes: .* hold 4194304 bytes"):
        run(maker, "doubles:0", MIB, 8 * MIB)


def test_what_a_kernel_needs_besides_its_output_counts(maker):
    """The pieces that a Python definition makes and drops again."""
    maker.op("Cumsum", "sums", "fill", maker.const("axis", np.int32(0)), T=FLOAT, Tidx=INT32, exclusive=True)
    assert run(maker, "sums:0", MIB).peak_bytes > 8 * MIB


def test_a_function_counts_with_the_step_that_calls_it(maker):
    body = maker.function("square", {"x": FLOAT}, {"y": ("twice:z:0", FLOAT)})
    body.op("Mul", "twice", "x", "x")
    maker.call("PartitionedCall", "call", "fill", Tin=[FLOAT], Tout=[FLOAT], f=function("square"))
    with pytest.raises(ResourceExhausted, match=re.escape("OOM when Mul asked for 4194304 bytes")) as caught:
        run(maker, "call:0", MIB, 5 * MIB)
    assert str(caught.value).endswith("[[{{node call/twice}}]]")


def test_a_loop_holds_what_its_turns_have_in_common(maker):
    condition = maker.function("more", {"i": INT32, "x": FLOAT}, {"c": ("less:z:0", DataType.BOOL)})
    condition.const("ten", np.int32(10))
    condition.op("Less", "less", "i", "ten:output:0", T=INT32)
    body = maker.function("turn", {"i": INT32, "x": FLOAT}, {"j": ("next:z:0", INT32), "y": ("sum:z:0", FLOAT)})
    body.const("one", np.int32(1))
    body.op("AddV2", "next", "i", "one:output:0", T=INT32)
    body.op("AddV2", "sum", "x", "x")
    maker.const("zero", np.int32(0))
    maker.call(
        "StatelessWhile", "while", "zero", "fill", T=[INT32, FLOAT], cond=function("more"), body=function("turn")
    )
    assert run(maker, "while:1", MIB).peak_bytes <= 12 * MIB


def big_ops(maker: GraphMaker) -> dict[str, str]:
    """Add nodes that make more of `dims`, fed as one huge number, than any machine holds; return op and fetch."""
    maker.op("Reshape", "size", "dims", maker.const("scalar", np.zeros(0, np.int32)), T=INT32, Tshape=INT32)
    maker.const("row", np.ones((1, 1024), np.float32))
    maker.const("index", np.array([0, 1], np.int32))
    maker.const("one", np.float32(1))
    maker.const("zero", np.int32(0))
    maker.const("int_one", np.int32(1))
    maker.const("column", np.ones((2, 1), np.float32))
    maker.op("Pack", "times", "size", "int_one", T=INT32, N=2, axis=0)
    maker.op("Pack", "padding", "zero", "size", T=INT32, N=2, axis=0)
    maker.const("none", np.zeros(2, np.int32))
    maker.op("Pack", "paddings", "padding", "none", T=INT32, N=2, axis=0)
    return {
        "OneHot": maker.op("OneHot", "one_hot", "index", "size", "one", "one", T=FLOAT, TI=INT32, axis=-1),
        "Tile": maker.op("Tile", "tile", "row", "times", T=FLOAT, Tmultiples=INT32),
        "Pad": maker.op("Pad", "pad", "column", "paddings", T=FLOAT, Tpaddings=INT32),
        "Range": maker.op("Range", "range", "zero", "size", "int_one", T=INT32, Tidx=INT32),
        "BroadcastTo": maker.op("BroadcastTo", "broadcast", "one", "dims", T=FLOAT, Tidx=INT32),
        "LinSpace": maker.op("LinSpace", "space", "one", "one", "size", T=FLOAT, Tidx=INT32),
        "RandomUniform": maker.op("RandomUniform", "random", "dims", T=INT32, dtype=FLOAT, seed=1, seed2=2),
        "Fill": maker.op("Fill", "fill", "dims", "one", T=FLOAT, index_type=INT32),
    }


@pytest.mark.parametrize("op", sorted(big_ops(GraphMaker())))
def test_outputs_that_shapes_tell_are_refused_before_they_are_made(op):
    maker = GraphMaker()
    maker.placeholder("dims", INT32)
    maker.placeholder("value")
    fetch = big_ops(maker)[op]
    step = StepContext(1, None, memory_limit=64 * MIB)
    compiled = Runner(maker).compile(["dims:0"], [f"{fetch}:0"])
    with pytest.raises(ResourceExhausted, match=rf"OOM when {op} .*step_memory_limit is 67108864 bytes"):
        compiled.run(step, [np.array([2**31 - 1025], np.int32)])
    assert step.peak_bytes <= 64 * MIB
    assert step.held_bytes == 0


def test_products_and_convolutions_are_refused_before_they_are_made():
    maker = GraphMaker()
    maker.placeholder("tall")
    maker.op("MatMul", "outer", "tall", "tall", transpose_b=True)
    maker.placeholder("image")
    maker.const("filter", np.ones((1, 1, 1, 4096), np.float32))
    maker.call("Conv2D", "conv", "image", "filter", T=FLOAT, strides=[1, 1, 1, 1], padding="VALID")
    for fetch, feed, value in (
        ("outer:0", "tall:0", np.ones((200_000, 1), np.float32)),
        ("conv:0", "image:0", np.ones((1, 64, 128, 1), np.float32)),
    ):
        step = StepContext(1, None, memory_limit=64 * MIB)
        with pytest.raises(ResourceExhausted, match="step_memory_limit"):
            Runner(maker).compile([feed], [fetch]).run(step, [value])


def test_a_bound_refuses_and_gives_back():
    with MemoryBound(MIB) as bound:
        held = np.zeros(MIB // 2, np.uint8)
        assert bound.held == MIB // 2
        with pytest.raises(MemoryError):
            np.zeros(MIB, np.uint8)
        assert "the test asked for 1048576 bytes" not in str(bound.refusal("another"))
        assert bound.refusal("the test") is None  # told once
        held.resize(MIB // 4, refcheck=False)
        assert bound.held == MIB // 4
        held.resize(MIB // 8 * 5, refcheck=False)
        assert bound.held == MIB // 8 * 5
    np.zeros(2 * MIB, np.uint8)
    del held
    assert bound.held == 0
    assert bound.peak == MIB // 8 * 5


def test_bounds_nest_and_the_inner_one_counts():
    with MemoryBound(0) as outer, MemoryBound(0) as inner:
        held = np.zeros(MIB, np.uint8)
    assert (outer.held, inner.held) == (0, MIB)
    del held


def test_numpy_is_as_it_was_after_a_step(maker):
    name = np._core.multiarray.get_handler_name()
    run(maker, "fill:0", MIB)
    assert np._core.multiarray.get_handler_name() == name


def test_all_steps_together_have_a_limit(maker):
    compiled = Runner(maker).compile(["dims:0", "value:0"], ["fill:0"])
    running_step.set_limit(running_step.held_bytes() + 6 * MIB)
    try:
        first = compiled.run(StepContext(1, None, memory_limit=1 << 40), feeds(MIB))
        with pytest.raises(ResourceExhausted, match="the limit for all of them together"):
            compiled.run(StepContext(2, None, memory_limit=1 << 40), feeds(MIB))
        compiled.run(StepContext(3, None), feeds(MIB))  # one without a limit
        del first
        compiled.run(StepContext(4, None, memory_limit=1 << 40), feeds(MIB))
    finally:
        running_step.set_limit(0)


def test_a_session_bounds_its_steps_and_tells_their_peak(caplog):
    graph = graph_def(
        placeholder("dims", INT32),
        node("one", "Const", dtype=FLOAT, value=np.float32(1)),
        node("fill", "Fill", "dims", "one", T=FLOAT, index_type=INT32),
    )
    options = wire.RunOptions(trace_level=wire.RunOptions.FULL_TRACE)
    with Master(step_memory_limit=8 * MIB) as master, caplog.at_level("INFO"):
        session = master.session(master.create_session(graph)[0])
        _, metadata = session.run({"dims:0": np.array([MIB], np.int32)}, ["fill:0"], options=options)
        costs = {cost.dimension: cost.cost for cost in metadata.cost_graph.cost}
        assert costs == {PEAK_BYTES: 4 * MIB}
        assert [record.peak_bytes for record in caplog.records if hasattr(record, PEAK_BYTES)] == [4 * MIB]
        with pytest.raises(ResourceExhausted, match=r"From /job:local[^\n]*\nOOM when Fill .*\n.*\{\{node fill\}\}"):
            session.run({"dims:0": np.array([3 * MIB], np.int32)}, ["fill:0"])
        session.run({"dims:0": np.array([MIB], np.int32)}, ["fill:0"])
