"""Cases of slicing, gathering, scattering, selecting, padding, reversing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, op_case
from tests.ops.cases.arrays import EVERY, ints
from tests.ops.values import SHAPES, values

NUMBERS = (*FLOATS, *INTEGERS, *COMPLEX)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _slicing()
    yield from _strided()
    yield from _gathering()
    yield from _scattering()
    yield from _selecting()
    yield from _padding()
    yield from _reversing()


def _slicing() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            yield op_case("Slice", values(kind, (4, 5)), ints(1, 2, kind=index), ints(2, -1, kind=index))
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    for begin, size in (((0, 0), (4, 5)), ((4, 0), (-1, 5)), ((1, 1), (0, 2)), ((5, 0), (0, 1)), ((-1, 0), (1, 1)),
                        ((0, 0), (5, 1)), ((0, 0), (-2, 1)), ((3, 4), (1, 1)), ((1,), (1,)), ((0, 0), (1,))):
        yield op_case("Slice", x, ints(*begin), ints(*size), name=f"{begin} {size}")
    yield op_case("Slice", np.array(1, np.float32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    yield op_case("Slice", x[:0], ints(0, 1), ints(-1, 2))
    yield op_case("Slice", x[:0], ints(1, 1), ints(0, 2))
    yield op_case("Slice", x, np.array(0, np.int32), np.array(1, np.int32))


STRIDED: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, int]], ...] = (
    ((1,), (3,), (1,), {}),
    ((0, 0), (3, 4), (1, 2), {}),
    ((-1, -1), (-4, -4), (-1, -2), {}),
    ((0, 0), (0, 0), (1, 1), {"end_mask": 3}),
    ((1, 1), (0, 0), (1, 1), {"begin_mask": 3, "end_mask": 3}),
    ((0, 0), (0, 0), (-1, -1), {"begin_mask": 3, "end_mask": 3}),
    ((1,), (2,), (1,), {"shrink_axis_mask": 1}),
    ((-1,), (0,), (1,), {"shrink_axis_mask": 1}),
    ((1, 2, 3), (2, 3, 4), (1, 1, 1), {"shrink_axis_mask": 7}),
    ((3,), (4,), (1,), {"shrink_axis_mask": 1}),
    ((-4,), (0,), (1,), {"shrink_axis_mask": 1}),
    ((0, 1), (0, 2), (1, 1), {"ellipsis_mask": 1, "shrink_axis_mask": 2}),
    ((0, 0, 1), (0, 0, 2), (1, 1, 1), {"new_axis_mask": 1, "ellipsis_mask": 2, "shrink_axis_mask": 4}),
    ((0, 0, 0), (0, 0, 0), (1, 1, 1), {"ellipsis_mask": 1, "new_axis_mask": 6}),
    ((0, 0), (0, 0), (1, 1), {"ellipsis_mask": 1, "new_axis_mask": 3}),
    ((0, 0), (1, 1), (1, 1), {"new_axis_mask": 1, "shrink_axis_mask": 3}),
    ((0, 0), (0, 0), (1, 1), {"ellipsis_mask": 3}),
    ((0, 0, 0, 0), (1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((0, 0, 0, 0, 0), (1, 1, 1, 0, 1), (1, 1, 1, 1, 1), {"ellipsis_mask": 8}),
    ((0, 0, 0, 0), (1, 1, 1, 0), (1, 1, 1, 1), {"ellipsis_mask": 8}),
    ((0, 0), (1, 1), (0, 1), {}),
    ((0,), (1,), (-1,), {"shrink_axis_mask": 1}),
    ((2,), (1,), (1,), {}),
    ((-100,), (100,), (1,), {}),
    ((100,), (-100,), (-1,), {}),
    ((100,), (-100,), (-2,), {}),
    ((), (), (), {}),
    ((1,), (0,), (1,), {"shrink_axis_mask": 1, "begin_mask": 1, "end_mask": 1}),
    ((0, 1), (0, 3), (1, 1), {"begin_mask": 1, "end_mask": 1}),
)
"""begin, end, strides and masks, applied to an array of 3 x 4 x 5."""


def _strided() -> Iterator[Case]:
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for begin, end, strides, masks in STRIDED:
        for index in (np.int32, np.int64):
            arguments = [ints(*part, kind=index) for part in (begin, end, strides)]
            yield op_case("StridedSlice", x, *arguments, name=f"{begin} {end} {strides}", **masks)
        try:
            shape = _strided_shape(x, begin, end, strides, masks)
        except IndexError:
            shape = (1,)
        yield op_case("StridedSliceGrad", ints(3, 4, 5, kind=np.int64), *arguments, values(np.float32, shape),
                      name=f"{begin} {end} {strides}", **masks)
    for kind in EVERY:
        yield op_case("StridedSlice", values(kind, (4, 5)), ints(1, 0), ints(4, 5), ints(2, 1))
        yield op_case("StridedSlice", values(kind, (4,)), ints(1), ints(2), ints(1), shrink_axis_mask=1)
        if kind is not object:
            yield op_case("StridedSliceGrad", ints(4, 5), ints(1, 0), ints(4, 5), ints(2, 1), values(kind, (2, 5)))
    yield op_case("StridedSlice", x, ints(0, 0), ints(1), ints(1))
    yield op_case("StridedSlice", x, np.array(0, np.int32), np.array(1, np.int32), np.array(1, np.int32))
    yield op_case("StridedSlice", np.array(1, np.float32), ints(0), ints(1), ints(1))
    yield op_case("StridedSlice", np.array(1, np.float32), ints(0), ints(1), ints(1), new_axis_mask=1)
    yield op_case("StridedSlice", x[:0], ints(0), ints(1), ints(1))
    yield op_case("StridedSlice", x[:0], ints(0), ints(1), ints(1), shrink_axis_mask=1)
    yield op_case("StridedSliceGrad", ints(3), ints(0), ints(2), ints(1), np.ones(3, np.float32))
    yield op_case("StridedSliceGrad", np.array(3, np.int32), ints(0), ints(2), ints(1), np.ones(2, np.float32))
    yield op_case("StridedSliceGrad", ints(0, 3), ints(0), ints(2), ints(1), np.ones((0, 3), np.float32))


def _strided_shape(x: np.ndarray, begin: Any, end: Any, strides: Any, masks: dict[str, int]) -> tuple[int, ...]:
    index: list[Any] = []
    for i in range(len(begin)):
        bit = 1 << i
        if masks.get("ellipsis_mask", 0) & bit:
            index.append(Ellipsis)
        elif masks.get("new_axis_mask", 0) & bit:
            index.append(None)
        elif masks.get("shrink_axis_mask", 0) & bit:
            index.append(begin[i])
        elif strides[i] == 0:
            raise IndexError(i)
        else:
            index.append(slice(None if masks.get("begin_mask", 0) & bit else begin[i],
                               None if masks.get("end_mask", 0) & bit else end[i], strides[i]))
    return x[tuple(index)].shape


def _gathering() -> Iterator[Case]:
    for kind in EVERY:
        params = values(kind, (5, 3))
        for index in INDEX:
            which = np.array([[0, 4], [2, 2]], index)
            yield op_case("Gather", params, which)
            yield op_case("GatherV2", params, which, np.array(0, np.int32))
            yield op_case("GatherV2", params, np.array([2, 0], index), np.array(1, np.int64))
            yield op_case("GatherNd", params, np.array([[0, 1], [4, 2]], index))
            yield op_case("GatherNd", params, np.array([[[0]], [[4]]], index))
        yield op_case("Gather", params, np.array(1, np.int32))
        yield op_case("GatherV2", params, np.array(1, np.int32), np.array(-1, np.int32))
        yield op_case("GatherNd", params, np.array([0, 1], np.int32))
    params = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for bad in (3, -1):
        yield op_case("Gather", params, ints(0, bad), name=str(bad))
        yield op_case("Gather", params, np.array(bad, np.int32), name=str(bad))
        yield op_case("GatherV2", params, np.array([[0, 1], [2, bad + 2]], np.int64), np.array(1, np.int32))
        yield op_case("GatherNd", params, np.array([[0, 1], [1, bad + 2]], np.int64))
    for axis in (-4, -3, 2, 3):
        yield op_case("GatherV2", params, ints(0, 2), np.array(axis, np.int32), name=str(axis))
    yield op_case("GatherV2", params, ints(0, 2), ints(0))
    yield op_case("GatherV2", np.array(1, np.float32), ints(0), np.array(0, np.int32))
    yield op_case("Gather", np.array(1, np.float32), ints(0))
    yield op_case("Gather", params[:0], np.zeros(0, np.int32))
    yield op_case("Gather", params[:0], ints(0))
    yield op_case("Gather", params, np.zeros((2, 0), np.int32))
    for batch, axis, which in ((1, 1, (3, 2)), (1, 2, (3, 2)), (2, 2, (3, 4, 2)), (-1, 1, (3, 2)), (1, -1, (3,)),
                               (1, 0, (3, 2)), (3, 2, (3, 2)), (2, 2, (3, 3, 2)), (1, 2, (2, 2)), (-3, 1, (3, 2))):
        indices = np.arange(int(np.prod(which)), dtype=np.int32).reshape(which) % 4
        yield op_case("GatherV2", params, indices, np.array(axis, np.int32), name=f"axis {axis}", batch_dims=batch)
    yield op_case("GatherNd", params, np.zeros((2, 0), np.int32))
    yield op_case("GatherNd", params, np.zeros((0, 2), np.int32))
    yield op_case("GatherNd", params, np.zeros((2, 4), np.int32))
    yield op_case("GatherNd", params, np.array(0, np.int32))
    yield op_case("GatherNd", np.array(1, np.float32), ints(0))
    yield op_case("GatherNd", params[:0], np.zeros((2, 1), np.int32))
    yield op_case("GatherNd", params, np.array([[0, 1, 2], [2, 3, 4]], np.int32))


def _scattering() -> Iterator[Case]:
    for kind in (*NUMBERS, np.bool_, object):
        for index in INDEX:
            yield op_case("ScatterNd", np.array([[1], [3], [0]], index), values(kind, (3, 2)), ints(5, 2, kind=index))
        if kind is not object:
            yield op_case("ScatterNd", np.array([[1], [1], [0]], np.int32), values(kind, (3,)), ints(4),
                          name="repeated")
    updates = values(np.float32, (2, 3))
    yield op_case("ScatterNd", np.array([[0, 1], [2, 0]], np.int32), updates, ints(3, 2, 3))
    yield op_case("ScatterNd", np.array([[0, 1], [3, 0]], np.int32), updates, ints(3, 2, 3))
    yield op_case("ScatterNd", np.array([[0, 1], [-1, 0]], np.int32), updates, ints(3, 2, 3))
    yield op_case("ScatterNd", np.array([[0, 1], [2, 0]], np.int32), updates, ints(3, 2, 4))
    yield op_case("ScatterNd", np.array([[0], [2], [1]], np.int32), updates, ints(3, 3))
    yield op_case("ScatterNd", np.zeros((0, 1), np.int32), np.zeros((0, 3), np.float32), ints(2, 3))
    yield op_case("ScatterNd", np.zeros((2, 1), np.int32), updates, ints(0, 3))
    yield op_case("ScatterNd", np.zeros((0, 1), np.int32), np.zeros((0, 3), np.float32), ints(0, 3))
    yield op_case("ScatterNd", np.array(0, np.int32), updates, ints(3))
    yield op_case("ScatterNd", np.array([0], np.int32), np.array(1, np.float32), ints(3))
    yield op_case("ScatterNd", np.zeros((2, 1), np.int32), updates, np.array(3, np.int32))
    yield op_case("ScatterNd", np.zeros((2, 0), np.int32), updates, ints(3))
    for kind in EVERY:
        for index in (np.uint8, np.int8, np.int32, np.int64):
            yield op_case("OneHot", np.array([0, 2, 5], index), np.array(4, np.int32), values(kind, (), 1),
                          values(kind, (), 2))
    on, off = np.array(1, np.float32), np.array(0, np.float32)
    for axis in (-1, 0, 1, 2, 3):
        yield op_case("OneHot", np.array([[0, 2, -1], [1, 4, 3]]), np.array(4, np.int32), on, off, axis=axis)
    yield op_case("OneHot", np.array(2), np.array(4, np.int32), on, off)
    yield op_case("OneHot", np.array([2]), np.array(0, np.int32), on, off)
    yield op_case("OneHot", np.array([2]), np.array(-1, np.int32), on, off)
    yield op_case("OneHot", np.zeros(0, np.int64), np.array(3, np.int32), on, off)
    yield op_case("OneHot", np.array([2]), ints(3), on, off)
    yield op_case("OneHot", np.array([2]), np.array(3, np.int32), np.ones(1, np.float32), off)


def _selecting() -> Iterator[Case]:
    for kind in (*NUMBERS, np.bool_):
        for shape in SHAPES:
            if kind is np.float16:  # TensorFlow's CPU has none
                continue
            yield op_case("Where", values(kind, shape))
    for kind in EVERY:
        for shape in SHAPES:
            then, otherwise = values(kind, shape, 1), values(kind, shape, 2)
            yield op_case("Select", values(np.bool_, shape), then, otherwise)
            yield op_case("SelectV2", values(np.bool_, shape), then, otherwise)
        then, otherwise = values(kind, (3, 2), 1), values(kind, (3, 2), 2)
        yield op_case("Select", np.array(True), then, otherwise)
        yield op_case("Select", np.array(False), then, otherwise)
        yield op_case("Select", np.array([True, False, True]), then, otherwise)
        yield op_case("SelectV2", np.array([[True], [False], [True]]), then, otherwise[0])
        yield op_case("SelectV2", np.array(True), then, values(kind, ()))
    x = np.ones((3, 2), np.float32)
    for op in ("Select", "SelectV2"):
        yield op_case(op, np.ones(2, bool), x, x)
        yield op_case(op, np.ones((3, 1), bool), x, x)
        yield op_case(op, np.ones((3, 2), bool), x, x[:, :1])
        yield op_case(op, np.ones((4, 2), bool), x, x)
        yield op_case(op, np.ones(3, bool), x[0, 0].reshape(()), x[0, 0].reshape(()))


def _padding() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            paddings = np.array([[1, 2], [0, 1]], index)
            yield op_case("Pad", values(kind, (2, 3)), paddings)
            yield op_case("PadV2", values(kind, (2, 3)), paddings, values(kind, (), 5))
            for mode in ("REFLECT", "SYMMETRIC"):
                yield op_case("MirrorPad", values(kind, (3, 3)), paddings, mode=mode)
                if kind in FLOATS or kind in COMPLEX:
                    yield op_case("MirrorPadGrad", values(kind, (6, 4)), paddings, mode=mode, relative=4e-2
                                  if np.dtype(kind).itemsize == 2 else None)
    x = values(np.float32, (3, 3))
    for rows in ([[0, 0], [0, 0]], [[2, 2], [2, 2]], [[3, 0], [0, 3]], [[3, 3], [3, 3]], [[0, 4], [0, 0]],
                 [[-1, 0], [0, 0]], [[1, 1]], [[1], [1]]):
        paddings = np.array(rows, np.int32)
        yield op_case("Pad", x, paddings, name=str(rows))
        yield op_case("PadV2", x, paddings, np.array(7, np.float32), name=str(rows))
        for mode in ("REFLECT", "SYMMETRIC"):
            yield op_case("MirrorPad", x, paddings, name=str(rows), mode=mode)
            if paddings.shape == (2, 2) and paddings.min() >= 0:
                grad = values(np.float32, (3 + paddings[0].sum(), 3 + paddings[1].sum()))
                yield op_case("MirrorPadGrad", grad, paddings, name=str(rows), mode=mode)
    yield op_case("Pad", x[:0], np.array([[1, 1], [0, 0]], np.int32))
    yield op_case("Pad", np.array(1, np.float32), np.zeros((0, 2), np.int32))
    yield op_case("MirrorPad", values(np.float32, (4,)), np.array([[2, 3]], np.int32), mode="REFLECT")
    yield op_case("PadV2", x, np.zeros((2, 2), np.int32), np.ones(1, np.float32))


def _reversing() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            yield op_case("ReverseV2", values(kind, (2, 3)), ints(1, kind=index))
        yield op_case("ReverseSequence", values(kind, (3, 4, 2)), np.array([0, 2, 4]), seq_dim=1)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for axes in ((), (0,), (-1, 0), (0, 1, 2), (3,), (-4,), (0, 0), (0, -3)):
        yield op_case("ReverseV2", x, np.array(axes, np.int32), name=str(axes))
    yield op_case("ReverseV2", np.array(1, np.float32), np.zeros(0, np.int32))
    yield op_case("ReverseV2", x[:0], ints(0))
    yield op_case("ReverseV2", x, np.array(0, np.int32))
    for seq, batch, lengths in ((0, 1, (2, 1, 0)), (2, 0, (4, 3)), (1, 2, (3, 2, 1, 0)), (2, 0, (5, 1)),
                                (2, 0, (-1, 1)), (2, 0, (1, 1, 1)), (0, 0, (1, 1)), (3, 0, (1, 1)), (0, 3, (1, 1))):
        for kind in INDEX:
            yield op_case("ReverseSequence", x, np.array(lengths, kind), seq_dim=seq, batch_dim=batch)
    yield op_case("ReverseSequence", x, np.array([[1, 1]]), seq_dim=1)
    yield op_case("ReverseSequence", x[:, :0], np.array([0, 0]), seq_dim=1)
