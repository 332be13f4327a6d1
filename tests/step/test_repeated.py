"""Nodes that compute the same run once; values, fetches, errors and traces are as if each ran."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import Program, StepTrace
from runtime.dtypes import DataType, to_numpy
from runtime.master.config import SessionConfig
from runtime.step.compile import CompiledStep
from tests.step.maker import GraphMaker, Runner
from tests.step.random_graphs import RandomGraph
from tests.step.random_programs import Program as RandomProgram

FLOAT, INT32, BOOL = DataType.FLOAT, DataType.INT32, DataType.BOOL
X = np.linspace(-2, 2, 60, dtype=np.float32).reshape(3, 20)


def both(maker: GraphMaker, feeds: list[str], fetches: list[str], partial: bool = False
         ) -> tuple[Runner, CompiledStep, Runner, CompiledStep]:
    """Return a step, and the same with a kernel for every node."""
    runner, plain = Runner(maker), Runner(maker)
    plain.state.keeps_repeated = True
    step, every = (made.compile(feeds, fetches, partial=partial) for made in (runner, plain))
    return runner, step, plain, every


def size(step: CompiledStep) -> int:
    assert isinstance(step.executor, Program)
    return step.executor.num_instructions


def sizes(maker: GraphMaker, feeds: list[str], fetches: list[str]) -> tuple[int, int]:
    """Return how many kernels a step has, and how many with one for every node."""
    _, step, _, plain = both(maker, feeds, fetches)
    return size(step), size(plain)


COPIED = ("Add", "AddV2", "Sub", "Mul", "Maximum", "Minimum", "Neg", "Square", "Abs", "Less", "Equal", "Const")


def plant(proto: Any, seed: int, fed: Collection[str]) -> int:
    """Copy some nodes of a graph under new names and give the copies some of their readers; return how many."""
    chooser = random.Random(seed)
    nodes = [node for node in proto.node if node.op in COPIED and f"{node.name}:0" not in fed]
    copied = chooser.sample(nodes, len(nodes) // 2)
    for node in copied:
        copy = proto.node.add()
        copy.CopyFrom(node)
        copy.name = f"{node.name}_again"
        for reader in proto.node:
            for place, taken in enumerate(reader.input):
                if taken in (node.name, f"{node.name}:0") and reader is not copy and chooser.random() < 0.5:
                    reader.input[place] = copy.name
    return len(copied)


@pytest.mark.parametrize("seed", range(3000, 3030))
def test_random_graphs_with_copies_compute_the_same(seed):
    """Conditionals and loops with control edges, in a line and by dataflow, copies fetched beside the originals."""
    graph = RandomGraph(seed, size=16)
    feeds = {name: np.array(value, np.int32) for name, value in graph.feeds.items()}
    names = {node.name for node in graph.maker.proto.node}
    assert plant(graph.maker.proto, seed, feeds)
    made = {node.name for node in graph.maker.proto.node} - names
    fetches, expected = list(graph.fetches), graph.expected()
    for name, value in list(zip(graph.fetches, graph.expected(), strict=True)):
        again = f"{name.removesuffix(':0')}_again"
        if again in made and name not in graph.feeds:
            fetches.append(f"{again}:0")
            expected.append(value)
    runner = Runner(graph.maker)
    assert runner.run(fetches, feeds) == expected
    assert runner.by_dataflow(fetches, feeds) == expected
    runner.state.keeps_repeated = True
    assert runner.run(fetches, feeds) == expected


@pytest.mark.parametrize("form", ["functions", "frames"])
@pytest.mark.parametrize("seed", range(3000, 3010))
def test_random_programs_with_copies_compute_the_same(seed, form):
    program = RandomProgram(seed)
    maker = program.graph(form)
    feeds = {f"{name}:0": value for name, value in program.feeds.items()}
    plant(maker.proto, seed, feeds)
    runner = Runner(maker)
    fetches = [f"{name}:0" for name in program.fetches]
    expected = [value.tolist() for value in program.run()]
    assert [value.tolist() for value in runner.run(fetches, feeds)] == expected
    assert [value.tolist() for value in runner.by_dataflow(fetches, feeds)] == expected


@pytest.mark.parametrize("seed", range(20))
def test_copies_cost_no_kernels(seed):
    """In a line without control edges, as many kernels run as before the copies were made."""
    chooser = random.Random(seed)
    maker = GraphMaker()
    names = [maker.placeholder("x"), maker.placeholder("y")]
    for number in range(25):
        op = chooser.choice(["MatMul", "Softmax", "Cumsum"])
        if op == "MatMul":
            flags = {"transpose_a": chooser.random() < 0.5, "transpose_b": chooser.random() < 0.5}
            names.append(maker.op(op, f"n{number}", chooser.choice(names), chooser.choice(names), **flags))
        else:
            names.append(maker.call(op, f"n{number}", chooser.choice(names), T=FLOAT) if op == "Softmax" else
                         maker.call(op, f"n{number}", chooser.choice(names), maker.const(f"axis{number}", np.int32(1)),
                                    T=FLOAT, Tidx=INT32, exclusive=chooser.random() < 0.5))
    originals = [node for node in maker.proto.node if node.op in ("MatMul", "Softmax", "Cumsum")]
    fetches = [f"{node.name}:0" for node in originals]
    alone = sizes(maker, ["x:0", "y:0"], fetches)[0]
    copies = {node.name: f"{node.name}_again" for node in originals}
    for node in originals:
        copy = maker.proto.node.add()
        copy.CopyFrom(node)
        copy.name = copies[node.name]
        for place, taken in enumerate(copy.input):
            copy.input[place] = copies.get(taken, taken)
    all_fetches = [*fetches, *(f"{copies[node.name]}:0" for node in originals)]
    runner, step, plain, every = both(maker, ["x:0", "y:0"], all_fetches)
    assert size(step) == alone
    assert size(every) >= 2 * alone
    square = [np.eye(4, dtype=np.float32) + 0.1, np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)]
    found = [value.tobytes() for value in step.run(runner.context(), square)]
    assert found == [value.tobytes() for value in every.run(plain.context(), square)]
    assert found[: len(fetches)] == found[len(fetches):]


def test_an_equal_constant_is_one():
    maker = GraphMaker()
    maker.placeholder("x")
    for side in "ab":
        maker.const(f"one_{side}", np.float32(1))
        maker.op("Softmax", f"soft_{side}", maker.op("AddV2", f"sum_{side}", "x", f"one_{side}"))
    assert sizes(maker, ["x:0"], ["soft_a:0", "soft_b:0"]) == (2, 4)


def test_constants_with_other_bits_are_others():
    maker = GraphMaker()
    maker.placeholder("x")
    for name, value in {"plus": np.float32(0), "minus": np.float32(-0.0), "row": np.zeros(1, np.float32)}.items():
        maker.const(name, value)
        maker.op("Mul", f"by_{name}", "x", name)
    maker.const("number", np.int32(0))
    maker.op("Cast", "cast", "number", SrcT=INT32, DstT=FLOAT)
    plus, minus, row = Runner(maker).run(["by_plus:0", "by_minus:0", "by_row:0"], {"x:0": np.float32(1)})
    assert (np.signbit(plus), np.signbit(minus), row.shape) == (False, True, (1,))


@pytest.mark.parametrize(("op", "kind", "merged"), [
    ("AddV2", INT32, True), ("Mul", INT32, True), ("Maximum", INT32, True), ("Equal", FLOAT, True),
    ("LogicalAnd", BOOL, True), ("Sub", INT32, False), ("AddV2", FLOAT, False), ("Maximum", FLOAT, False),
    ("Less", INT32, False),
])  # fmt: skip
def test_inputs_change_places_where_no_bit_depends_on_it(op, kind, merged):
    maker = GraphMaker()
    maker.placeholder("x", kind)
    maker.placeholder("y", kind)
    maker.op(op, "left", "x", "y", T=kind)
    maker.op(op, "right", "y", "x", T=kind)
    runner, step, plain, every = both(maker, ["x:0", "y:0"], ["left:0", "right:0"])
    values = [np.array(value, to_numpy(kind)) for value in ([0, 1, 2], [1, 0, 2])]
    found = step.run(runner.context(), values)
    assert (found[0] is found[1]) is merged
    np.testing.assert_array_equal(found, every.run(plain.context(), values))


def _random(maker: GraphMaker, name: str) -> None:
    maker.call("RandomUniform", name, "shape", T=INT32, dtype=FLOAT, seed=3, seed2=0)


def _leaky(alpha: float) -> Callable[[GraphMaker, str], None]:
    def make(maker: GraphMaker, name: str) -> None:
        maker.op("LeakyRelu", name, "x", alpha=alpha)

    return make


def _behind(control: str) -> Callable[[GraphMaker, str], None]:
    def make(maker: GraphMaker, name: str) -> None:
        maker.op("Tanh", name, "x", *([f"^{control}"] if control else []))

    return make


@pytest.mark.parametrize(("left", "right"), [
    (_random, _random),
    (_leaky(0.0), _leaky(-0.0)),
    (_leaky(0.25), _leaky(0.5)),
    (_behind(""), _behind("gate")),
    (_behind("gate"), _behind("other")),
])  # fmt: skip
def test_what_is_not_the_same_runs_by_itself(left, right):
    maker = GraphMaker()
    maker.placeholder("x")
    maker.const("shape", np.array([4], np.int32))
    maker.op("Softmax", "gate", "x")
    maker.op("LogSoftmax", "other", "x")
    left(maker, "left")
    right(maker, "right")
    first, second = Runner(maker).run(["left:0", "right:0", "gate:0", "other:0"], {"x:0": X})[:2]
    assert first is not second


def test_reads_of_a_variable_see_what_is_written_between_them():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("VariableV2", "v", shape=(), dtype=FLOAT)
    maker.op("Assign", "init", "v", "x")
    maker.op("Neg", "before", "v")
    maker.op("AssignAdd", "add", "v", "x", "^before")
    maker.op("Neg", "after", "v", "^add")
    runner = Runner(maker)
    runner.run("init:0", {"x:0": np.float32(2)})
    assert runner.run(["before:0", "after:0"], {"x:0": np.float32(1)}) == [-2, -3]


def test_sides_of_a_conditional_are_apart():
    """Both sides compute the same of what is outside, but only one of them lives."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("p", BOOL)
    maker.op("Switch", "pivot", "p", "p", T=BOOL)
    maker.op("Identity", "no", "pivot", T=BOOL)
    maker.op("Identity", "yes", "pivot:1", T=BOOL)
    maker.op("Tanh", "left", "x", "^no")
    maker.op("Tanh", "right", "x", "^yes")
    maker.op("Merge", "end", "left", "right", N=2)
    for partial in (False, True):
        for taken in (False, True):
            value, index = Runner(maker).run(["end:0", "end:1"], {"x:0": X, "p:0": np.bool_(taken)}, partial=partial)
            np.testing.assert_allclose(value, np.tanh(X), 1e-6)
            assert index == taken


