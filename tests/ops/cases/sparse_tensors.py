"""Cases of sparse tensors: made dense, moved, joined, cut, and calculated with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.values import values

ONE = np.float32
REAL = (*FLOATS, *INTEGERS)
NUMBERS = (*REAL, *COMPLEX)
EVERY = (*NUMBERS, np.bool_, object)
PLACES = np.array([[0, 1], [0, 3], [2, 0], [2, 2], [3, 3]])
OTHER = np.array([[0, 0], [0, 3], [1, 2], [2, 2], [3, 1], [3, 3]])
DIMS = np.array([4, 5])


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _dense()
    yield from _order()
    yield from _rows()
    yield from _pieces()
    yield from _products()
    yield from _reductions()
    yield from _pairs()
    yield from _with_dense()
    yield from _damaged()


def longs(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def sums(kind: Any) -> dict[str, Any]:
    return {"relative": {np.float16: 8e-3, bf16: 4e-2}.get(kind, 1e-5),
            "absolute": {np.float16: 4e-3, bf16: 3e-2}.get(kind, 1e-6)} if kind in (*FLOATS, *COMPLEX) else {}


def _dense() -> Iterator[Case]:
    op = "SparseToDense"
    for kind in EVERY:
        for index in INDEX if kind in (ONE, object) else (np.int64,):
            yield op_case(op, PLACES.astype(index), DIMS.astype(index), values(kind, (5,)), values(kind, (), 1))
        yield op_case(op, longs(1, 4), longs(6), values(kind, ()), values(kind, (), 1))
    one = np.array(1, ONE)
    for indices, shape, given in (
        (np.array(2), [4], ()), (longs(2, 1), [4], (2,)), (longs(1, 1), [4], (2,)), (longs(1, 4), [4], (2,)),
        (longs(1, -1), [4], (2,)), (longs(1), [4, 4], ()), (longs(1, 2), [4], (3,)), (PLACES, [4, 5, 1], (5,)),
        (PLACES, [[4, 5]], (5,)), (PLACES[None], [4, 5], (5,)), (PLACES[:0], [4, 5], (0,)), (PLACES[:0], [0, 5], (0,)),
        (PLACES[:, :0], [], (5,)), (PLACES[:1, :0], [], (1,)), (PLACES, [-4, 5], (5,)),
    ):
        for validate in (True, False):
            if not validate and indices.tolist() == [1, 1]:
                continue
            yield op_case(op, indices, np.array(shape, np.int64), values(ONE, given), one, validate_indices=validate,
                          name=f"{indices.tolist()} {shape} {given}")
    yield op_case(op, PLACES, DIMS, values(ONE, (5,)), values(ONE, (1,)))


def _order() -> Iterator[Case]:
    shuffled = PLACES[[3, 0, 4, 2, 1]]
    for kind in EVERY:
        yield op_case("SparseReorder", shuffled, values(kind, (5,)), DIMS)
    yield op_case("SparseReorder", PLACES, values(ONE, (5,)), DIMS)
    yield op_case("SparseReorder", PLACES[:0], values(ONE, (0,)), DIMS)
    yield op_case("SparseReorder", shuffled, values(ONE, (5,)), longs(2**40, 2**40), name="huge")
    reshape = "SparseReshape"
    for wanted in ([20], [2, -1], [-1, 2, 2], [5, 4], [4, 5], [3, -1], [-1, -1], [21], [2, -2], [0, -1], []):
        yield op_case(reshape, PLACES, DIMS, np.array(wanted, np.int64), name=str(wanted))
    for shape, wanted in (([0, 5], [0, 3]), ([0, 5], [-1]), ([0, 5], [-1, 0]), ([0, 5], [5])):
        yield op_case(reshape, PLACES[:0], np.array(shape), np.array(wanted), name=f"{shape} {wanted}")
    yield op_case(reshape, PLACES, longs(4, 5, 1), longs(20))
    yield op_case(reshape, PLACES[0], DIMS, longs(20))
    yield op_case(reshape, PLACES, DIMS[None], longs(20))
    yield op_case(reshape, PLACES, DIMS, DIMS[None])


def _rows() -> Iterator[Case]:
    fill = "SparseFillEmptyRows"
    for kind in EVERY:
        yield op_case(fill, PLACES, values(kind, (5,)), DIMS, values(kind, (), 1))
        if kind not in (object, np.bool_):
            yield op_case(f"{fill}Grad", longs(2, 1, 0, 5), values(kind, (7,)), **sums(kind))
    two = values(ONE, ())
    yield op_case(fill, PLACES[[0, 2, 4, 1]], values(ONE, (4,)), longs(6, 5), two)
    yield op_case(fill, PLACES[:0], values(ONE, (0,)), longs(3, 5), two)
    yield op_case(fill, PLACES[:0], values(ONE, (0,)), longs(0, 5), two)
    yield op_case(fill, PLACES, values(ONE, (5,)), longs(0, 5), two)
    yield op_case(fill, PLACES, values(ONE, (5,)), longs(3, 5), two)
    yield op_case(fill, -PLACES, values(ONE, (5,)), longs(4, 5), two)
    yield op_case(fill, OTHER, values(ONE, (6,)), DIMS, two)
    yield op_case(fill, OTHER[[1, 0, 2, 3, 4, 5]], values(ONE, (6,)), DIMS, two)
    yield op_case(fill, PLACES, values(ONE, (4,)), DIMS, two)
    yield op_case(fill, PLACES[0], values(ONE, (2,)), DIMS, two)
    yield op_case(fill, PLACES, values(ONE, (5,)), DIMS, values(ONE, (1,)))
    yield op_case(fill, PLACES, values(ONE, (5,)), longs(4, 5, 6), two, text=False)
    yield op_case(fill, PLACES, values(ONE, (5, 1)), DIMS, two)
    yield op_case(f"{fill}Grad", longs(2, 7), values(ONE, (7,)))
    yield op_case(f"{fill}Grad", longs(2, -1), values(ONE, (7,)))
    yield op_case(f"{fill}Grad", longs(), values(ONE, (7,)), **sums(ONE))
    yield op_case(f"{fill}Grad", longs(2)[None], values(ONE, (7,)))
    yield op_case(f"{fill}Grad", longs(2), values(ONE, (7, 1)))


def _pieces() -> Iterator[Case]:
    for kind in EVERY:
        parts = (PLACES, OTHER, values(kind, (5,)), values(kind, (6,)), DIMS)
        yield op_case("SparseConcat", *parts, longs(4, 5), concat_dim=1)
        yield op_case("SparseSlice", PLACES, parts[2], DIMS, longs(1, 0), longs(2, 3))
        yield op_case("SparseSplit", np.array(1), OTHER, parts[3], DIMS, num_split=3)
    five, six = values(ONE, (5,)), values(ONE, (6,))
    for axis, dims in itertools.product((0, 1, -1, -2, 2), ([4, 5], [6, 5], [4, 7], [4, 5, 1])):
        yield op_case("SparseConcat", PLACES, OTHER, five, six, DIMS, np.array(dims), concat_dim=axis,
                      name=f"{axis} {dims}", text=len(dims) == 2)
    yield op_case("SparseConcat", PLACES[::-1].copy(), OTHER, five, six, DIMS, DIMS, concat_dim=0)
    yield op_case("SparseConcat", PLACES[:0], PLACES[:0], five[:0], five[:0], DIMS, DIMS, concat_dim=0)
    inside = np.array([[0, 1], [0, 2]])
    for kind in NUMBERS:
        yield op_case("SparseSliceGrad", values(kind, (2,)), OTHER, longs(2, 1), np.array([[0, 1], [1, 0]]))
    for places, out, start, count in ((OTHER, inside, longs(0, 1), 2), (OTHER, inside[:0], longs(0, 1), 0),
                                      (OTHER, inside, longs(0, 1), 3), (OTHER[0], inside, longs(0, 1), 2),
                                      (OTHER, inside, longs(0)[None], 2), (inside, OTHER, longs(0, 1), 6),
                                      (OTHER, inside[:, :1], longs(0, 1), 2)):
        yield op_case("SparseSliceGrad", values(ONE, (count,)), places, start, out, text=False)
    for start, size in (([0, 0], [4, 5]), ([0, 0], [9, 9]), ([2, 2], [2, 9]), ([4, 0], [1, 1]), ([9, 0], [1, 1]),
                        ([0, 0], [0, 0]), ([0], [1]), ([0, 0, 0], [1, 1, 1]), ([[0, 0]], [1, 1])):
        yield op_case("SparseSlice", PLACES, five, DIMS, np.array(start), np.array(size), name=f"{start} {size}",
                      text=len(start) == 2)
    for axis, pieces in ((0, 2), (0, 3), (0, 4), (-1, 2), (1, 5), (0, 5), (0, 0), (2, 1), (-3, 1), ([1], 2)):
        if pieces:
            yield op_case("SparseSplit", np.array(axis), OTHER, six, DIMS, num_split=pieces, name=f"{axis}")


def _products() -> Iterator[Case]:
    op = "SparseTensorDenseMatMul"
    for kind in (np.float16, bf16, np.float32, np.float64, np.int32, *COMPLEX):
        for index in INDEX:
            yield op_case(op, PLACES.astype(index), values(kind, (5,)), DIMS, values(kind, (5, 3)), **sums(kind))
        for left, right in itertools.product((False, True), repeat=2):
            b = values(kind, (4 if left else 5, 3))
            yield op_case(op, PLACES, values(kind, (5,)), DIMS, b.T.copy() if right else b, adjoint_a=left,
                          adjoint_b=right, **sums(kind))
    five = values(ONE, (5,))
    yield op_case(op, np.argwhere(np.ones((30, 40)))[::-1].copy(), values(ONE, (1200,)), longs(30, 40),
                  values(ONE, (40, 1)), **sums(ONE))
    yield op_case(op, np.argwhere(np.ones((30, 40))), values(ONE, (1200,)), longs(30, 40), values(ONE, (40, 70)),
                  **sums(ONE))
    for shape, b in (([4, 5], (4, 3)), ([4, 5], (5, 0)), ([4, 5, 1], (5, 3)), ([4, 4], (4, 3)), ([3, 5], (5, 3)),
                     ([4, 5], (5,)), ([[4, 5]], (5, 3))):
        yield op_case(op, PLACES[:4] if shape == [4, 4] else PLACES, five[:4] if shape == [4, 4] else five,
                      np.array(shape), values(ONE, b), name=f"{shape}", **sums(ONE))
    yield op_case(op, PLACES, five, longs(4, 3), values(ONE, (3, 2)))
    yield op_case(op, PLACES, five[:4], DIMS, values(ONE, (5, 2)))
    yield op_case(op, PLACES[:0], five[:0], DIMS, values(ONE, (5, 2)))
    yield op_case(op, PLACES[0], five, DIMS, values(ONE, (5, 2)))
    yield op_case(op, PLACES, five[None], DIMS, values(ONE, (5, 2)))
    for left, right in itertools.product((ONE, bf16), repeat=2):
        for a, b in itertools.product((False, True), repeat=2):
            yield op_case("SparseMatMul", values(left, (4, 3) if a else (3, 4)), values(right, (5, 4) if b else (4, 5)),
                          transpose_a=a, transpose_b=b, a_is_sparse=True, **sums(bf16))
    yield op_case("SparseMatMul", values(ONE, (3, 4)), values(ONE, (3, 4)))
    yield op_case("SparseMatMul", values(ONE, (0, 4)), values(ONE, (4, 2)))
    yield op_case("SparseMatMul", values(ONE, (3, 0)), values(ONE, (0, 2)))
    yield op_case("SparseMatMul", values(ONE, (3,)), values(ONE, (3, 4)))


def _reductions() -> Iterator[Case]:
    places = np.array([[0, 1, 0], [0, 3, 1], [2, 0, 0], [2, 2, 1], [3, 3, 0]])
    dims = longs(4, 5, 2)
    for name in ("Sum", "Max"):
        kinds = NUMBERS if name == "Sum" else REAL
        ops = (f"SparseReduce{name}", f"SparseReduce{name}Sparse")
        for op in ops:
            for kind in kinds:
                yield op_case(op, places, values(kind, (5,)), dims, np.array([1], np.int32), **sums(kind))
            for axes in ([0], [1], [2], [-1], [0, 2], [0, 1, 2], [], [1, -2], [2, 0, 0], [3], [-4]):
                for keep in (False, True):
                    yield op_case(op, places, values(ONE, (5,)), dims, np.array(axes, np.int32), keep_dims=keep,
                                  name=str(axes), **sums(ONE))
            yield op_case(op, places, values(ONE, (5,)), dims, np.array(1, np.int32), **sums(ONE))
            yield op_case(op, places[:0], values(ONE, (0,)), dims, np.array([1], np.int32))
            yield op_case(op, places[::-1].copy(), values(ONE, (5,)), dims, np.array([1], np.int32), **sums(ONE))
    for kind in (np.float16, np.float32, np.float64):
        yield op_case("SparseSoftmax", places, values(kind, (5,)), dims, **sums(kind))
        yield op_case("SparseSoftmax", OTHER, values(kind, (6,)), DIMS, **sums(kind))
    yield op_case("SparseSoftmax", OTHER[:0], values(ONE, (0,)), DIMS)
    yield op_case("SparseSoftmax", OTHER[:, :1], values(ONE, (6,)), DIMS[:1])
    yield op_case("SparseSoftmax", OTHER, np.array([1, np.inf, 2, -np.inf, np.nan, 3], ONE), DIMS)


def _pairs() -> Iterator[Case]:
    for kind in (np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, *COMPLEX):
        a, b = values(kind, (5,)), values(kind, (6,), 1)
        limit = np.array(0, {np.complex64: np.float32, np.complex128: np.float64}.get(kind, kind))
        yield op_case("SparseAdd", PLACES, a, DIMS, OTHER, b, DIMS, limit)
        grad = values(kind, (8,), 2)
        union = np.unique(np.concatenate([PLACES, OTHER]), axis=0)
        yield op_case("SparseAddGrad", grad, PLACES, OTHER, union)
        yield op_case("SparseAddGrad", grad[1:], PLACES, OTHER, union[1:])
    for kind in REAL:
        a, b = values(kind, (5,)), values(kind, (6,), 1)
        yield op_case("SparseSparseMaximum", PLACES, a, DIMS, OTHER, b, DIMS)
        yield op_case("SparseSparseMinimum", PLACES, a, DIMS, OTHER, b, DIMS)
    a, b = values(ONE, (5,)), values(ONE, (6,), 1)
    yield op_case("SparseAdd", PLACES, a, DIMS, OTHER, b, DIMS, np.array(2.5, ONE))
    for op, tail in (("SparseAdd", (np.array(0, ONE),)), ("SparseSparseMaximum", ()), ("SparseSparseMinimum", ())):
        yield op_case(op, PLACES[:0], a[:0], DIMS, OTHER, b, DIMS, *tail)
        yield op_case(op, PLACES[:0], a[:0], DIMS, OTHER[:0], b[:0], DIMS, *tail)
        yield op_case(op, PLACES, a, DIMS, OTHER, b, longs(4, 6), *tail)
        yield op_case(op, PLACES, a, DIMS, OTHER, b, longs(4, 5, 6), *tail, text=False)
        yield op_case(op, PLACES, a[1:], DIMS, OTHER, b, DIMS, *tail)
        yield op_case(op, PLACES, a, DIMS[None], OTHER, b, DIMS, *tail)
        yield op_case(op, PLACES[0], a, DIMS, OTHER, b, DIMS, *tail)
        yield op_case(op, PLACES, a[None], DIMS, OTHER, b, DIMS, *tail)
    yield op_case("SparseAdd", PLACES, a, DIMS, OTHER, b, DIMS, np.zeros(1, ONE))
    yield op_case("SparseAddGrad", values(ONE, (8,)), PLACES[0], OTHER, PLACES)
    yield op_case("SparseAddGrad", values(ONE, (8,)), PLACES, OTHER, PLACES)
    yield op_case("SparseAddGrad", values(ONE, (5, 1)), PLACES, OTHER, PLACES)
    yield op_case("SparseAddGrad", values(ONE, (5,)), PLACES, OTHER[:, :1], PLACES)


def _with_dense() -> Iterator[Case]:
    for name in ("Mul", "Add", "Div"):
        op = f"SparseDenseCwise{name}"
        for kind in REAL:
            dense = values(kind, (4, 5), 1)
            dense = np.where(dense == 0, kind(1), dense).astype(kind)
            yield op_case(op, PLACES, values(kind, (5,)), DIMS, dense, **sums(kind))
        for shape in ((), (1,), (5,), (4, 1), (1, 5), (4,), (2, 5), (1, 4, 5), (4, 5, 1)):
            yield op_case(op, PLACES, values(ONE, (5,)), DIMS, values(ONE, shape, 1))
        yield op_case(op, PLACES, values(np.int32, (5,)), DIMS, np.zeros((4, 5), np.int32))
        yield op_case(op, PLACES[:0], values(ONE, (0,)), DIMS, values(ONE, (4, 5)))
    op = "SparseTensorDenseAdd"
    for kind in NUMBERS:
        yield op_case(op, PLACES, values(kind, (5,)), DIMS, values(kind, (4, 5), 1))
    yield op_case(op, PLACES[[0, 0, 1, 0]].astype(np.int32), values(ONE, (4,)), DIMS.astype(np.int32),
                  values(ONE, (4, 5), 1), **sums(ONE))
    yield op_case(op, PLACES[:0], values(ONE, (0,)), DIMS, values(ONE, (4, 5)))
    yield op_case(op, PLACES, values(ONE, (5,)), DIMS, values(ONE, (4, 6)))
    yield op_case(op, PLACES, values(ONE, (5,)), DIMS, values(ONE, (4,)))
    yield op_case(op, PLACES + 1, values(ONE, (5,)), DIMS, values(ONE, (4, 5)))


def _damaged() -> Iterator[Case]:
    """Parts that do not make a sparse tensor, given to the ops that check them alike."""
    five = values(ONE, (5,))
    for label, indices, given, shape in (
        ("vector of indices", PLACES[0], five, DIMS), ("matrix of values", PLACES, five[None], DIMS),
        ("matrix of dims", PLACES, five, DIMS[None]), ("too few values", PLACES, five[1:], DIMS),
        ("too many dims", PLACES, five, longs(4, 5, 1)), ("outside", PLACES + 1, five, DIMS),
        ("negative", -PLACES, five, DIMS),
    ):
        parts = (indices, given, shape)
        if label not in ("outside", "negative"):
            yield op_case("SparseReorder", *parts, name=label)
            yield op_case("SparseSlice", *parts, longs(0, 0), longs(2, 2), name=label)
            yield op_case("SparseSplit", np.array(0), *parts, num_split=2, name=label, text=False)
            yield op_case("SparseReduceSum", *parts, np.array([0], np.int32), name=label, text=False)
            yield op_case("SparseReduceMaxSparse", *parts, np.array([0], np.int32), name=label, text=False)
            yield op_case("SparseSoftmax", *parts, name=label, text=False)
        yield op_case("SparseDenseCwiseMul", *parts, values(ONE, (4, 5)), name=label, text=False)
        yield op_case("SparseTensorDenseAdd", *parts, values(ONE, (4, 5)), name=label, text=label == "outside")
