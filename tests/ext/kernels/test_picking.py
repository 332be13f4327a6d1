"""Compiled gathers, one-hot vectors and selections beside their Python definitions."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import picking
from runtime.dtypes import DataType
from tests.ext.kernels.harness import Array, Op, check, misaligned, scattered
from tests.ext.kernels.pairs import Declined, Pair, handle, variable

TYPES = (np.float32, np.float64, np.int32, np.bool_, np.complex128, np.float16, ml_dtypes.bfloat16)
WHOLE = (np.int32, np.int64)


def numbers(shape: Any, dtype: Any = np.float32) -> Array:
    return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)


def test_every_op_of_the_module_is_in_these_tests() -> None:
    assert {"Gather", "GatherV2", "ResourceGather", "OneHot", "Select", "SelectV2"} == picking.OPS


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", WHOLE)
def test_gather(kind: Any, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    for shape in [(5,), (5, 3), (5, 2, 3), (5, 0), (5, 1)]:
        x = numbers(shape, dtype)
        for picked in [(), (1,), (7,), (2, 3), (0,)]:
            indices = np.asarray(rng.integers(0, 5, picked), kind)
            check("Gather", x, indices)
            check("Gather", misaligned(x), misaligned(indices))
            check("GatherV2", x, indices, np.array(0, np.int32))
    for shape, axis in [((2, 5), 1), ((2, 5, 3), 1), ((2, 3, 5), -1), ((0, 5), 1)]:
        indices = rng.integers(0, 5, (2, 2)).astype(kind)
        check("GatherV2", numbers(shape, dtype), indices, np.array(axis, np.int64))
    assert Op("Gather", scattered(numbers((5, 3), dtype)), indices).run().declined


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("index", [-1, 5, -(2**31), 2**31 - 1])
def test_an_index_out_of_range_is_refused(index: int, kind: Any) -> None:
    indices = np.array([0, index], kind)
    for op, more in (("Gather", ()), ("GatherV2", (np.array(0, np.int32),))):
        with pytest.raises(InvalidArgument, match=rf"indices\[1\] = {index} is not in \[0, 5\)"):
            Op(op, numbers((5, 3)), indices, *more).run()


def test_gather_from_nothing() -> None:
    check("Gather", numbers((0, 3)), np.zeros((0,), np.int32))
    with pytest.raises(InvalidArgument):
        Op("Gather", numbers((0, 3)), np.zeros((1,), np.int32)).run()


@pytest.mark.parametrize("dtype", TYPES)
def test_gather_from_a_variable(dtype: Any) -> None:
    pair = Pair("ResourceGather", dtype=dtype, Tindices=np.int32)
    held = variable(numbers((6, 4), dtype))
    indices = np.array([[5, 0], [3, 3]], np.int32)
    for ours, theirs in zip(pair.compiled(handle(held), indices), pair.python(handle(held), indices), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(Declined):
        pair.compiled(handle(held), np.array([6], np.int32))
    with held.lock, pytest.raises(Declined):
        pair.compiled(handle(held), indices)
    with pytest.raises(Declined):
        pair.compiled(handle(variable(None, dtype=dtype)), indices)


def test_batches_are_left_to_the_definitions() -> None:
    made = Op("GatherV2", numbers((2, 3)), np.zeros((2, 1), np.int32), np.array(1, np.int32), batch_dims=1)
    assert made.compiled is None
    assert Pair("ResourceGather", dtype=DataType.FLOAT, Tindices=np.int32, batch_dims=1).kernel is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_one_hot(kind: Any, dtype: Any) -> None:
    on, off = np.array(3).astype(dtype), np.array(0).astype(dtype)
    for shape in [(), (4,), (2, 3), (0,)]:
        indices = np.random.default_rng(2).integers(0, 5, shape).astype(kind)
        for axis, depth in itertools.product(range(-1, len(shape) + 1), (0, 1, 4)):
            check("OneHot", indices, np.array(depth, np.int32), on, off, axis=axis)
    if kind != np.uint8:
        check("OneHot", np.array([-1, 2, 9], kind), np.array(3, np.int32), on, off)
    with pytest.raises(InvalidArgument, match="depth must be non-negative"):
        Op("OneHot", indices, np.array(-1, np.int32), on, off).run()


@pytest.mark.parametrize("dtype", [kind for kind in TYPES if kind is not np.complex128])
def test_select_with_broadcasting(dtype: Any) -> None:
    shapes = [(), (1,), (3,), (4, 1), (4, 3), (2, 4, 3), (1, 4, 1), (2, 1, 1)]
    rng = np.random.default_rng(3)
    for shape_c, shape_x, shape_y in itertools.product(shapes, shapes, shapes):
        condition = np.asarray(rng.random(shape_c) < 0.5)
        other = np.asarray(numbers(shape_y, np.int8) * 2 + 1).astype(dtype)
        check("SelectV2", condition, numbers(shape_x, dtype), other)


@pytest.mark.parametrize("dtype", [kind for kind in TYPES if kind is not np.complex128])
def test_select_of_rows_and_elements(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    for shape in [(), (5,), (5, 3), (5, 2, 3), (0, 3), (5, 0)]:
        x, y = numbers(shape, dtype), numbers(shape, dtype)[::-1].copy() if shape else numbers(shape, dtype)
        for condition_shape in {shape, shape[:1], ()}:
            condition = np.asarray(rng.random(condition_shape) < 0.5)
            check("Select", condition, x, y)
            check("Select", condition, misaligned(x), misaligned(y))
            reused = check("Select", condition, x, y, dying=(1, 2)).reused
            assert not x.size or len(reused) == 1
    with pytest.raises(InvalidArgument):
        Op("Select", np.array([True]), numbers((2, 3)), numbers((2, 3))).run()
    with pytest.raises(InvalidArgument):
        Op("SelectV2", np.array([True, False]), numbers((2, 3)), numbers((2, 3))).run()


def test_a_condition_byte_other_than_one_is_true() -> None:
    condition = np.frombuffer(bytes([0, 2, 255]), np.bool_)
    chosen = Op("SelectV2", condition, numbers((3,)) + 1, np.zeros(3, np.float32)).run()
    assert not chosen.declined and chosen.outputs[0].tolist() == [0, 2, 3]


def test_elements_of_sixteen_bytes_and_text_are_left_to_the_definitions() -> None:
    condition = np.array([True, False])
    for x in (numbers((2,), np.complex128), np.array([b"a", b"b"], object)):
        assert Op("SelectV2", condition, x, x).run().declined


def test_large_arrays() -> None:
    x = numbers((3000, 100))
    check("Gather", x, np.random.default_rng(0).integers(0, 3000, 5000))
    check("SelectV2", x % 2 == 0, x, np.zeros((), np.float32))
    check("OneHot", np.arange(900), np.array(1000, np.int32), np.array(1, np.float32), np.zeros((), np.float32))
