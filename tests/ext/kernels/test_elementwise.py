"""Compiled element-wise kernels beside their Python definitions, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import casts, elementwise
from tests.ext.kernels.harness import Op, assert_same, bf16, check, is_floating, misaligned, scattered, swapped, values

FLOATS = (np.float32, np.float64, np.float16, bf16)
NUMBERS = (*FLOATS, np.int32, np.int64)
BOOLS = (np.bool_,)

BINARY: dict[str, tuple[Any, ...]] = {
    "Add": NUMBERS, "AddV2": NUMBERS, "Sub": NUMBERS, "Mul": NUMBERS, "SquaredDifference": NUMBERS,
    "Maximum": NUMBERS, "Minimum": NUMBERS, "Less": NUMBERS, "LessEqual": NUMBERS, "Greater": NUMBERS,
    "GreaterEqual": NUMBERS, "Equal": (*NUMBERS, *BOOLS), "NotEqual": (*NUMBERS, *BOOLS), "RealDiv": FLOATS,
    "Div": FLOATS, "DivNoNan": FLOATS, "MulNoNan": FLOATS, "LogicalAnd": BOOLS, "LogicalOr": BOOLS,
}
UNARY: dict[str, tuple[Any, ...]] = {
    "Neg": NUMBERS, "Abs": NUMBERS, "Sign": NUMBERS, "Square": NUMBERS, "Sqrt": FLOATS, "Rsqrt": FLOATS,
    "Reciprocal": FLOATS, "Inv": FLOATS, "LogicalNot": BOOLS,
}
CAST_TYPES = (*NUMBERS, np.uint8, np.bool_)

PAIRS = [(op, dtype) for op, dtypes in BINARY.items() for dtype in dtypes]
SINGLES = [(op, dtype) for op, dtypes in UNARY.items() for dtype in dtypes]
# Where arrays lie and whose memory is taken concerns all 16-bit types alike.
PLACED = [(op, dtype) for op, dtype in PAIRS if dtype not in (np.float16, bf16) or op in ("AddV2", "Less")]

SAME = [(), (1,), (4,), (17,), (33,), (3, 5), (0,), (2, 0, 3), (1, 1, 1), (2, 3, 4, 5)]
BROADCAST = [
    ((), (33,)), ((17,), ()), ((1,), ()), ((), (1, 1)), ((1,), (1, 1)), ((1, 1), (4,)), ((4,), (1, 1)),
    ((3, 5), (5,)), ((5,), (3, 5)), ((3, 5), (1, 5)), ((3, 5), (3, 1)), ((3, 1), (3, 5)), ((3, 1), (1, 5)),
    ((3,), (5, 1)), ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 1, 4)), ((2, 1, 4), (1, 3, 1)), ((7, 1, 9, 2), (1, 8, 1, 2)),
    ((2, 3, 1, 1), (4, 5)), ((0, 3), (3,)), ((0,), (1,)), ((1, 0), (3, 1)), ((0, 1), (1, 3)), ((2, 1, 0), (5, 1)),
]


def ids(pair: tuple[str, Any]) -> str:
    return f"{pair[0]}-{np.dtype(pair[1])}"


def test_every_op_of_the_module_is_in_these_tables() -> None:
    assert set(BINARY) | set(UNARY) | {"AddN"} == elementwise.OPS
    assert set(casts.OPS) == {"Cast"}


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_two_arrays(pair: tuple[str, Any]) -> None:
    op, dtype = pair
    for left, right in [(shape, shape) for shape in SAME] + BROADCAST:
        x, y = values(left, dtype), values(right, dtype, 1)
        check(op, x, y)
        check(op, misaligned(x), misaligned(y))


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_every_special_value_meets_every_other(pair: tuple[str, Any]) -> None:
    op, dtype = pair
    some = np.unique(values((400,), dtype))
    if is_floating(dtype):
        some = np.append(some, np.array([-0.0], dtype))
    check(op, np.repeat(some, len(some)), np.tile(some, len(some)))
    for item in some:
        check(op, some, np.asarray(item))
        check(op, np.asarray(item), some)


@pytest.mark.parametrize("pair", SINGLES, ids=ids)
def test_one_array(pair: tuple[str, Any]) -> None:
    op, dtype = pair
    for shape in [*SAME, (1000,)]:
        x = values(shape, dtype)
        check(op, x)
        check(op, misaligned(x))


@pytest.mark.parametrize("source", CAST_TYPES)
@pytest.mark.parametrize("target", CAST_TYPES)
def test_cast(source: Any, target: Any) -> None:
    if source == target:
        return
    for shape in [*SAME, (1000,)]:
        x = values(shape, source)
        check("Cast", x, DstT=target)
        check("Cast", misaligned(x), DstT=target)


def test_every_number_of_16_bits_is_widened_exactly() -> None:
    for dtype in (np.float16, bf16):
        every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        for target in (np.float32, np.float64, np.int64, np.bool_, bf16 if dtype is np.float16 else np.float16):
            if target is np.int64:  # what is no whole number may be anything
                check("Cast", every[np.isfinite(every.astype(np.float32))], DstT=target)
            else:
                check("Cast", every, DstT=target)


@pytest.mark.parametrize("dtype", [np.float16, bf16])
def test_floats_are_narrowed_to_the_nearest(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    every = np.unique(every[np.isfinite(every)])
    middles = every[:-1] / 2 + every[1:] / 2
    largest = every[-1] + (every[-1] - every[-2]) / 2
    some = np.concatenate([every, middles, np.nextafter(middles, np.float32(np.inf)),
                           np.nextafter(middles, np.float32(-np.inf)),
                           np.array([largest, -largest, np.nextafter(largest, np.float32(0)), np.nan, np.inf, -np.inf,
                                     1e-45, -1e-45, 3e38], np.float32)])
    for count in (len(some), len(some) - 1, 7):
        check("Cast", some[:count], DstT=dtype)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_sum_of_several(dtype: Any, count: int) -> None:
    for shape in [*SAME, (5000,)]:
        arrays = [values(shape, dtype, seed) for seed in range(count)]
        check("AddN", *arrays)
        check("AddN", *[misaligned(array) for array in arrays])


# Memory of inputs


@pytest.mark.parametrize("pair", PLACED, ids=ids)
@pytest.mark.parametrize("dying", [(0,), (1,), (0, 1)])
def test_dying_inputs_change_no_result(pair: tuple[str, Any], dying: tuple[int, ...]) -> None:
    op, dtype = pair
    for left, right in [((), ()), ((40,), (40,)), ((3, 5), (5,)), ((3, 1), (3, 5)), ((40,), ()), ((), (40,)),
                        ((3, 1), (1, 5)), ((1,), (1, 1)), ((2, 3, 4), (2, 1, 4))]:
        x, y = values(left, dtype), values(right, dtype, 1)
        answer = check(op, x, y, dying=dying)
        result = answer.outputs[0]
        fits = [index for index, value in enumerate((x, y)) if value.shape == result.shape]
        takes = result.dtype == dtype and bool(set(fits) & set(dying))
        assert bool(answer.reused) == takes, (left, right, answer.reused)


@pytest.mark.parametrize("pair", SINGLES, ids=ids)
def test_dying_input_takes_the_result(pair: tuple[str, Any]) -> None:
    op, dtype = pair
    for shape in [(), (40,), (3, 5)]:
        assert check(op, values(shape, dtype), dying=(0,)).reused == (0,)


@pytest.mark.parametrize(("dying", "reused"), [((0,), (0,)), ((1,), (1,)), ((2,), ()), ((0, 1, 2), (0,))])
def test_sum_of_several_takes_one_of_the_first_two(dying: tuple[int, ...], reused: tuple[int, ...]) -> None:
    arrays = [values((3000,), np.float32, seed) for seed in range(3)]
    assert check("AddN", *arrays, dying=dying).reused == reused


def test_array_on_both_sides() -> None:
    x = values((50,), np.float32)
    check("Sub", x, x)
    check("AddN", x, x, x)


# What kernels are not made for


@pytest.mark.parametrize("pair", PLACED, ids=ids)
@pytest.mark.parametrize("change", [scattered, swapped])
def test_unusual_memory_is_declined(pair: tuple[str, Any], change: Any) -> None:
    op, dtype = pair
    if change is swapped and np.dtype(dtype).itemsize == 1:
        return
    x, y = values((3, 4), dtype), values((3, 4), dtype, 1)
    assert Op(op, change(x), y).run().declined
    assert Op(op, x, change(y)).run().declined


@pytest.mark.parametrize("pair", SINGLES, ids=ids)
def test_unusual_memory_of_a_single_input_is_declined(pair: tuple[str, Any]) -> None:
    op, dtype = pair
    x = values((3, 4), dtype)
    assert Op(op, scattered(x)).run().declined
    if x.itemsize > 1:
        assert Op(op, swapped(x)).run().declined


def test_shapes_that_do_not_fit_are_left_to_the_definition() -> None:
    x, y = values((3, 4), np.float32), values((3,), np.float32)
    with pytest.raises(InvalidArgument, match=r"Incompatible shapes: \[3,4\] vs. \[3\]"):
        Op("AddV2", x, y).run()
    with pytest.raises(InvalidArgument, match=r"\[0\] vs. \[2\]"):
        Op("Mul", np.zeros(0, np.float32), np.zeros(2, np.float32)).run()
    with pytest.raises(InvalidArgument, match="must have the same size and shape"):
        Op("AddN", x, y).run()


def test_equality_of_shapes_that_do_not_fit_may_be_an_answer() -> None:
    x, y = values((3, 4), np.float32), values((3,), np.float32)
    answer = Op("Equal", x, y, incompatible_shape_error=False).run()
    assert answer.declined and not answer.outputs[0]


def test_many_axes() -> None:
    rng = np.random.default_rng(3)
    for rank in (15, 16, 17, 20):
        ones = rng.integers(1, 3, rank) if rank < 17 else np.r_[rng.integers(1, 3, 16), np.ones(rank - 16, int)]
        x = values(tuple(np.where(rng.random(rank) < 0.5, ones, 1)), np.float32)
        y = values(tuple(np.where(rng.random(rank) < 0.5, ones, 1)), np.float32, 1)
        op = Op("AddV2", x, y)
        np.testing.assert_array_equal(op.run().outputs[0], op.run(compiled=False).outputs[0])


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.complex64])
def test_other_types_have_no_compiled_kernel(dtype: Any) -> None:
    x = np.ones(3, dtype)
    assert Op("AddV2", x, x).compiled is None


# Long work lets other threads run


@pytest.mark.parametrize("right", [(300_000,), (), (3, 100_000), (100_000,), (3, 1)])
def test_large_arrays(right: tuple[int, ...]) -> None:
    left = right if right == (300_000,) else (3, 100_000)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal(left, np.float32), np.asarray(rng.standard_normal(right), np.float32)
    check("Mul", x, y)
    check("Mul", x, y, dying=(0, 1))
    check("Less", x, y)
    check("Sqrt", x)
    check("AddN", x, x, x)
    check("Cast", x, DstT=np.float64)


@pytest.mark.parametrize("dtype", [np.float32, bf16])
def test_ranges_of_several_threads_give_the_same_bits(dtype: Any) -> None:
    workers = worker_pool.workers()
    shapes = [((2000, 700), (2000, 700)), ((2000, 700), ()), ((1, 1), (2000, 700)), ((2000, 700), (700,)),
              ((2000, 1), (2000, 700)), ((2, 700_001), (1, 700_001)), ((2, 1), (2, 700_001)),
              ((3, 1, 400), (1, 1200, 1)), ((40, 1, 30, 1), (1, 40, 1, 50)), ((900_001, 2), (900_001, 1))]
    for left, right in shapes:
        x, y = values(left, dtype), values(right, dtype, 1)
        answers = []
        for count in (1, 2, 5):
            worker_pool.set_workers(count)
            answers.append([Op(op, *inputs).run() for op, inputs in (("Sub", (x, y)), ("Less", (x, y)), ("Neg", (x,)),
                                                                     ("AddN", (x, x, x)))])
        worker_pool.set_workers(workers)
        for answer in answers:
            assert not any(one.declined for one in answer)
            assert [one.outputs[0].tobytes() for one in answer] == [one.outputs[0].tobytes() for one in answers[0]]
        expected = Op("Sub", x, y).run(compiled=False).outputs[0]
        assert_same(answers[0][0].outputs[0], expected, f"{left} {right}")
