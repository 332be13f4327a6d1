"""Compiled reductions beside their Python definitions, and sums beside exact ones."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import reductions
from tests.ext.kernels.harness import (
    Array,
    Op,
    assert_same,
    bf16,
    check,
    is_floating,
    misaligned,
    scattered,
    swapped,
    values,
)

FLOATS = (np.float32, np.float64)
SMALL = (np.float16, bf16)
NUMBERS = (*FLOATS, np.int32, np.int64, *SMALL)
EXACT: dict[str, tuple[Any, ...]] = {"Max": NUMBERS, "Min": NUMBERS, "Sum": (np.int32, np.int64),
                                     "Prod": (np.int32, np.int64), "All": (np.bool_,), "Any": (np.bool_,)}
CASES = [(op, dtype) for op, dtypes in EXACT.items() for dtype in dtypes]
SHAPES = [(), (1,), (7,), (100,), (3, 5), (1, 1), (1, 9), (9, 1), (2, 3, 4), (2, 1, 4), (5, 3, 1), (2, 3, 4, 5),
          (2, 3, 2, 3, 2), (0,), (0, 3), (3, 0), (2, 0, 3), (40, 70), (70, 40)]


def ids(pair: tuple[str, Any]) -> str:
    return f"{pair[0]}-{np.dtype(pair[1])}"


def subsets(rank: int) -> list[tuple[int, ...]]:
    return [axes for count in range(rank + 1) for axes in itertools.combinations(range(rank), count)]


def alternates(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether reduced and kept axes take turns more often than there are kernels for: the Python definition does."""
    kinds = [axis in axes for axis, length in enumerate(shape) if length != 1]
    groups = [kind for kind, _ in itertools.groupby(kinds)]
    if len(groups) > 2 and groups[-1]:
        groups.pop()
    return len(groups) > 3 or (len(groups) == 3 and groups[0])


def test_every_op_of_the_module_is_in_these_tables() -> None:
    assert set(EXACT) | {"Mean", "ArgMax", "ArgMin", "BiasAddGrad"} == reductions.OPS


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_where_the_order_does_not_matter(case: tuple[str, Any], keep_dims: bool) -> None:
    op, dtype = case
    for shape in SHAPES:
        x = values(shape, dtype)
        for axes in subsets(len(shape)):
            for kind in (np.int32, np.int64):
                axis = np.array(axes, kind) if axes != () or kind is np.int32 else np.empty(0, kind)
                made = Op(op, x, axis, constants=(1,), keep_dims=keep_dims)
                answer, expected = made.run(), made.run(compiled=False)
                # of two zeros either may be the largest
                found, there = (side.outputs[0] if dtype is not bf16 else side.outputs[0].astype(np.float32)
                                for side in (answer, expected))
                np.testing.assert_array_equal(found, there, f"{op} {shape} {axes}")
                assert answer.outputs[0].dtype == expected.outputs[0].dtype
                assert answer.outputs[0].shape == expected.outputs[0].shape
                assert answer.declined == (alternates(shape, axes) if axes else False), (shape, axes)


