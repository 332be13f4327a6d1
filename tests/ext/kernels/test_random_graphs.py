"""Random graphs of the compiled ops: nothing that somebody else holds is ever written, and results stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime._ext import kernels as compiled_kernels
from runtime.dtypes import DataType
from runtime.errors import InvalidArgument
from tests.step.maker import GraphMaker, Runner

SHAPES = [(), (1,), (3,), (1, 3), (2, 3), (2, 1)]
PAIRS = ("AddV2", "Sub", "Mul", "Maximum", "Minimum", "SquaredDifference", "RealDiv", "DivNoNan")
SINGLES = ("Neg", "Abs", "Square", "Relu", "Relu6", "Sign", "Identity", "ZerosLike", "Shape", "Squeeze", "Reciprocal")
SAME_SHAPE = ("ReluGrad", "TanhGrad", "SigmoidGrad", "AddN")

Plan = list[tuple[str, int, int]]


@st.composite
def plans(draw: Any) -> tuple[list[tuple[int, ...]], Plan, list[int]]:
    """Return the shapes of two feeds, two constants and a variable, the nodes over them, and what is fetched."""
    sources = [draw(st.sampled_from(SHAPES)) for _ in range(5)]
    count = draw(st.integers(1, 14))
    plan = [(draw(st.sampled_from(PAIRS + SINGLES + SAME_SHAPE)), draw(st.integers(0, 4 + index)),
             draw(st.integers(0, 4 + index))) for index in range(count)]
    fetches = draw(st.lists(st.integers(0, 4 + count), min_size=1, max_size=4, unique=True))
    return sources, plan, fetches


def build(sources: list[tuple[int, ...]], plan: Plan, constants: list[np.ndarray]) -> tuple[Any, list[str]]:
    maker = GraphMaker()
    names = [maker.placeholder("feed0"), maker.placeholder("feed1"), maker.const("constant0", constants[0]),
             maker.const("constant1", constants[1])]
    maker.op("VariableV2", "variable", T=DataType.FLOAT, shape=sources[4], container="", shared_name="")
    maker.placeholder("start")
    maker.op("Assign", "assign", "variable", "start", T=DataType.FLOAT, validate_shape=True, use_locking=False)
    names.append(maker.op("Identity", "read", "variable", T=DataType.FLOAT))
    shapes: list[tuple[int, ...]] = list(sources)
    for index, (op, left, right) in enumerate(plan):
        x, y, name = names[left], names[right], f"node{index}"
        if op == "Shape":
            maker.op("Shape", f"{name}/shape", x, T=DataType.FLOAT, out_type=DataType.INT32)
            # a value that depends on the shape, and has it
            maker.op("Reshape", name, x, f"{name}/shape", T=DataType.FLOAT, Tshape=DataType.INT32)
            shape = shapes[left]
        elif op == "Squeeze":
            maker.op("Squeeze", name, x, T=DataType.FLOAT, squeeze_dims=[])
            shape = tuple(length for length in shapes[left] if length != 1)
        elif op in SINGLES:
            maker.op(op, name, x, T=DataType.FLOAT)
            shape = shapes[left]
        elif op in PAIRS:
            maker.op(op, name, x, y, T=DataType.FLOAT)
            try:
                shape = np.broadcast_shapes(shapes[left], shapes[right])
            except ValueError:
                shape = shapes[left]
        elif op == "AddN":
            maker.op(op, name, x, x if shapes[left] != shapes[right] else y, x, T=DataType.FLOAT, N=3)
            shape = shapes[left]
        else:
            maker.op(op, name, x, y if shapes[left] == shapes[right] else x, T=DataType.FLOAT)
            shape = shapes[left]
        names.append(name)
        shapes.append(shape)
    return maker, names


class Session:
    """A runner of one graph that remembers how everything looked that a step must not change."""

    def __init__(self, maker: Any, start: np.ndarray) -> None:
        self.runner = Runner(maker)
        self.runner.run([], {"start:0": start}, ["assign"])

    def run(self, names: list[str], feeds: dict[str, np.ndarray], dataflow: bool) -> list[np.ndarray]:
        run = self.runner.by_dataflow if dataflow else self.runner.run
        return run([f"{name}:0" for name in names], feeds)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dataflow", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans())
def test_steps_change_nothing_that_somebody_holds(dataflow: bool, made: Any) -> None:
    sources, plan, fetches = made
    rng = np.random.default_rng(len(plan))
    arrays = [np.asarray(rng.integers(-3, 4, shape), np.float32) for shape in sources]
    maker, names = build(sources, plan, arrays[2:4])
    # feeds that own writable memory: nothing but the rules keeps a kernel from taking it
    feeds = {"feed0:0": arrays[0].copy(), "feed1:0": arrays[1].copy()}
    wanted = [names[index] for index in fetches]
    everything = [*wanted, "read", "constant0", "constant1"]
    select = compiled_kernels.select
    compiled_kernels.select = lambda *args: None
    try:
        reference = attempt(maker, arrays[4], everything, feeds, dataflow)
    finally:
        compiled_kernels.select = select
    session = Session(maker, arrays[4].copy())
    first = attempt_in(session, everything, feeds, dataflow)
    if isinstance(reference, str):
        assert first == reference
        return
    copies = [value.copy() for value in first]
    second = attempt_in(session, everything, feeds, dataflow)
    for one, other, copy, expected in zip(first, second, copies, reference, strict=True):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, expected)
        np.testing.assert_array_equal(one, copy, "a later step changed a fetched array")
    np.testing.assert_array_equal(feeds["feed0:0"], arrays[0])
    np.testing.assert_array_equal(feeds["feed1:0"], arrays[1])
    np.testing.assert_array_equal(first[-3], arrays[4])
    np.testing.assert_array_equal(first[-2], arrays[2])
    np.testing.assert_array_equal(first[-1], arrays[3])


def attempt(maker: Any, start: np.ndarray, names: list[str], feeds: dict[str, np.ndarray], dataflow: bool) -> Any:
    return attempt_in(Session(maker, start.copy()), names, feeds, dataflow)


def attempt_in(session: Session, names: list[str], feeds: dict[str, np.ndarray], dataflow: bool) -> Any:
    """Return the fetched arrays, or the text of the error that shapes which do not fit lead to."""
    try:
        return session.run(names, feeds, dataflow)
    except InvalidArgument as error:
        return error.message
