"""Cases of sets, and of distances between sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import Case, op_case
from tests.ops.cases.example_parsing import texts
from tests.ops.cases.sparse_tensors import EVERY, longs
from tests.ops.values import values

KINDS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, object)
PLACES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2]])
OTHER = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]])
SHAPE = longs(2, 2, 3)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _sets()
    yield from _set_faults()
    yield from _distances()


def _sets() -> Iterator[Case]:
    for operation in ("a-b", "b-a", "intersection", "union", "UNION"):
        for kind in KINDS if operation != "UNION" else (np.int32,):
            a, b = values(kind, (2, 2, 3)), values(kind, (2, 2, 4), 1)
            seven, four = values(kind, (7,)), values(kind, (4,), 1)
            yield op_case("DenseToDenseSetOperation", a, b, set_operation=operation)
            yield op_case("DenseToSparseSetOperation", a, OTHER, four, SHAPE, set_operation=operation)
            yield op_case("SparseToSparseSetOperation", PLACES, seven, SHAPE, OTHER, four, SHAPE,
                          set_operation=operation)
        yield op_case("DenseToDenseSetOperation", np.zeros((2, 0), np.int32), np.ones((2, 3), np.int32),
                      set_operation=operation)
        yield op_case("DenseToDenseSetOperation", np.zeros((0, 2), np.int32), np.ones((0, 3), np.int32),
                      set_operation=operation)
    for kind in KINDS:
        yield op_case("SetSize", PLACES, values(kind, (7,)), SHAPE)
    yield op_case("SetSize", PLACES[:0], values(np.int32, (0,)), SHAPE)
    yield op_case("SetSize", PLACES[:3], values(np.int32, (3,)), longs(4, 2, 3))


def _set_faults() -> Iterator[Case]:
    seven, four = values(np.int32, (7,)), values(np.int32, (4,), 1)
    ones = np.ones((2, 2, 3), np.int32)
    yield op_case("DenseToDenseSetOperation", ones, ones, set_operation="xor", text=False)
    yield op_case("DenseToDenseSetOperation", ones, ones[:1], set_operation="union", text=False)
    yield op_case("DenseToDenseSetOperation", ones, ones[0], set_operation="union", text=False)
    yield op_case("DenseToDenseSetOperation", ones[0, 0], ones[0, 0], set_operation="union", text=False)
    for validate in (True, False):
        for label, places, shape in (("shuffled", PLACES[[0, 2, 1, 3, 4, 5, 6]], SHAPE), ("outside", PLACES + 1, SHAPE),
                                     ("rank", PLACES, longs(2, 2, 3, 1)), ("dims", PLACES, SHAPE[None])):
            if validate or label not in ("shuffled", "outside"):
                yield op_case("SetSize", places, seven, shape, validate_indices=validate, name=label, text=False)
                yield op_case("SparseToSparseSetOperation", places, seven, shape, OTHER, four, SHAPE,
                              set_operation="union", validate_indices=validate, name=label, text=False)
    yield op_case("SparseToSparseSetOperation", PLACES, seven, SHAPE, OTHER, four, longs(2, 3, 3),
                  set_operation="union", text=False)
    yield op_case("DenseToSparseSetOperation", ones, OTHER, four, longs(2, 3, 3), set_operation="union", text=False)


def _distances() -> Iterator[Case]:
    for normalize in (True, False):
        for kind in EVERY:
            yield _distance(PLACES, values(kind, (7,)), SHAPE, OTHER, values(kind, (4,), 1), SHAPE, normalize)
        yield _words("kitten", "sitting", normalize)
        yield _words("", "abc", normalize)
        yield _words("abc", "", normalize)
        yield _words("", "", normalize)
        yield _distance(PLACES[:0], values(np.int32, (0,)), SHAPE, OTHER, values(np.int32, (4,)), SHAPE, normalize)
        yield _distance(PLACES, values(np.int32, (7,)), SHAPE, OTHER, values(np.int32, (4,)), longs(3, 2, 5), normalize)
    seven, four = values(np.int32, (7,)), values(np.int32, (4,))
    for parts in ((PLACES[0], seven, SHAPE), (PLACES, seven[None], SHAPE), (PLACES, seven, SHAPE[None]),
                  (PLACES, seven[1:], SHAPE), (PLACES, seven, longs(2, 2, 3, 1)), (PLACES[:, 1:], seven, SHAPE[1:])):
        yield op_case("EditDistance", *parts, OTHER, four, SHAPE, text=False)


def _distance(*parts: Any) -> Case:
    return op_case("EditDistance", *parts[:-1], normalize=parts[-1])


def _words(hypothesis: str, truth: str, normalize: bool) -> Case:
    parts: list[Any] = []
    for word in (hypothesis, truth):
        places = np.array([[0, place] for place in range(len(word))], np.int64).reshape(-1, 2)
        parts += [places, texts(*word), longs(1, 8)]
    return op_case("EditDistance", *parts, normalize=normalize, name=f"{hypothesis} {truth}")