@pytest.mark.parametrize("dtype", [*FLOATS, *SMALL])
@pytest.mark.parametrize("op", ["Sum", "Mean"])
def test_sums_are_near_the_exact_ones(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    for shape in [*SHAPES, (10_000,), (3, 5000), (5000, 3), (3, 700, 5), (1000, 300)]:
        x = np.asarray((rng.standard_normal(shape) + 1) / 10, dtype)
        for axes in subsets(len(shape)):
            for source in (x, misaligned(x)):
                made = Op(op, source, np.array(axes, np.int32), constants=(1,))
                answer = made.run()
                assert answer.declined == (alternates(shape, axes) if axes else False)
                exact = source.astype(np.float64).astype(np.longdouble)
                total = exact.sum(axes) if axes else exact
                size = np.abs(exact).sum(axes) if axes else np.abs(total)
                if op == "Mean" and axes:
                    count = np.prod([shape[axis] for axis in axes])
                    if not count:
                        assert np.isnan(answer.outputs[0].astype(np.float64)).all()
                        continue
                    total, size = total / count, size / count
                assert answer.outputs[0].dtype == dtype
                assert answer.outputs[0].shape == total.shape
                found = answer.outputs[0].astype(np.float64)
                assert (np.abs(found - total) <= 8 * float(ml_dtypes.finfo(dtype).eps) * size).all(), (shape, axes)
                if dtype in SMALL:  # rounded once, after sums that are much more precise
                    slack = 0.5001 * np.spacing(np.abs(total).astype(dtype)).astype(np.float64) + 1e-5 * size
                    assert (np.abs(found - total) <= slack).all(), (shape, axes)


@pytest.mark.parametrize("rows", [(1, 100_000), (100_000, 1), (100_000, 2)])
def test_long_sums_of_one_sign_stay_accurate(rows: tuple[int, int]) -> None:
    x = np.full(rows, 0.1, np.float32)
    axis = 1 if rows[0] == 1 else 0
    total = Op("Sum", x, np.array(axis, np.int32)).run().outputs[0]
    np.testing.assert_allclose(total, np.float64(np.float32(0.1)) * 100_000, rtol=5e-7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_special_values(dtype: Any) -> None:
    for items in ([np.inf, 1], [np.inf, -np.inf], [np.nan, 1], [-np.inf, -1], [0.0, -0.0]):
        for repeat in (1, 50):
            x = np.tile(np.array(items, dtype), repeat)
            for value, axis in ((x, 0), (x[:, None], 0), (x[None], 1)):
                made = Op("Sum", np.ascontiguousarray(value), np.array(axis, np.int32))
                np.testing.assert_array_equal(made.run().outputs[0], made.run(compiled=False).outputs[0])


def test_axes_are_read_as_they_come() -> None:
    x = values((2, 3, 4), np.int32)
    for axes in (np.array(-1, np.int32), np.array([-1, 0], np.int64), np.array([1, -3], np.int32), np.int32(2)):
        check("Sum", x, np.asarray(axes))
    check("Sum", x, misaligned(np.array([0, 2], np.int64)))
    for bad, text in (([3], r"Invalid reduction dimension \(3"), ([-4], r"\(-4"), ([0, 0], "duplicate"),
                      ([1, -2], "duplicate")):
        with pytest.raises(InvalidArgument, match=text):
            Op("Sum", x, np.array(bad, np.int32)).run()
    assert Op("Sum", x, swapped(np.array([0], np.int32))).run().declined


def test_nothing_to_reduce_hands_the_array_on() -> None:
    x = values((3, 4), np.float32)
    answer = Op("Sum", x, np.zeros(0, np.int32)).run()
    assert answer.outputs[0] is x and not answer.declined


@pytest.mark.parametrize("change", [scattered, swapped])
def test_unusual_memory_is_declined(change: Any) -> None:
    x, axis = values((3, 4), np.float32), np.array(1, np.int32)
    for op in ("Sum", "Mean", "Max", "ArgMax"):
        assert Op(op, change(x), axis).run().declined
    if change is scattered:  # numpy itself refuses swapped bytes here, and no step hands them to a kernel
        assert Op("BiasAddGrad", change(x)).run().declined


@pytest.mark.parametrize("dtype", [*FLOATS, *SMALL])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_gradient_of_a_bias(data_format: str, dtype: Any) -> None:
    for shape in [(3, 5), (128, 10), (1, 1), (2, 3, 4), (8, 3, 4, 5), (2, 3, 1, 2, 4), (0, 3), (3, 0), (2, 0, 3)]:
        x = np.asarray(np.random.default_rng(2).standard_normal(shape), dtype)
        made = Op("BiasAddGrad", misaligned(x), data_format=data_format)
        answer, expected = made.run(), made.run(compiled=False)
        assert not answer.declined
        found, there = (side.outputs[0].astype(np.float64) for side in (answer, expected))
        np.testing.assert_allclose(found, there, rtol=0 if dtype in FLOATS else float(ml_dtypes.finfo(dtype).eps),
                                   atol=20 * float(np.finfo(np.float32 if dtype in SMALL else dtype).eps)
                                   * (np.abs(x.astype(np.float64)).sum() + 1))
        assert answer.outputs[0].dtype == dtype and answer.outputs[0].shape == expected.outputs[0].shape
    with pytest.raises(InvalidArgument, match="must be at least 2D"):
        Op("BiasAddGrad", np.ones(3, dtype)).run()


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_place_of_the_extremum(op: str, dtype: Any) -> None:
    for shape in [(1,), (9,), (3, 5), (5, 3), (2, 3, 4), (1, 1), (100, 10), (4, 0, 3), (0, 2)]:
        x = values(shape, dtype)
        for axis, out in itertools.product(range(-len(shape), len(shape)), (np.int32, np.int64)):
            if shape[axis] == 0:
                with pytest.raises(InvalidArgument, match="is empty"):
                    Op(op, x, np.array(axis, np.int32), output_type=out).run()
                continue
            check(op, x, np.array(axis, np.int32), output_type=out)
            check(op, misaligned(x), np.array(axis, np.int64), output_type=out)
    for axis in (np.array([0], np.int32), np.array(1, np.int32)):
        with pytest.raises(InvalidArgument):
            Op(op, np.ones(3, dtype), axis, output_type=np.int64).run()


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_nan_is_never_the_extremum(op: str) -> None:
    infinite: Array = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    rows = np.array(list(itertools.product(infinite, repeat=4)), np.float32)
    for axis, x in ((1, rows), (0, np.ascontiguousarray(rows.T))):
        check(op, x, np.array(axis, np.int32), output_type=np.int64)


@pytest.mark.parametrize("dtype", FLOATS + SMALL)
def test_products(dtype: Any) -> None:
    for shape in [(3, 5), (7,), (200, 3), (3, 200), (2, 3, 4), (0, 3), ()]:
        x = np.asarray(np.random.default_rng(3).uniform(0.8, 1.2, shape), dtype)
        for axes in subsets(len(shape)):
            made = Op("Prod", x, np.array(axes, np.int32), constants=(1,))
            answer, expected = (made.run(compiled).outputs[0] for compiled in (True, False))
            assert answer.dtype == dtype and answer.shape == expected.shape
            np.testing.assert_allclose(answer.astype(np.float64), expected.astype(np.float64),
                                       rtol=(50 if dtype in FLOATS else 1) * float(ml_dtypes.finfo(dtype).eps))


LARGE = [(700_001,), (2, 600_001), (3, 400_000), (5000, 257), (70_000, 9), (9, 70_000), (30, 40_001), (6, 300, 700),
         (2, 3000, 300), (3, 100_000, 3), (1000, 30, 30), (40, 3, 9000)]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, bf16])
