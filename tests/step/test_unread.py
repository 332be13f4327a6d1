"""Nodes without effect whose values nobody reads do not run; all others do."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import wire
from runtime._ext.executor import StepTrace
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument
from runtime.graph.prune import select
from runtime.master.config import SessionConfig
from runtime.step.compile import compile_step
from runtime.step.unread import unread
from tests.step.maker import GraphMaker, Runner, function

ONES = np.ones((2, 2), np.float32)


def ran(maker: GraphMaker, fetches: list[str], targets: list[str], **options: bool) -> set[str]:
    """Return the nodes that a step ran, by its trace."""
    runner = Runner(maker)
    selection = select(runner.graph, ["x:0"], fetches, targets)
    trace = StepTrace()
    compiled = compile_step(selection, runner.graph.library, runner.state, **options)
    compiled.run(runner.context(trace=trace), [ONES])
    return {event[1].name for event in trace.events}


@pytest.fixture
def maker() -> GraphMaker:
    """A product that a control edge asks for, made of a sum that nobody else reads."""
    made = GraphMaker()
    made.placeholder("x")
    made.op("Neg", "kept", "x")
    made.op("Add", "sum", "x", "kept")
    made.op("MatMul", "product", "sum", "x")
    made.op("NoOp", "group", "^product", "^kept")
    made.op("Neg", "result", "kept", "^group")
    return made


def test_unread_values_and_what_makes_them_are_left_out(maker: GraphMaker) -> None:
    assert ran(maker, ["result:0"], []) == {"kept", "result"}


def test_result_is_the_same_without_them(maker: GraphMaker) -> None:
    np.testing.assert_array_equal(Runner(maker).run("result:0", {"x:0": ONES}), ONES)


def test_what_is_fetched_or_asked_for_runs(maker: GraphMaker) -> None:
    assert ran(maker, ["result:0", "product:0"], []) == {"kept", "sum", "product", "result"}
    assert ran(maker, ["result:0"], ["product"]) == {"kept", "sum", "product", "result"}


def test_they_run_when_the_session_wants_it(maker: GraphMaker) -> None:
    assert ran(maker, ["result:0"], [], keep_unread=True) == {"kept", "sum", "product", "result"}


@pytest.mark.parametrize(("options", "keeps"), [
    ({}, False),
    ({"disable_meta_optimizer": True}, True),
    ({"dependency_optimization": wire.RewriterConfig.OFF}, True),
    ({"dependency_optimization": wire.RewriterConfig.ON}, False),
])
def test_session_says_it_as_to_tensorflow(options: dict[str, object], keeps: bool) -> None:
    config = wire.ConfigProto(graph_options=wire.GraphOptions(rewrite_options=wire.RewriterConfig(**options)))
    assert SessionConfig.from_proto(config).keep_unread is keeps


def test_checks_still_check() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("Log", "log", "x")
    maker.op("CheckNumerics", "check", "log", message="not a number")
    maker.op("Neg", "result", "x", "^check")
    runner = Runner(maker)
    with pytest.raises(InvalidArgument, match="not a number"):
        runner.run("result:0", {"x:0": -ONES})


def test_random_numbers_variables_and_functions_stay() -> None:
    maker = GraphMaker()
    maker.placeholder("x")
    maker.const("shape", np.array([2], np.int32))
    maker.op("RandomUniform", "random", "shape", dtype=DataType.FLOAT, T=DataType.INT32)
    maker.call("VariableV2", "v", dtype=DataType.FLOAT, shape=(2, 2))
    maker.op("Assign", "assign", "v", "x", validate_shape=True)
    body = maker.function("f", {"x": DataType.FLOAT}, {"y": ("neg:y:0", DataType.FLOAT)})
    body.op("Neg", "neg", "x")
    maker.call("PartitionedCall", "call", "x", f=function("f"), Tin=[DataType.FLOAT], Tout=[DataType.FLOAT])
    maker.op("Neg", "result", "x", "^random", "^assign", "^call")
    selection = select(maker.graph(), ["x:0"], ["result:0"], [])
    assert unread(selection.nodes, {node for _, node, _, _ in selection.fetches}) == set()


def test_what_waits_for_an_unread_node_waits_for_its_inputs() -> None:
    """A read of a variable stays in front of the update that an unread consumer of it holds back."""
    maker = GraphMaker()
    maker.placeholder("x")
    maker.call("VariableV2", "v", dtype=DataType.FLOAT, shape=(2, 2))
    maker.op("Assign", "first", "v", "x", validate_shape=True)
    maker.op("Identity", "read", "v", "^first")
    maker.op("Square", "unread", "read")
    maker.op("Add", "twice", "read", "read")
    maker.op("Neg", "other", "x", "^unread")
    maker.op("Assign", "second", "v", "other", validate_shape=True)
    runner = Runner(maker)
    twice = runner.run("twice:0", {"x:0": ONES}, ["second"])
    np.testing.assert_array_equal(twice, 2 * ONES)
