"""Cases of segment reductions, partitions and distinct values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.values import values

ONE = np.float32
REAL = (*FLOATS, *INTEGERS)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _sorted_segments()
    yield from _unsorted_segments()
    yield from _partitions()
    yield from _uniques()
    yield from _list_diffs()


def _sums(kind: Any) -> dict[str, Any]:
    return {"relative": {np.float16: 8e-3, bf16: 4e-2}.get(kind, 1e-5),
            "absolute": {np.float16: 4e-3, bf16: 3e-2}.get(kind, 1e-6)} if kind in (*FLOATS, *COMPLEX) else {}


def _sorted_segments() -> Iterator[Case]:
    ids = np.array([0, 0, 2, 2, 2, 5], np.int32)
    for name in ("Sum", "Mean", "Prod", "Max", "Min"):
        for kind in (*REAL, *COMPLEX) if name in ("Sum", "Mean", "Prod") else REAL:
            for shape in ((6,), (6, 3)):
                yield op_case(f"Segment{name}", values(kind, shape), ids, **_sums(kind))
        yield op_case(f"Segment{name}", values(ONE, (4, 2)), np.array([1, 2, 3, 4]), name="one each")
        yield op_case(f"Segment{name}", values(ONE, (0, 2)), np.array([], np.int32))
        yield op_case(f"Segment{name}", values(ONE, (3, 0)), np.array([0, 0, 1], np.int32))
    three = values(ONE, (3,))
    for wrong in ([1, 0, 3], [-1, 0, 3], [-3, -2, -1], [0, 1], [[0, 1, 2]]):
        yield op_case("SegmentSum", three, np.array(wrong, np.int32), name=str(wrong))
    yield op_case("SegmentSum", np.array(1, ONE), np.array(0, np.int32))


def _unsorted_segments() -> Iterator[Case]:
    four = np.array(4, np.int32)
    for name in ("Sum", "Prod", "Max", "Min"):
        for kind in (*REAL, *COMPLEX) if name in ("Sum", "Prod") else REAL:
            for shape, ids in (((6,), [3, 0, -1, 3, 0, 3]), ((2, 3, 2), [[3, 0, 1], [0, 0, 3]]),
                               ((3, 4), [0, 1, 3]), ((2, 3), [-1, -1])):
                yield op_case(f"UnsortedSegment{name}", values(kind, shape), np.array(ids, np.int32), four,
                              **_sums(kind))
        yield op_case(f"UnsortedSegment{name}", values(ONE, (0, 2)), np.array([], np.int64), np.array(3))
        yield op_case(f"UnsortedSegment{name}", np.array(5, ONE), np.array(1), np.array(3))
        yield op_case(f"UnsortedSegment{name}", values(ONE, (300, 17)), np.arange(300) * 7 % 40, np.array(40),
                      **_sums(ONE), name="many")
    three = values(ONE, (3,))
    for ids, count in (([0, 7, 1], 3), ([0, 1, 1], -3), ([0, 1, 1], [3, 1]), ([0, 1], 3)):
        yield op_case("UnsortedSegmentSum", three, np.array(ids, np.int32), np.array(count, np.int32),
                      name=f"{ids} {count}")
    yield op_case("UnsortedSegmentSum", values(ONE, (1, 3)), np.array([[0, 7, 1]], np.int32), four - 1)


def _partitions() -> Iterator[Case]:
    for kind in (*REAL, *COMPLEX, np.bool_, object):
        yield op_case("DynamicStitch", np.array([0, 2], np.int32), np.array([[1, 3], [2, 0]], np.int32),
                      values(kind, (2, 3), 1), values(kind, (2, 2, 3), 2))
        yield op_case("DynamicPartition", values(kind, (4, 2)), np.array([0, 2, 0, 1], np.int32), num_partitions=4)
    yield op_case("DynamicStitch", np.array([], np.int32), values(ONE, (0, 3)))
    yield op_case("DynamicStitch", np.array(1, np.int32), np.array(0, np.int32), values(ONE, (3,)),
                  values(ONE, (3,), 2))
    yield op_case("ParallelDynamicStitch", np.array([0, 2], np.int32), np.array([3, 1], np.int32),
                  values(ONE, (2, 3), 1), values(ONE, (2, 3), 2))
    two = np.array([0, 2], np.int32)
    yield op_case("DynamicStitch", two, values(ONE, (3,)))
    yield op_case("DynamicStitch", two, two, values(ONE, (2, 2)), values(ONE, (2, 1)))
    yield op_case("DynamicStitch", np.array([0, -2], np.int32), values(ONE, (2,)))
    for ids in ([0, 5, 0], [0, -5, 0], [0, 1]):
        yield op_case("DynamicPartition", values(ONE, (3,)), np.array(ids, np.int32), num_partitions=3, name=str(ids))
    yield op_case("DynamicPartition", values(ONE, (2, 2, 3)), np.array([[0, 1], [1, 0]], np.int32), num_partitions=2)
    yield op_case("DynamicPartition", values(ONE, (2,)), np.array(0, np.int32), num_partitions=2)
    yield op_case("DynamicPartition", values(ONE, (0, 2)), np.array([], np.int32), num_partitions=2)


def _uniques() -> Iterator[Case]:
    edges = np.array([np.nan, 1, np.nan, -0.0, 0.0, 1], ONE)
    for op in ("Unique", "UniqueWithCounts"):
        for kind in (*REAL, np.bool_, object):
            for index in INDEX:
                yield op_case(op, values(kind, (20,)), out_idx=index)
        yield op_case(op, edges, name="edges")
        yield op_case(op, values(ONE, (0,)))
        yield op_case(op, values(ONE, (1, 2)))
        repeated = np.array([[1, 2, 1], [3, 4, 3], [1, 2, 1]], ONE)
        for axis in (0, 1, -1):
            yield op_case(f"{op}V2", repeated, np.array([axis]), name=str(axis))
        yield op_case(f"{op}V2", values(ONE, (4, 2, 3)), np.array([2], np.int32))
        yield op_case(f"{op}V2", edges, np.array([], np.int64))
        yield op_case(f"{op}V2", edges, np.array([0]))
        yield op_case(f"{op}V2", values(ONE, (0, 3)), np.array([0]))
        yield op_case(f"{op}V2", values(ONE, (3, 0)), np.array([0]))
        for wrong in ([3], [0, 1], 0):
            yield op_case(f"{op}V2", edges, np.array(wrong), name=str(wrong))
        yield op_case(f"{op}V2", repeated, np.array([], np.int64))


def _list_diffs() -> Iterator[Case]:
    for kind in (*REAL, object):
        for index in INDEX:
            yield op_case("ListDiff", values(kind, (20,), 1), values(kind, (3,), 2), out_idx=index)
    x = np.array([1, 2, np.nan, 2, 3], ONE)
    yield op_case("ListDiff", x, np.array([3, np.nan], ONE))
    yield op_case("ListDiff", x, np.array([], ONE))
    yield op_case("ListDiff", x[:0], x)
    yield op_case("ListDiff", x.reshape(1, 5), x)
    yield op_case("ListDiff", x, x.reshape(1, 5))