@pytest.mark.parametrize("partial", [False, True])
def test_a_trace_shows_every_node(partial):
    maker = GraphMaker()
    maker.placeholder("x")
    for side in "ab":
        maker.op("Softmax", f"end_{side}", maker.op("Tanh", f"t_{side}", "x"))
    runner = Runner(maker)
    step = runner.compile(["x:0"], ["end_a:0", "end_b:0"], partial=partial)
    first, second = step.run(runner.context(), [X])
    assert first is second
    trace = StepTrace()
    traced = step.run(runner.context(trace=trace), [X])
    assert {event[1].name for event in trace.events} == {"t_a", "t_b", "end_a", "end_b"}
    assert [value.tobytes() for value in traced] == [first.tobytes(), second.tobytes()]


def test_no_reader_changes_what_another_one_needs():
    """The readers could each work in the memory of their input if it were theirs alone."""
    maker = GraphMaker()
    maker.placeholder("x")
    for side in "ab":
        maker.op("Softmax", f"s_{side}", "x")
    maker.op("Neg", "neg", "s_a")
    maker.op("Square", "square", "s_b")
    step = Runner(maker)
    neg, square = step.run(["neg:0", "square:0"], {"x:0": X})
    soft = step.run("s_a:0", {"x:0": X})
    np.testing.assert_array_equal(neg, -soft)
    np.testing.assert_array_equal(square, soft * soft)