def test_large_arrays_give_the_same_bits_whatever_the_number_of_threads(dtype: Any) -> None:
    workers = worker_pool.workers()
    rng = np.random.default_rng(7)
    for shape in LARGE:
        x = (rng.integers(-1000, 1000, shape) if dtype is np.int64 else rng.standard_normal(shape)).astype(dtype)
        for axes in subsets(len(shape))[1:]:
            if alternates(shape, axes):
                continue
            for op in ("Sum", "Max"):
                made = Op(op, x, np.array(axes, np.int32))
                answers = []
                for count in (1, 2, 5):
                    worker_pool.set_workers(count)
                    answers.append(made.run().outputs[0])
                worker_pool.set_workers(workers)
                for answer in answers[1:]:
                    assert answer.tobytes() == answers[0].tobytes(), (op, shape, axes)
                if op == "Max" or not is_floating(dtype):
                    np.testing.assert_array_equal(answers[0], getattr(np, op.lower())(x, axes))
                else:
                    exact = x.astype(np.float64)
                    np.testing.assert_allclose(
                        answers[0].astype(np.float64), exact.sum(axes), rtol=float(ml_dtypes.finfo(dtype).eps),
                        atol=float(1e-6 * np.abs(exact).sum(axes).max()))


def test_large_arrays() -> None:
    x = np.random.default_rng(1).standard_normal((1000, 400)).astype(np.float32)
    for axes in ((0,), (1,), (0, 1)):
        for op in ("Max", "Min"):
            check(op, x, np.array(axes, np.int32))
        made = Op("Mean", x, np.array(axes, np.int32))
        assert_same(made.run().outputs[0].round(4), made.run(compiled=False).outputs[0].round(4))
    for shape in ((1000, 400), (3, 200_000), (2, 3, 100_000), (200_000, 3)):
        for axis in range(len(shape)):
            check("ArgMax", x.reshape(-1)[:np.prod(shape)].reshape(shape) if np.prod(shape) <= x.size else
                  np.resize(x, shape), np.array(axis, np.int32), output_type=np.int64)
