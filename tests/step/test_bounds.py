"""Steps whose time follows from the sizes of their feeds, and others."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.dtypes import DataType
from tests.step.endless import LOOPS
from tests.step.maker import GraphMaker, Runner, function

INT32, FLOAT, BOOL = DataType.INT32, DataType.FLOAT, DataType.BOOL


def is_bounded(maker: GraphMaker, feeds: list[str], fetch: str) -> bool:
    return bool(Runner(maker).compile(feeds, [fetch]).bounded)


@pytest.fixture
def maker() -> GraphMaker:
    made = GraphMaker()
    made.placeholder("x")
    made.placeholder("n", INT32)
    made.const("two", np.array([2, 2], np.int32))
    made.const("value", np.float32(1))
    return made


def test_arithmetic_is_bounded(maker):
    maker.op("Sum", "sum", "x", "n", T=FLOAT, Tidx=INT32)
    maker.op("Reshape", "reshape", "x", "n", T=FLOAT, Tshape=INT32)
    maker.op("AddV2", "y", "sum", "reshape")
    assert is_bounded(maker, ["x:0", "n:0"], "y:0")


@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_not(name):
    maker, fetch = LOOPS[name]()
    assert not is_bounded(maker, [], fetch)


def test_sizes_from_constants_and_shapes_are_bounded(maker):
    maker.op("Shape", "shape", "x", T=FLOAT, out_type=INT32)
    maker.op("Mul", "twice", "shape", "two", T=INT32)
    maker.op("Fill", "of_shape", "twice", "value", T=FLOAT, index_type=INT32)
    maker.op("Fill", "of_const", "two", "value", T=FLOAT, index_type=INT32)
    assert is_bounded(maker, ["x:0"], "of_shape:0")
    assert is_bounded(maker, ["x:0"], "of_const:0")


@pytest.mark.parametrize("fed", ["n:0", "two:0", "shape:0", "twice:0"])
def test_sizes_from_values_are_not(maker, fed):
    maker.op("Shape", "shape", "x", T=FLOAT, out_type=INT32)
    maker.op("Mul", "twice", "shape", "two" if fed != "n:0" else "n", T=INT32)
    maker.op("Fill", "fill", "twice", "value", T=FLOAT, index_type=INT32)
    assert not is_bounded(maker, ["x:0", fed], "fill:0")


def test_a_size_from_a_variable_is_not(maker):
    maker.op("VariableV2", "v", shape=(2,), dtype=INT32, T=INT32)
    maker.op("Tile", "tile", "x", "v", T=FLOAT, Tmultiples=INT32)
    assert not is_bounded(maker, ["x:0"], "tile:0")


def test_functions_are_looked_into(maker):
    body = maker.function("plain", {"a": FLOAT}, {"b": ("neg:y:0", FLOAT)})
    body.op("Neg", "neg", "a")
    body = maker.function("filling", {"n": INT32}, {"b": ("fill:output:0", FLOAT)})
    body.const("one", np.float32(1))
    body.op("Fill", "fill", "n", "one:output:0", T=FLOAT, index_type=INT32)
    maker.call("PartitionedCall", "good", "x", Tin=[FLOAT], Tout=[FLOAT], f=function("plain"))
    maker.call("PartitionedCall", "bad", "n", Tin=[INT32], Tout=[FLOAT], f=function("filling"))
    assert is_bounded(maker, ["x:0"], "good:0")
    assert not is_bounded(maker, ["n:0"], "bad:0")


def test_a_function_that_calls_itself_is_not(maker):
    for name, other in (("ping", "pong"), ("pong", "ping")):
        body = maker.function(name, {"a": FLOAT}, {"b": ("call:output:0", FLOAT)})
        body.call("PartitionedCall", "call", "a", Tin=[FLOAT], Tout=[FLOAT], f=function(other))
    maker.call("PartitionedCall", "call", "x", Tin=[FLOAT], Tout=[FLOAT], f=function("ping"))
    assert not is_bounded(maker, ["x:0"], "call:0")


@pytest.mark.parametrize(("length", "bounded"), [(5, True), (400, False)])
def test_large_branches_may_have_to_be_compiled_in_any_run(maker, length, bounded):
    for name in ("yes", "no"):
        body = maker.function(name, {"a": FLOAT}, {"b": (f"neg{length - 1}:y:0", FLOAT)})
        value = "a"
        for number in range(length):
            body.op("Neg", f"neg{number}", value)
            value = f"neg{number}:y:0"
    maker.placeholder("p", BOOL)
    maker.call(
        "If", "if", "p", "x", Tcond=BOOL, Tin=[FLOAT], Tout=[FLOAT], then_branch=function("yes"),
        else_branch=function("no"),
    )  # fmt: skip
    assert is_bounded(maker, ["x:0", "p:0"], "if:0") is bounded
