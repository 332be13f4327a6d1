"""Cases of the element-wise ops of two and more inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, bf16, op_case
from tests.ops.values import PAIRS, edge_values, values

NUMBERS = (*FLOATS, *INTEGERS, *COMPLEX)
REAL = (*FLOATS, *INTEGERS)
SIGNED = (np.int8, np.int16, np.int32, np.int64)

BINARY: dict[str, tuple[Any, ...]] = {
    "Add": (*FLOATS, np.uint8, *SIGNED, *COMPLEX),
    "AddV2": NUMBERS,
    "Sub": NUMBERS,
    "Mul": NUMBERS,
    "RealDiv": (*FLOATS, *COMPLEX),
    "DivNoNan": (*FLOATS, *COMPLEX),
    "MulNoNan": (*FLOATS, *COMPLEX),
    "FloorDiv": REAL,
    "FloorMod": REAL,
    "TruncateDiv": (*FLOATS, *INTEGERS),
    "TruncateMod": (np.int32, np.int64, np.float32, np.float64),
    "Pow": (*FLOATS, *COMPLEX),
    "SquaredDifference": (*FLOATS, np.int32, np.int64, *COMPLEX),
    "Maximum": REAL,
    "Minimum": REAL,
    "Equal": (*NUMBERS, np.bool_, object),
    "NotEqual": (*NUMBERS, np.bool_, object),
    "Less": REAL,
    "LessEqual": REAL,
    "Greater": REAL,
    "GreaterEqual": REAL,
    "LogicalAnd": (np.bool_,),
    "LogicalOr": (np.bool_,),
    "Div": NUMBERS,
    "Mod": (np.int32, np.int64, np.float32, np.float64),
}
DIVISIONS = {"RealDiv", "FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod", "Div", "Mod"}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for op, kinds in BINARY.items():
        for kind in kinds:
            integer = kind in INTEGERS
            for left, right in PAIRS:
                x, y = values(kind, left, 1), values(kind, right, 2)
                if op in DIVISIONS and integer:
                    y = np.where(y == 0, np.ones((), kind), y)
                if op == "Pow":
                    x = np.abs(x) if kind not in COMPLEX else x
                yield op_case(op, x, y, relative=_relative(op, kind))
            if kind in FLOATS:
                edges = edge_values(kind)
                yield op_case(op, edges[:, None], edges, name="edges", relative=_relative(op, kind))
        yield op_case(op, values(kinds[0], (2, 3), 1), values(kinds[0], (4,), 2))
    for kind in SIGNED:
        yield op_case("Pow", values(kind, (3, 4), 3), np.arange(4).astype(kind))
        yield op_case("Pow", values(kind, (3,), 3), np.array([1, 2, -1], kind))
        yield op_case("Pow", values(kind, (0,), 3), np.array([-1], kind))
        yield op_case("Pow", np.array([1, 2], kind), np.array([1, 2, -1], kind))
    for op in ("FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod", "Div", "Mod"):
        yield op_case(op, np.array([1, 2, 3], np.int32), np.array([1, 0, 2], np.int32))
        yield op_case(op, np.zeros((0, 2), np.int32), np.array(0, np.int32))
    yield op_case("FloorDiv", np.array([-2**31, 7, -7], np.int32), np.array([-1, -2, 2], np.int32))
    yield op_case("AddV2", np.array([127, -128], np.int8), np.array([1, -1], np.int8), name="wraps")
    yield op_case("Mul", np.array([200], np.uint8), np.array([200], np.uint8), name="wraps")
    strings = np.array([b"a", b"", b"\xff"], object)
    yield op_case("Add", strings, strings)
    yield op_case("Add", b"left", b"right")
    yield op_case("Add", strings, b"!")
    yield op_case("Equal", b"a", b"a")
    for op in ("Equal", "NotEqual"):
        yield op_case(op, np.ones((2, 3), np.float32), np.ones(4, np.float32), incompatible_shape_error=False)
        yield op_case(op, np.ones((2, 3), np.float32), np.ones(3, np.float32), incompatible_shape_error=False)
    yield from _several_inputs()


def _relative(op: str, kind: Any) -> float | None:
    if op == "Pow":
        return {np.float32: 1e-5, np.complex64: 1e-4, bf16: 2e-2}.get(kind)
    if op in ("FloorMod", "TruncateMod", "Mod") and kind in (np.float16, bf16):
        return 2e-2
    return None


def _several_inputs() -> Iterator[Case]:
    for kind in NUMBERS:
        for count in (1, 2, 3, 5):
            yield op_case("AddN", *[values(kind, (2, 3), i) for i in range(count)], name=str(count))
    for kind in (*FLOATS, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16):
        t, low, high = values(kind, (3, 4), 1), values(kind, (3, 4), 2), values(kind, (3, 4), 3)
        yield op_case("ClipByValue", t, np.array(1, kind), np.array(3, kind))
        yield op_case("ClipByValue", t, low, np.array(3, kind))
        yield op_case("ClipByValue", t, np.array(1, kind), high)
        yield op_case("ClipByValue", t, low, high)
        yield op_case("ClipByValue", np.array(5, kind), np.array(1, kind), np.array(3, kind))
        yield op_case("ClipByValue", t[:0], np.array(1, kind), np.array(3, kind))
    for kind in (np.float32, np.float64):
        yield op_case("ApproximateEqual", values(kind, (20,), 1), values(kind, (20,), 2), tolerance=1.5)
        yield op_case("ApproximateEqual", values(kind, (), 1), values(kind, (), 1))
    yield op_case("AddN", values(np.float32, (), 1), values(np.float32, (), 2), values(np.float32, (), 2))
    yield op_case("AddN", np.ones(2, np.float32), np.ones(2, np.float32), np.ones(3, np.float32))
    yield op_case("ClipByValue", np.ones((2, 3), np.float32), np.ones(2, np.float32), np.array(3, np.float32))
    yield op_case("ClipByValue", edge_values(np.float32), np.array(-1, np.float32), np.array(1, np.float32))
    yield op_case("ClipByValue", np.ones(3, np.float32), np.array(2, np.float32), np.array(1, np.float32))
    yield op_case("ApproximateEqual", np.ones(2, np.float32), np.ones(3, np.float32))
