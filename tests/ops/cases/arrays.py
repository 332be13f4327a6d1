"""Cases of the ops on shapes: reading, changing, joining, splitting, repeating."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, op_case
from tests.ops.values import SHAPES, values

EVERY = (*FLOATS, *INTEGERS, *COMPLEX, np.bool_, object)
SOME = (np.float32, np.int8, np.complex64, np.bool_, object)


def ints(*numbers: int, kind: Any = np.int32) -> np.ndarray:
    """Return a vector of an index type."""
    return np.array(numbers, kind)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _reading()
    yield from _reshaping()
    yield from _transposing()
    yield from _filling()
    yield from _joining()
    yield from _splitting()
    yield from _repeating()


def _reading() -> Iterator[Case]:
    for kind in (np.float32, object, np.bool_):
        for shape in SHAPES:
            x = values(kind, shape)
            for out in INDEX:
                yield op_case("Shape", x, out_type=out)
                yield op_case("Size", x, out_type=out)
                yield op_case("ShapeN", x, values(kind, (4, 5)), out_type=out)
            yield op_case("Rank", x)
            yield op_case("EnsureShape", x, shape=None)
            yield op_case("EnsureShape", x, shape=(None,) * len(shape))
            yield op_case("EnsureShape", x, shape=shape)
    yield op_case("ShapeN", values(np.float32, (4, 5)))
    # The texts name the input, which is a placeholder here, and that has another name inside TensorFlow.
    yield op_case("EnsureShape", np.zeros(3, np.float32), shape=(2,), text=False)
    yield op_case("EnsureShape", np.zeros(3, np.float32), shape=(3, None), text=False)


def _reshaping() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            yield op_case("Reshape", values(kind, (2, 3)), ints(3, 2, kind=index))
            yield op_case("Reshape", values(kind, (2, 3)), ints(-1, kind=index))
            yield op_case("Reshape", values(kind, (2, 3, 4)), ints(2, -1, 2, kind=index))
        yield op_case("Reshape", values(kind, (1, 1)), np.zeros(0, np.int32))
        yield op_case("ExpandDims", values(kind, (2, 3)), np.array(1, np.int32))
        yield op_case("Squeeze", values(kind, (1, 2, 1)))
    for dims in ((4,), (-1, -1), (-2, 3), (4, -1), (0, -1), (-1, 0), (2, 0)):
        yield op_case("Reshape", np.zeros(6, np.float32), ints(*dims), name=str(dims))
        yield op_case("Reshape", np.zeros((0, 3), np.float32), ints(*dims), name=str(dims))
    yield op_case("Reshape", np.zeros(6, np.float32), np.array([[2, 3]], np.int32))
    yield op_case("Reshape", np.zeros((), np.float32), ints(1, 1))
    for axis in (-4, -3, -1, 0, 2, 3):
        yield op_case("ExpandDims", values(np.float32, (2, 3)), np.array(axis, np.int64), name=str(axis))
        yield op_case("ExpandDims", values(np.float32, (2, 3)), ints(axis), name=str(axis))
    yield op_case("ExpandDims", values(np.float32, (2, 3)), ints(0, 1))
    yield op_case("ExpandDims", values(np.float32, ()), np.array(0, np.int32))
    for axes in ([], [0], [-1], [0, 2], [2, 2], [1], [3], [-4]):
        yield op_case("Squeeze", values(np.float32, (1, 3, 1)), squeeze_dims=axes)
    yield op_case("Squeeze", values(np.float32, ()))
    yield op_case("Squeeze", values(np.float32, (0, 1)))


def _transposing() -> Iterator[Case]:
    for op in ("Transpose", "ConjugateTranspose"):
        for kind in EVERY:
            yield op_case(op, values(kind, (2, 3)), ints(1, 0))
            yield op_case(op, values(kind, (2, 3, 4)), ints(2, 0, 1, kind=np.int64))
        yield op_case(op, values(np.float32, ()), np.zeros(0, np.int32))
        yield op_case(op, values(np.float32, (2, 0, 3)), ints(2, 1, 0))
        for perm in ((0, 1), (-1, 0), (0, 0), (0, 2), (1,), (0, -3)):
            yield op_case(op, values(np.float32, (2, 3)), ints(*perm), name=str(perm))
        yield op_case(op, values(np.float32, (2, 3)), np.array(1, np.int32))
        yield op_case(op, values(np.float32, (2, 3)), np.array([[1, 0]], np.int32))


def _filling() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            yield op_case("Fill", ints(2, 3, kind=index), values(kind, ()))
        yield op_case("Fill", ints(0, 3), values(kind, ()))
        yield op_case("Fill", np.zeros(0, np.int32), values(kind, ()))
        for shape in SHAPES:
            yield op_case("ZerosLike", values(kind, shape))
            if kind is not object:
                yield op_case("OnesLike", values(kind, shape))
        yield op_case("Empty", ints(2, 3), dtype=kind, init=True) if kind is not object else op_case(
            "Empty", ints(2), dtype=DataType.STRING, init=True)
    yield op_case("Fill", ints(2, -1), np.array(1, np.float32))
    yield op_case("Fill", np.array(2, np.int32), np.array(1, np.float32))
    yield op_case("Fill", ints(2), np.ones(1, np.float32))
    yield op_case("Fill", ints(2), np.ones(2, np.float32))
    yield op_case("Empty", np.array(2, np.int32), dtype=np.float32, init=True)
    yield op_case("Empty", ints(2, -1), dtype=np.float32, init=True)


def _joining() -> Iterator[Case]:
    for kind in EVERY:
        a, b = values(kind, (2, 3), 1), values(kind, (2, 3), 2)
        for axis in (0, 1, 2, -1, -3):
            yield op_case("Pack", a, b, axis=axis)
        yield op_case("Pack", values(kind, (), 1), values(kind, (), 2), values(kind, (), 3))
        for axis in (0, 1, -1, -2):
            yield op_case("ConcatV2", a, b, a, np.array(axis, np.int32), name=str(axis))
            yield op_case("Concat", np.array(axis, np.int32), a, b, a, name=str(axis))
        yield op_case("ConcatV2", values(kind, (2, 3)), values(kind, (2, 0)), np.array(1, np.int64))
    one = np.ones((2, 3), np.float32)
    yield op_case("Pack", one)
    yield op_case("Pack", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), axis=1)
    yield op_case("Pack", one, np.ones((2, 4), np.float32))
    yield op_case("Pack", one, one, axis=3)
    yield op_case("Pack", one, one, axis=-4)
    for op in ("ConcatV2", "Concat"):
        for axis in (np.array(2, np.int32), np.array(-3, np.int32), ints(0), ints(0, 1)):
            yield _concat(op, axis, one, one)
        yield _concat(op, np.array(0, np.int32), one, np.ones((2, 4), np.float32))
        yield _concat(op, np.array(1, np.int32), one, np.ones((3, 3), np.float32))
        yield _concat(op, np.array(0, np.int32), one, np.ones(3, np.float32))
        yield _concat(op, np.array(0, np.int32), np.ones((), np.float32), np.ones((), np.float32))
        yield _concat(op, np.array(0, np.int32), np.ones(2, np.float32), np.ones((), np.float32))
        yield _concat(op, np.array(0, np.int32), np.ones((0,), np.float32), np.ones((2, 3), np.float32))
    for kind in INDEX:
        shapes = [ints(2, 3, 5, kind=kind), ints(2, 7, 5, kind=kind), ints(2, 1, 5, kind=kind)]
        yield op_case("ConcatOffset", np.array(1, np.int32), *shapes)
        yield op_case("ConcatOffset", np.array(-2, np.int32), *shapes)
        yield op_case("ConcatOffset", np.array(0, np.int32), *shapes)
        yield op_case("ConcatOffset", np.array(3, np.int32), *shapes)
        yield op_case("ConcatOffset", ints(1), *shapes)
        yield op_case("ConcatOffset", np.array(1, np.int32), shapes[0], ints(2, 3, kind=kind))
        yield op_case("ConcatOffset", np.array(1, np.int32), shapes[0], np.array(2, kind))


def _concat(op: str, axis: np.ndarray, *parts: np.ndarray) -> Case:
    name = f"axis {axis.tolist()}"
    return op_case(op, *parts, axis, name=name) if op == "ConcatV2" else op_case(op, axis, *parts, name=name)


def _splitting() -> Iterator[Case]:
    for kind in EVERY:
        x = values(kind, (4, 6))
        for axis in (0, 1, -1, -2):
            yield op_case("Split", np.array(axis, np.int32), x, num_split=2, name=str(axis))
            yield op_case("Unpack", x, axis=axis, num=x.shape[axis])
        yield op_case("SplitV", x, ints(1, 3, 2), np.array(1, np.int32), num_split=3)
        yield op_case("Unpack", values(kind, (3,)), num=3)
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    yield op_case("Split", np.array(0, np.int32), x, num_split=1)
    yield op_case("Split", np.array(0, np.int32), x[:0], num_split=3)
    yield op_case("Split", np.array(1, np.int32), x, num_split=4)
    yield op_case("Split", np.array(2, np.int32), x, num_split=2)
    yield op_case("Split", np.array(-3, np.int32), x, num_split=2)
    yield op_case("Split", ints(0), x, num_split=2)
    yield op_case("Split", np.array(0, np.int32), np.array(1, np.float32), num_split=1)
    for sizes in ((2, -1, 1), (1, 1, 2), (-1, -1, 2), (5, -1, 1), (1, 1, 1), (3, 3, -2), (0, 4, 0), (7, -1, -1)):
        for kind in (np.int8, np.int32, np.int64):
            yield op_case("SplitV", x, ints(*sizes, kind=kind), np.array(0, np.int32), num_split=3, name=str(sizes))
    yield op_case("SplitV", x, ints(4), np.array(0, np.int32), num_split=1)
    yield op_case("SplitV", x, ints(2, 2), np.array(0, np.int32), num_split=3)
    yield op_case("SplitV", x, np.array([[2, 2]], np.int32), np.array(0, np.int32), num_split=2)
    yield op_case("SplitV", x, ints(2, 2), np.array(2, np.int32), num_split=2)
    yield op_case("SplitV", x, ints(2, 2), ints(0), num_split=2)
    yield op_case("SplitV", x, ints(2, 2), ints(0, 1), num_split=2)
    yield op_case("Unpack", x, num=3)
    yield op_case("Unpack", x, num=4, axis=2)
    yield op_case("Unpack", x[:, :0], num=4)
    yield op_case("Unpack", x[:0], num=0)


def _repeating() -> Iterator[Case]:
    for kind in EVERY:
        if kind not in (np.uint16,):
            yield op_case("Tile", values(kind, (2, 3)), ints(2, 1))
        yield op_case("BroadcastTo", values(kind, (2, 1)), ints(4, 2, 3))
    for kind in INDEX:
        x = values(np.float32, (2, 3))
        for counts in ((1, 1), (3, 2), (0, 1), (-1, 2), (2,), (1, 1, 1)):
            yield op_case("Tile", x, ints(*counts, kind=kind), name=str(counts))
        for dims in ((2, 3), (1, 2, 3), (0, 2, 3), (2, 4), (3,), (3, 3), (2, -1)):
            yield op_case("BroadcastTo", x, ints(*dims, kind=kind), name=str(dims))
        pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = (
            ((2, 3), (3,)), ((2, 3), (2, 3)), ((), (2, 3)), ((2, 1), (1, 3)), ((1,), (1,)), ((1, 1), (1,)), ((), ()),
            ((2, 0), (1,)), ((2, 3), (4,)), ((5, 1, 4), (1, 3, 1)), ((1, 2), (2,)), ((1, 1), (1, 1)), ((3, 1), (3, 1)),
            ((0,), (1,)), ((7, 1, 1, 5), (1, 1, 5)),
        )
        for left, right in pairs:
            for op in ("BroadcastArgs", "BroadcastGradientArgs"):
                yield op_case(op, ints(*left, kind=kind), ints(*right, kind=kind), name=f"{left} {right}")
    yield op_case("Tile", values(np.float32, ()), np.zeros(0, np.int32))
    yield op_case("Tile", values(np.float32, (2,)), np.array(1, np.int32))
    yield op_case("BroadcastTo", values(np.float32, ()), np.zeros(0, np.int32))
    yield op_case("BroadcastTo", values(np.float32, (0, 1)), ints(0, 3))
    yield op_case("BroadcastTo", values(np.float32, (2,)), np.array(2, np.int32))
    yield op_case("BroadcastArgs", np.array(1, np.int32), ints(1))
    yield op_case("BroadcastGradientArgs", np.array(1, np.int32), ints(1))
