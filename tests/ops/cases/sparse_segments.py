"""Cases of reductions over segments of picked rows, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.values import values

ONE = np.float32
PICKED, IDS = [4, 0, 4, 2, 1, 1], [0, 0, 2, 2, 2, 5]


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name in ("Sum", "Mean", "SqrtN"):
        yield from _forward(f"SparseSegment{name}", name)
        yield from _backward(f"SparseSegment{name}Grad")
        yield from _backward(f"SparseSegment{name}GradV2")


def _tolerance(kind: Any) -> dict[str, Any]:
    return {"relative": {np.float16: 8e-3, bf16: 4e-2}.get(kind, 1e-5),
            "absolute": {np.float16: 4e-3, bf16: 3e-2}.get(kind, 1e-6)} if kind in FLOATS else {}


def _int32(value: Any) -> np.ndarray:
    return np.array(value, np.int32)


def _forward(op: str, name: str) -> Iterator[Case]:
    seven = _int32(7)
    for kind in (*FLOATS, *(INTEGERS if name == "Sum" else ())):
        for shape in ((5,), (5, 3)):
            yield op_case(op, values(kind, shape), _int32(PICKED), _int32(IDS), **_tolerance(kind))
        yield op_case(f"{op}WithNumSegments", values(kind, (5, 2, 2)), _int32(PICKED), _int32(IDS), seven,
                      **_tolerance(kind))
    for first in INDEX:
        for second in INDEX:
            yield op_case(op, values(ONE, (5, 3)), np.array(PICKED, first), np.array(IDS, second), **_tolerance(ONE))
    yield op_case(op, values(ONE, (40, 17)), _int32(np.arange(300) * 7 % 40), _int32(np.arange(300) // 11),
                  **_tolerance(ONE))
    data = values(ONE, (5, 3))
    for picked, ids in (([], []), ([0, 1], [1, 0]), ([0, 1], [-1, 0]), ([0, 5], [0, 1]), ([-1, 0], [0, 1]),
                        ([0], [0, 1]), ([[0]], [0]), ([0], [[0]]), ([0, 1, 2], [0, 7, 3]), ([0], [-3])):
        yield op_case(op, data, _int32(picked), _int32(ids), name=f"{picked} {ids}")
        yield op_case(f"{op}WithNumSegments", data, _int32(picked), _int32(ids), seven, name=f"{picked} {ids}")
    for count in (3, 0, -1, [3]):
        yield op_case(f"{op}WithNumSegments", data, _int32([0, 1]), _int32([0, 3]), np.array(count), name=str(count))
        yield op_case(f"{op}WithNumSegments", data, _int32([]), _int32([]), np.array(count), name=str(count))
    yield op_case(op, np.array(1, ONE), _int32([0]), _int32([0]))
    yield op_case(op, values(ONE, (5, 0)), _int32([0, 1]), _int32([0, 3]))


def _backward(op: str) -> Iterator[Case]:
    eight = _int32(8)
    for kind in FLOATS:
        yield op_case(op, values(kind, (6,)), _int32(PICKED), _int32(IDS), eight, **_tolerance(kind))
        yield op_case(op, values(kind, (6, 3)), _int32(PICKED), _int32(IDS), eight, **_tolerance(kind))
    for first in INDEX:
        for second in INDEX:
            yield op_case(op, values(ONE, (6, 3)), np.array(PICKED, first), np.array(IDS, second), eight,
                          **_tolerance(ONE))
    grad = values(ONE, (6, 3))
    if op.endswith("V2"):  # the first version leaves its output as the memory was
        yield op_case(op, grad, _int32([]), _int32([]), eight)
    for picked, ids in (([0, 1], [1, 0]), ([0, 1], [-1, 0]), ([0, 8], [0, 1]), ([-1, 0], [0, 1]),
                        ([0], [0, 1]), ([[0]], [0]), ([0], [[0]]), ([0, 1, 2], [0, 6, 3])):
        yield op_case(op, grad, _int32(picked), _int32(ids), eight, name=f"{picked} {ids}")
    yield op_case(op, grad, _int32([0]), _int32([0]), _int32([8]))
    yield op_case(op, grad, _int32([]), _int32([]), _int32(0))
    yield op_case(op, grad, _int32([0]), _int32([0]), _int32(-1))
    yield op_case(op, grad[:0], _int32([0]), _int32([0]), eight)
