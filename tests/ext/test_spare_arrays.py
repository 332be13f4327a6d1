"""Small arrays that die in a step serve the next kernel; nobody who still has one notices."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from runtime._ext.executor import StepContext
from runtime.dtypes import DataType
from tests.step.maker import GraphMaker, Runner


def adding(kind: DataType = DataType.FLOAT) -> tuple[GraphMaker, list[str]]:
    """Return a graph in which one sum is fetched and others die."""
    maker = GraphMaker()
    maker.placeholder("x", kind)
    maker.placeholder("y", kind)
    for number in range(4):
        maker.op("AddV2", f"kept{number}", "x", "y", T=kind)
        maker.op("Mul", f"lost{number}", "x", f"kept{number}", T=kind)
    return maker, [f"kept{number}:0" for number in range(4)]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3, 4), (64,), (1000,), (0,)])
def test_answers_stay_what_they_were(shape):
    maker, fetches = adding()
    runner = Runner(maker)
    runner.state.keeps_repeated = True  # four sums of the same
    compiled = runner.compile(["x:0", "y:0"], fetches, [f"lost{number}" for number in range(4)])
    kept = []
    for number in range(50):
        x, y = np.full(shape, number, np.float32), np.full(shape, 1, np.float32)
        kept.append((number, compiled.run(StepContext(number, None), [x, y])))
    for number, outputs in kept:
        assert all(np.array_equal(value, np.full(shape, number + 1, np.float32)) for value in outputs)
    places = [value.__array_interface__["data"][0] for _, outputs in kept for value in outputs]
    assert len(set(places)) == len(places) or shape == (0,)


def test_a_view_keeps_its_array():
    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("AddV2", "sum", "x", "x")
    maker.const("shape", np.array([4], np.int32))
    maker.op("Reshape", "flat", "sum", "shape", T=DataType.FLOAT, Tshape=DataType.INT32)
    runner = Runner(maker)
    compiled = runner.compile(["x:0"], ["flat:0"])
    views = [
        compiled.run(StepContext(number, None), [np.full((2, 2), number, np.float32)])[0] for number in range(50)
    ]
    for number, view in enumerate(views):
        assert view.tolist() == [2.0 * number] * 4


def test_who_watches_an_array_sees_it_die():
    """An array with weak references is not handed out again."""
    seen = []

    maker = GraphMaker()
    maker.placeholder("x")
    maker.op("AddV2", "sum", "x", "x")
    maker.op("Neg", "negated", "sum")
    runner = Runner(maker)
    compiled = runner.compile(["x:0"], ["negated:0"])
    for number in range(3):
        (value,) = compiled.run(StepContext(number, None), [np.ones(4, np.float32)])
        seen.append(weakref.ref(value))
        del value
    gc.collect()
    assert [reference() for reference in seen] == [None] * 3


@pytest.mark.parametrize("kind", [DataType.FLOAT, DataType.DOUBLE, DataType.INT32, DataType.INT64, DataType.BFLOAT16])
def test_types_do_not_mix(kind):
    maker, fetches = adding(kind)
    runner = Runner(maker)
    from runtime.dtypes import to_numpy

    dtype = to_numpy(kind)
    for _ in range(20):
        values = runner.run(fetches, {"x:0": np.full(2, 3, dtype), "y:0": np.full(2, 4, dtype)})
        assert all(value.dtype == dtype and value.tolist() == [7, 7] for value in values)
