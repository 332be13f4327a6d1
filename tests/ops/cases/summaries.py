"""Cases of summaries: the serialised messages must be TensorFlow's, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, INTEGERS, Case, op_case
from tests.ops.values import values

ONE = np.float32


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in (*FLOATS, *INTEGERS):
        yield op_case("ScalarSummary", b"loss", np.array(3, kind))
        yield op_case("HistogramSummary", b"weights", values(kind, (40,)))
    for number in (0.0, -0.0, 1.5, np.nan, np.inf, 0.1):
        yield op_case("ScalarSummary", b"a", np.array(number), name=str(number))
    yield op_case("ScalarSummary", _texts(b"a", b"b", b""), np.array([1, 2, 3], ONE))
    yield op_case("ScalarSummary", _texts(), np.array([], ONE))
    yield op_case("ScalarSummary", _texts(b"a"), np.array(1, ONE))
    yield op_case("ScalarSummary", _texts(b"a", b"b"), np.zeros((1, 2), ONE))
    for data in ([1, 2, 3.5, -4, 0, 0], [], [1e-13, 1e21, -1e30, 1e-12, -1e-12], [1.0, 1.1, 1.21], [-0.0], [0.0],
                 [np.nan, np.inf], [np.inf, np.nan], [1e20, 1e22, 1.7e308], [-1.7e308]):
        yield op_case("HistogramSummary", b"h", np.array(data, np.float64), name=str(data))
    yield op_case("HistogramSummary", b"h", np.random.default_rng(0).normal(size=(30, 20)).astype(ONE))
    yield op_case("HistogramSummary", b"", np.array(7, ONE))
    yield op_case("HistogramSummary", _texts(b"a"), np.array(7, ONE))
    yield from _merges()


def _texts(*items: bytes) -> np.ndarray[Any, Any]:
    result = np.empty(len(items), object)
    result[:] = items
    return result


def _merges() -> Iterator[Case]:
    first, second = b"\n\x08\n\x01x\x15\x00\x00\x80?", b"\n\x08\n\x01y\x15\x00\x00\x00@"
    yield op_case("MergeSummary", first)
    yield op_case("MergeSummary", first, second)
    yield op_case("MergeSummary", _texts(first, second), _texts(b""))
    yield op_case("MergeSummary", first, first)
    yield op_case("MergeSummary", first, b"\xff\xff")
    yield op_case("MergeSummary", b"\n\x05\x15\x00\x00\x80?", b"\n\x05\x15\x00\x00\x80?", name="no tags")
