"""Compiled splitting, repeating, spreading and padding, and shapes for gradients, beside their Python definitions."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import Error, InvalidArgument
from runtime._ext.kernels import arranging
from tests.ext.kernels.harness import Array, Op, check, misaligned, scattered

TYPES = (np.float32, np.float64, np.int32, np.bool_, np.complex128, np.float16, ml_dtypes.bfloat16)


def ints(*items: int, kind: Any = np.int32) -> Array:
    return np.array(items, kind)


def number(value: int, kind: Any = np.int32) -> Array:
    return np.array(value, kind)


def numbers(shape: Any, dtype: Any = np.float32) -> Array:
    return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)


def layouts(array: Array) -> list[Array]:
    """Return the same values in several layouts."""
    return [array, misaligned(array), scattered(array), np.array(array, order="F")]


def test_every_op_of_the_module_is_in_these_tests() -> None:
    assert {"Split", "SplitV", "Tile", "BroadcastTo", "Pad", "PadV2", "BroadcastGradientArgs",
                             "ConcatOffset"} == arranging.OPS


@pytest.mark.parametrize("dtype", TYPES)
def test_split(dtype: Any) -> None:
    for shape in [(6,), (4, 6), (2, 4, 6), (6, 0), (0, 6)]:
        for x in layouts(numbers(shape, dtype)):
            for axis in range(-len(shape), len(shape)):
                for count in (1, 2):
                    answer = check("Split", number(axis), x, T=x.dtype, num_split=count)
                    assert all(part.flags.c_contiguous for part in answer.outputs)
    for axis, count in ((1, 4), (2, 2), (-3, 1)):
        with pytest.raises(Error):
            Op("Split", number(axis), numbers((4, 6)), num_split=count).run()


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_split_by_sizes(kind: Any) -> None:
    for x in layouts(numbers((5, 7))):
        for sizes in [(5,), (2, 3), (0, 5), (-1, 2), (1, -1, 1), (1, 1, 1, 1, 1), (5, 0, -1)]:
            check("SplitV", x, ints(*sizes, kind=kind), number(0), num_split=len(sizes))
        for sizes in [(7,), (3, 4), (-1, 7), (1, 2, 4)]:
            check("SplitV", x, ints(*sizes, kind=kind), number(-1), num_split=len(sizes))
    for sizes in [(2, 2), (-1, -1), (-2, 7), (6, -1)]:
        with pytest.raises(InvalidArgument):
            Op("SplitV", numbers((5, 7)), ints(*sizes, kind=kind), number(0), num_split=2).run()


@pytest.mark.parametrize("dtype", TYPES)
def test_tile(dtype: Any) -> None:
    for shape in [(3,), (2, 3), (2, 1, 3), (0, 2), ()]:
        for x in layouts(numbers(shape, dtype)):
            for multiples in itertools.product((0, 1, 3), repeat=len(shape)):
                check("Tile", x, np.array(multiples, np.int32))
    check("Tile", numbers((1, 1), dtype), ints(40, 50, kind=np.int64))
    with pytest.raises(InvalidArgument, match=r"multiples\[1\] >= 0"):
        Op("Tile", numbers((2, 3)), ints(1, -1)).run()


@pytest.mark.parametrize("dtype", TYPES)
def test_broadcast_to(dtype: Any) -> None:
    for shape, wanted in [((), (2, 3)), ((3,), (2, 3)), ((1, 3), (2, 3)), ((2, 1), (2, 3)), ((2, 3), (2, 3)),
                          ((1,), (0,)), ((0, 1), (0, 3)), ((3, 1, 2), (4, 3, 5, 2)), ((1, 1), (30, 40))]:
        for x in layouts(numbers(shape, dtype)):
            check("BroadcastTo", x, np.array(wanted, np.int32))
    for shape, wanted in [((2,), (3,)), ((2, 3), (3,)), ((1,), (-1,))]:
        with pytest.raises(Error):
            Op("BroadcastTo", numbers(shape), np.array(wanted, np.int32)).run()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_pad(kind: Any, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    for shape in [(), (3,), (2, 3), (2, 3, 4), (0, 2)]:
        for x in layouts(numbers(shape, dtype)):
            pads = rng.integers(0, 3, (len(shape), 2)).astype(kind)
            check("Pad", x, pads)
            check("PadV2", x, pads, np.array(7).astype(dtype))
    for pads in ([[0, -1], [0, 0]], [[1, 1]], [[1, 1, 1], [1, 1, 1]]):
        with pytest.raises(InvalidArgument):
            Op("Pad", numbers((2, 3)), np.array(pads, kind)).run()


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_axes_of_gradients_that_were_broadcast(kind: Any) -> None:
    shapes = [(), (1,), (3,), (1, 1), (2, 3), (2, 1), (1, 3), (4, 2, 3), (1, 2, 1), (0, 3)]
    for left, right in itertools.product(shapes, shapes):
        made = Op("BroadcastGradientArgs", np.array(left, kind), np.array(right, kind))
        try:
            made.run(compiled=False)
        except InvalidArgument:
            with pytest.raises(InvalidArgument):
                made.run()
            continue
        check("BroadcastGradientArgs", np.array(left, kind), np.array(right, kind))


def test_offsets_of_joined_arrays() -> None:
    for axis in (0, 1, -1, -2):
        first = np.array([2, 3], np.int32)
        other, third = first.copy(), first.copy()
        other[axis], third[axis] = 5, 0
        check("ConcatOffset", number(axis), first, other, third)
    for axis, shape in ((2, [2, 3]), (0, [2, 4]), (0, [2])):
        with pytest.raises(InvalidArgument):
            Op("ConcatOffset", number(axis), np.array([2, 3], np.int32), np.array(shape, np.int32)).run()


def test_text_is_left_to_the_definitions() -> None:
    text = np.array([b"a", b"b"], object)
    assert Op("Tile", text, ints(2)).run().declined
    assert Op("Pad", text, np.array([[1, 0]], np.int32)).run().declined
    assert [part.tolist() for part in Op("Split", number(0), text, num_split=2).run().outputs] == [[b"a"], [b"b"]]


def test_large_arrays() -> None:
    x = numbers((800, 600))
    check("Split", number(1), x, num_split=4)
    check("Tile", x, ints(2, 2))
    check("Pad", x, np.array([[1, 2], [3, 4]], np.int32))
    check("BroadcastTo", x[:1], ints(900, 600))
