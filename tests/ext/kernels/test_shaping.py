"""Compiled kernels that change, cut and join shapes, beside their Python definitions."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import Error
from runtime._ext.kernels import shaping
from tests.ext.kernels.harness import Array, Op, check, misaligned, scattered, swapped, values

TYPES = (np.float32, np.float64, np.int32, np.int64, np.bool_, np.uint8, np.int8, np.int16, np.complex64, np.complex128)
OTHERS = (np.float16, ml_dtypes.bfloat16, np.uint32)
SHAPES = [(), (1,), (6,), (2, 3), (1, 4, 1), (2, 3, 4), (0,), (0, 3), (2, 0, 3)]


def ints(*items: int, kind: Any = np.int32) -> Array:
    return np.array(items, kind)


def numbers(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)


def test_every_op_of_the_module_is_in_these_tests() -> None:
    here = {"Reshape", "ExpandDims", "Squeeze", "Transpose", "ConjugateTranspose", "Slice", "StridedSlice", "Unpack",
            "Pack", "Concat", "ConcatV2", "Fill", "ZerosLike", "OnesLike", "Shape", "ShapeN", "Size", "Rank", "Cast",
            "Identity", "StopGradient", "PreventGradient", "Snapshot", "GuaranteeConst", "PlaceholderWithDefault",
            "IdentityN", "LoopCond"}
    assert set(shaping.OPS) == here


# Handing on


@pytest.mark.parametrize("op", ["Identity", "StopGradient", "PreventGradient", "Snapshot", "GuaranteeConst"])
def test_value_is_handed_on_as_it_is(op: str) -> None:
    for x in (values((3,), np.float32), scattered(values((2, 3), np.int32)), np.array([b"a", b"b"], object)):
        answer = Op(op, x).run()
        assert answer.outputs[0] is x and not answer.declined


def test_cast_to_the_same_type_hands_on() -> None:
    x = values((3,), np.float32)
    answer = Op("Cast", x, DstT=np.float32).run()
    assert answer.outputs[0] is x and not answer.declined


def test_several_values_are_handed_on() -> None:
    x, y = values((3,), np.float32), values((2,), np.float32)
    answer = Op("IdentityN", x, y).run()
    assert answer.outputs[0] is x and answer.outputs[1] is y and not answer.declined


# Shapes as values


@pytest.mark.parametrize("out", [np.int32, np.int64])
def test_shape_size_and_rank(out: Any) -> None:
    for shape, dtype in itertools.product(SHAPES, (np.float32, object)):
        x = np.full(shape, b"s", object) if dtype is object else values(shape, dtype)
        check("Shape", x, out_type=out)
        check("Size", x, out_type=out)
        check("Rank", x)
        check("ShapeN", x, x, x, out_type=out)
    check("Shape", scattered(values((2, 3), np.float32)), out_type=out)


# Other shapes of the same elements


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_reshape(kind: Any) -> None:
    for shape in SHAPES:
        x = numbers(shape)
        for wanted in [(x.size,), (1, x.size), (x.size, 1, 1), shape, (*shape, 1)]:
            check("Reshape", x, ints(*wanted, kind=kind))
            check("Reshape", misaligned(x), ints(*wanted, kind=kind), constants=(1,))
        if x.size:
            for wanted in [(-1,), (1, -1), (-1, 1, 1), (x.size, -1)]:
                check("Reshape", x, ints(*wanted, kind=kind))
    x = numbers((2, 3, 4))
    for wanted in [(6, 4), (4, 6), (-1, 3), (2, -1, 2), (24,), (2, 2, 2, 3)]:
        check("Reshape", x, ints(*wanted, kind=kind))
    for wanted in [(0,), (0, 5), (7, 0, 2)]:
        check("Reshape", numbers((0, 3)), ints(*wanted, kind=kind))


@pytest.mark.parametrize("wanted", [(5,), (-1, 5), (-1, -1), (-2, 3), (0,), (0, -1), (2**31 - 1, 2**31 - 1), (7, 0)])
def test_reshape_that_does_not_fit(wanted: tuple[int, ...]) -> None:
    with pytest.raises(Error):
        Op("Reshape", numbers((2, 3)), ints(*wanted)).run()


def test_reshape_of_an_empty_array_with_an_unknown_dimension_is_left_to_the_definition() -> None:
    for wanted in [(-1,), (-1, 0), (0, -1), (3, -1)]:
        answer = Op("Reshape", numbers((0, 3)), ints(*wanted)).run()
        assert answer.declined and answer.outputs[0].size == 0


def test_reshape_gives_a_view_and_the_array_itself_when_nothing_changes() -> None:
    x = numbers((2, 3)).copy()
    view = Op("Reshape", x, ints(3, 2)).run().outputs[0]
    assert view.base is x and view.flags.writeable and view.flags.c_contiguous and not view.flags.owndata
    x.flags.writeable = False
    assert not Op("Reshape", x, ints(6)).run().outputs[0].flags.writeable
    assert Op("Reshape", x, ints(2, 3)).run().outputs[0] is x
    assert not Op("Reshape", misaligned(x), ints(6)).run().outputs[0].flags.aligned


def test_reshape_of_scattered_memory_is_left_to_the_definition() -> None:
    answer = Op("Reshape", scattered(numbers((2, 3))), ints(6)).run()
    assert answer.declined
    np.testing.assert_array_equal(answer.outputs[0], np.arange(6))


@pytest.mark.parametrize("source", [numbers, lambda shape: scattered(numbers(shape))])
def test_expand_dims_and_squeeze(source: Any) -> None:
    for shape in SHAPES:
        x = source(shape)
        for axis in range(-len(shape) - 1, len(shape) + 1):
            check("ExpandDims", x, np.array(axis, np.int32))
            check("ExpandDims", x, ints(axis, kind=np.int64))
        check("Squeeze", x, squeeze_dims=[])
        ones = [axis for axis, length in enumerate(shape) if length == 1]
        for count in range(1, len(ones) + 1):
            for axes in itertools.combinations(ones, count):
                check("Squeeze", x, squeeze_dims=list(axes))
                check("Squeeze", x, squeeze_dims=[axis - len(shape) for axis in axes])
    for axis in (3, -4):
        with pytest.raises(Error, match="Tried to expand dim index"):
            Op("ExpandDims", numbers((2, 3)), np.array(axis, np.int32)).run()
    for axes, text in (([0], r"Can not squeeze dim\[0\]"), ([2], "Tried to squeeze"), ([-3], "Tried to squeeze")):
        with pytest.raises(Error, match=text):
            Op("Squeeze", numbers((2, 1)), squeeze_dims=axes).run()


@pytest.mark.parametrize("op", ["Transpose", "ConjugateTranspose"])
def test_transpose(op: str) -> None:
    for shape in [(), (3,), (2, 3), (2, 3, 4), (2, 0, 3), (1, 2, 1, 3)]:
        for order in itertools.permutations(range(len(shape))):
            check(op, numbers(shape), ints(*order))
            check(op, scattered(numbers(shape)), ints(*[axis - len(shape) for axis in order], kind=np.int64))
    for order in [(0,), (0, 0), (0, 2), (-3, 0), (0, 1, 2)]:
        with pytest.raises(Error):
            Op(op, numbers((2, 3)), ints(*order)).run()
    assert Op("ConjugateTranspose", numbers((2, 3), np.complex64), ints(1, 0)).compiled is None


def test_permuted_axes_come_back_as_plain_memory() -> None:
    for dtype in (np.uint8, np.float16, np.float32, np.float64, np.complex128):
        for shape in [(37, 70), (3, 33, 18), (2, 17, 5, 19), (1, 64, 64)]:
            x = numbers(shape, dtype)
            for order in itertools.permutations(range(len(shape))):
                answer = check("Transpose", x, ints(*order))
                assert answer.outputs[0].flags.c_contiguous
            check("Transpose", misaligned(x), ints(*reversed(range(len(shape)))))
    check("Transpose", numbers((700, 900)), ints(1, 0))
    text = np.array([[b"a", b"b"], [b"c", b"d"]], object)
    assert Op("Transpose", text, ints(1, 0)).run().outputs[0].tolist() == [[b"a", b"c"], [b"b", b"d"]]


def test_parts_are_views_where_they_are_plain_memory() -> None:
    x = numbers((4, 6)).copy()
    rows = Op("Slice", x, ints(1, 0), ints(2, 6)).run().outputs[0]
    assert np.shares_memory(rows, x)
    columns = Op("Slice", x, ints(0, 1), ints(4, 2)).run().outputs[0]
    assert columns.flags.owndata and columns.flags.c_contiguous
    assert all(np.shares_memory(part, x) for part in Op("Unpack", x, num=4, axis=0).run().outputs)
    assert all(part.flags.owndata for part in Op("Unpack", x, num=6, axis=1).run().outputs)


# Parts


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_slice(kind: Any) -> None:
    x = numbers((4, 5))
    for begin in itertools.product(range(5), range(6)):
        for size in itertools.product((-1, 0, 1, 4), (-1, 0, 2, 5)):
            fits = all(b <= n and (s == -1 or b + s <= n) for b, s, n in zip(begin, size, x.shape, strict=True))
            if fits:
                check("Slice", x, ints(*begin, kind=kind), ints(*size, kind=kind))
            else:
                with pytest.raises(Error):
                    Op("Slice", x, ints(*begin, kind=kind), ints(*size, kind=kind)).run()
    check("Slice", scattered(x), ints(1, 2), ints(2, -1))
    check("Slice", numbers((0, 3)), ints(0, 1), ints(0, -1))
    with pytest.raises(Error, match="Expected begin and size"):
        Op("Slice", x, ints(0), ints(1)).run()


def test_strided_slice_of_one_axis() -> None:
    x = numbers((7,), np.int32)
    for begin, end in itertools.product(range(-9, 10), range(-9, 10)):
        for step in (1, 2, 3, 10, -1, -2, -9):
            for masks in (0, 1, 2, 3):
                check("StridedSlice", x, ints(begin), ints(end), ints(step), **_masks(begin=masks & 1, end=masks >> 1))


def _masks(begin: int = 0, end: int = 0, ellipsis: int = 0, new_axis: int = 0, shrink: int = 0) -> dict[str, int]:
    return dict(begin_mask=begin, end_mask=end, ellipsis_mask=ellipsis, new_axis_mask=new_axis,
                shrink_axis_mask=shrink)


def test_strided_slices_with_every_kind_of_mask() -> None:
    rng = np.random.default_rng(11)
    done = 0
    for _ in range(3000):
        shape = tuple(rng.integers(0, 4, rng.integers(0, 4)))
        x = numbers(shape)
        if rng.random() < 0.3:
            x = scattered(x)
        count = int(rng.integers(0, 5))
        begin, end = rng.integers(-4, 5, (2, count)).astype(np.int64)
        step = rng.choice([1, 1, 1, 2, -1, -2], count).astype(np.int64)
        ellipsis = 1 << int(rng.integers(0, count)) if count and rng.random() < 0.5 else 0
        masks = _masks(*[int(v) for v in rng.integers(0, 16, 2)], ellipsis,
                       *[int(v) & int(w) for v, w in zip(rng.integers(0, 16, 2), rng.integers(0, 16, 2), strict=True)])
        made = Op("StridedSlice", x, begin, end, step, **masks)
        try:
            expected = made.run(compiled=False)
        except Error as error:
            with pytest.raises(type(error)) as caught:
                made.run()
            assert caught.value.message == error.message
            continue
        answer = made.run()
        assert not answer.declined
        np.testing.assert_array_equal(answer.outputs[0], expected.outputs[0])
        assert answer.outputs[0].shape == expected.outputs[0].shape
        done += 1
    assert done > 1000


def test_part_of_a_shape_is_a_scalar() -> None:
    shape = np.array([5, 7, 9], np.int32)
    answer = check("StridedSlice", shape, ints(1), ints(2), ints(1), **_masks(shrink=1))
    assert answer.outputs[0].shape == () and answer.outputs[0] == 7
    with pytest.raises(Error, match="slice index 3 of dimension 0 out of bounds"):
        Op("StridedSlice", shape, ints(3), ints(4), ints(1), **_masks(shrink=1)).run()
    for extreme in (np.iinfo(np.int64).min, np.iinfo(np.int64).max):
        check("StridedSlice", shape, ints(0, kind=np.int64), ints(extreme, kind=np.int64), ints(1, kind=np.int64),
              **_masks())
        check("StridedSlice", shape, ints(0, kind=np.int64), ints(3, kind=np.int64), ints(extreme, kind=np.int64),
              **_masks())


def test_unpack() -> None:
    for x in (numbers((3, 4, 2)), scattered(numbers((3, 4, 2))), numbers((1, 3, 0)), numbers((5,))):
        for axis in range(-x.ndim, x.ndim):
            check("Unpack", x, num=x.shape[axis], axis=axis)
    for num, axis in ((3, 0), (2, 2), (2, -3)):
        with pytest.raises(Error):
            Op("Unpack", numbers((2, 4)), num=num, axis=axis).run()


# Put together and filled


@pytest.mark.parametrize("dtype", [*TYPES, *OTHERS])
def test_pack(dtype: Any) -> None:
    for shape in SHAPES:
        arrays = [np.asarray(numbers(shape) + seed, dtype) for seed in range(3)]
        for axis in range(-len(shape) - 1, len(shape) + 1):
            check("Pack", *arrays, axis=axis)
            check("Pack", misaligned(arrays[0]), *arrays[1:], axis=axis)
            check("Pack", arrays[0], axis=axis)
    x = numbers((2, 3), dtype)
    for axis in range(3):
        check("Pack", x, scattered(x), x.T.copy().T, axis=axis)
    with pytest.raises(Error, match="Shapes of all inputs must match"):
        Op("Pack", x, x[:1], axis=0).run()
    with pytest.raises(Error, match="axis = 3 not in"):
        Op("Pack", x, x, axis=3).run()


@pytest.mark.parametrize("dtype", [*TYPES, *OTHERS])
def test_concat(dtype: Any) -> None:
    for shape in [(3,), (2, 3), (2, 3, 4), (1, 0, 2), (0, 3)]:
        for axis in range(-len(shape), len(shape)):
            arrays = []
            for length in (1, 0, 3):
                dims = list(shape)
                dims[axis] = length
                arrays.append((numbers(tuple(dims)) + length).astype(dtype))
            check("ConcatV2", *arrays, np.array(axis, np.int32))
            check("ConcatV2", misaligned(arrays[2]), arrays[0], np.array(axis, np.int64))
            check("Concat", np.array(axis, np.int32), *arrays)
            check("ConcatV2", arrays[2], arrays[2], ints(axis))
    x = numbers((2, 3), dtype)
    for axis in range(2):
        check("ConcatV2", x, scattered(x), x.T.copy().T, np.array(axis, np.int32))
    for other, axis in ((numbers((2, 2), dtype), 0), (numbers((2,), dtype), 0), (x, 2), (x, -3)):
        with pytest.raises(Error, match="ConcatOp"):
            Op("ConcatV2", x, other, np.array(axis, np.int32)).run()


def test_text_is_left_to_the_definitions() -> None:
    text = np.array([b"a", b"b"], object)
    for answer in (Op("Pack", text, text, axis=0).run(), Op("ConcatV2", text, text, np.array(0, np.int32)).run(),
                   Op("Fill", ints(2), np.array(b"x", object)).run()):
        assert answer.declined and answer.outputs[0].dtype == object
    assert Op("ZerosLike", text).compiled is None


@pytest.mark.parametrize("dtype", [*TYPES, *OTHERS])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_fill(kind: Any, dtype: Any) -> None:
    for dims in [(), (0,), (5,), (2, 3), (4, 0), (40, 1, 3)]:
        for item in (0, 1, 7):
            check("Fill", np.array(dims, kind), np.array(item).astype(dtype))
    check("Fill", np.array(3, kind), np.array(2).astype(dtype))
    check("Fill", np.array([3], kind), misaligned(np.array([2]).astype(dtype)))
    for dims, item in (((-1,), 1), ((2,), [1, 2])):
        with pytest.raises(Error):
            Op("Fill", np.array(dims, kind), np.array(item).astype(dtype)).run()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", ["ZerosLike", "OnesLike"])
def test_zeros_and_ones(op: str, dtype: Any) -> None:
    for shape in SHAPES:
        x = numbers(shape, dtype)
        check(op, x)
        check(op, scattered(x))
        if x.size:
            assert check(op, x, dying=(0,)).reused == (0,)
    if np.dtype(dtype).itemsize > 1:
        answer = Op(op, swapped(numbers((3,), dtype))).run()
        assert not answer.declined and answer.outputs[0].dtype.isnative


def test_large_arrays() -> None:
    x = values((300_000,), np.float32)
    check("Pack", x, x, axis=0)
    check("ConcatV2", x, x, np.array(0, np.int32))
    check("Fill", ints(600_000), np.array(1.5, np.float32))
    check("ZerosLike", x, dying=(0,))