def test_a_fed_output_stays_what_is_fed():
    maker = GraphMaker()
    maker.placeholder("x")
    for side in "abc":
        maker.op("Tanh", f"t_{side}", "x")
        maker.op("Neg", f"n_{side}", f"t_{side}")
    found = Runner(maker).run(["n_a:0", "n_b:0", "n_c:0"], {"x:0": X, "t_b:0": X})
    np.testing.assert_array_equal(found[1], -X)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], -np.tanh(X), 1e-6)


def test_an_error_names_the_first():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.placeholder("y")
    for side in "ab":
        maker.op("MatMul", f"product_{side}", "x", "y")
    with pytest.raises(InvalidArgument, match="node product_a"):
        Runner(maker).run(["product_a:0", "product_b:0"], {"x:0": X, "y:0": X})


@pytest.mark.parametrize(("options", "rewriting", "keeps"), [
    ({}, {}, False),
    ({"opt_level": wire.OptimizerOptions.L0}, {}, False),
    ({}, {"disable_meta_optimizer": True}, False),
    ({"opt_level": wire.OptimizerOptions.L0}, {"disable_meta_optimizer": True}, True),
    ({"opt_level": wire.OptimizerOptions.L0}, {"common_subgraph_elimination": wire.RewriterConfig.OFF}, True),
])  # fmt: skip
def test_session_says_it_as_to_tensorflow(options, rewriting, keeps):
    """There are two optimizers that do it in TensorFlow, and a session turns both off."""
    graph_options = wire.GraphOptions(optimizer_options=wire.OptimizerOptions(**options),
                                      rewrite_options=wire.RewriterConfig(**rewriting))
    assert SessionConfig.from_proto(wire.ConfigProto(graph_options=graph_options)).keeps_repeated is keeps
