"""Cases of special functions, shifts, searches in sorted values, and quantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.values import PAIRS, SHAPES, edge_values, values

REAL = (*FLOATS, *INTEGERS)
WIDE = (np.float32, np.float64)
QUANTIZED = {DataType.QUINT8: np.uint8, DataType.QINT8: np.int8, DataType.QUINT16: np.uint16,
             DataType.QINT16: np.int16, DataType.QINT32: np.int32}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _of_one()
    yield from _incomplete_gamma()
    yield from _zeta()
    yield from _betainc()
    yield from _shifts()
    yield from _cross()
    yield from _sums()
    yield from _scans()
    yield from _searches()
    yield from _histograms()
    yield from _nth()
    yield from _quantize()
    yield from _quantize_and_dequantize()


def tolerance(kind: Any, double: float = 1e-11) -> dict[str, float]:
    """Return a tolerance for functions that each library approximates in its own way, the small types in floats."""
    relative = {np.float16: 4e-3, bf16: 1.6e-2, np.float32: 4e-5, np.float64: double}[kind]
    return {"relative": relative, "absolute": {np.float64: 1e-14}.get(kind, 1e-6)}


def _of_one() -> Iterator[Case]:
    for op in ("BesselI0", "BesselI1", "BesselI0e", "BesselI1e", "Ndtri"):
        for kind in (np.float16, *WIDE) if op != "Ndtri" else WIDE:
            if op == "Ndtri":
                points = np.concatenate([np.linspace(0.001, 0.999, 201), [1e-30, 1e-6, 0.5 + 1e-6, 0, 1, -0.1, 1.1]])
            else:
                points = np.concatenate([np.linspace(-40, 40, 203), [0.0, -0.0, 1e-5, 85.0, -85.0]])
            yield op_case(op, points.astype(kind), **tolerance(kind))
            yield op_case(op, edge_values(kind)[:10], name="edges", **tolerance(kind))
        for shape in SHAPES[:6]:
            yield op_case(op, values(np.float32, shape, 0, 0.1, 0.9), **tolerance(np.float32))


def _incomplete_gamma() -> Iterator[Case]:
    edges = np.array([0.0, 1.0, -1.0, 0.5, 3.0, np.nan])
    for op in ("Igamma", "Igammac", "IgammaGradA"):
        for kind in WIDE:
            a, x = np.meshgrid(np.array([0.1, 0.5, 1, 2.5, 10, 33, 100]), np.array([0.01, 0.5, 1, 1.5, 5, 12, 40, 110]))
            yield op_case(op, a.astype(kind), x.astype(kind), **tolerance(kind, 1e-9))
            a, x = np.meshgrid(edges, edges)
            yield op_case(op, a.astype(kind), x.astype(kind), name="edges", **tolerance(kind))
        for left, right in PAIRS:
            yield op_case(op, values(np.float32, left, 1, 0.2, 9), values(np.float32, right, 2, 0.2, 9),
                          **tolerance(np.float32))
        yield op_case(op, np.ones((2, 3), np.float32), np.ones(2, np.float32))
    large = np.array([1e3, 9e3, 3e4])
    yield op_case("Igamma", large, large * [1.01, 0.99, 1.0], relative=1e-9)


def _zeta() -> Iterator[Case]:
    for kind in WIDE:
        x, q = np.meshgrid(np.array([1, 1.1, 1.5, 2, 3, 7.5, 20, 0.5, -1]), np.array([0.1, 0.5, 1, 2.5, 10, 60]))
        yield op_case("Zeta", x.astype(kind), q.astype(kind), **tolerance(kind))
        x, q = np.meshgrid(np.array([1.0, 2, 3, 2.5, np.nan]), np.array([0.0, -1, -0.5, -2.25, np.nan]))
        yield op_case("Zeta", x.astype(kind), q.astype(kind), name="edges", **tolerance(kind))
        n, x = np.meshgrid(np.array([0, 1, 2, 5, 0.5, -1, np.nan]), np.array([0.1, 1, 2.5, 12, -0.5, -1, 0, np.nan]))
        yield op_case("Polygamma", n.astype(kind), x.astype(kind), **tolerance(kind, 1e-10))
    for op in ("Zeta", "Polygamma"):
        for left, right in PAIRS:
            yield op_case(op, np.rint(values(np.float32, left, 1, 2, 6)), values(np.float32, right, 2, 0.5, 6),
                          **tolerance(np.float32))


def _betainc() -> Iterator[Case]:
    for kind in WIDE:
        parts = np.meshgrid(np.array([0.2, 1, 3, 25, 120]), np.array([0.3, 1, 4, 40]),
                            np.array([0.0, 0.01, 0.3, 0.5, 0.8, 0.99, 1.0]))
        yield op_case("Betainc", *(part.astype(kind) for part in parts), **tolerance(kind, 1e-9))
        parts = np.meshgrid(np.array([0.0, -1, 2, np.nan]), np.array([0.0, -1, 2]), np.array([-0.1, 0.5, 1.1, np.nan]))
        yield op_case("Betainc", *(part.astype(kind) for part in parts), name="edges", **tolerance(kind))
    one, three = np.full((), 0.5, np.float32), np.full(3, 0.5, np.float32)
    for parts in ((one, one, one), (three, one, one), (one, three, one), (one, one, three), (three, three, one),
                  (three, three[:2], one), (three, one, three[:2]), (one, three, three[:2]), (three[:0],) * 3):
        yield op_case("Betainc", *parts, **tolerance(np.float32))


def _shifts() -> Iterator[Case]:
    for kind in INTEGERS:
        bits = 8 * np.dtype(kind).itemsize
        info = np.iinfo(kind)
        x = np.array([0, 1, 3, info.min, info.max, info.max // 3], kind)
        y = np.array([[0], [1], [bits - 1], [bits], [info.max], [max(info.min, -1)]], kind)
        for op in ("LeftShift", "RightShift"):
            yield op_case(op, x, y)
        yield op_case("PopulationCount", x)
        yield op_case("PopulationCount", values(kind, (2, 0)))
    for op in ("LeftShift", "RightShift"):
        for left, right in PAIRS:
            yield op_case(op, values(np.int32, left, 1), values(np.int32, right, 2))
        yield op_case(op, values(np.int32, (2, 3)), values(np.int32, (2,)))


def _cross() -> Iterator[Case]:
    for kind in REAL:
        for shape in ((3,), (4, 3), (0, 3), (2, 5, 3)):
            yield op_case("Cross", values(kind, shape, 1), values(kind, shape, 2), absolute=4e-3 if kind is np.float16
                          else 3e-2 if kind is bf16 else 1e-6)
    x = np.ones((2, 3), np.float32)
    yield op_case("Cross", x, x[:1])
    yield op_case("Cross", x[:, :2], x[:, :2])
    yield op_case("Cross", x[0, 0], x[0, 0])


def _sums() -> Iterator[Case]:
    for kind in (*REAL, *COMPLEX):
        yield op_case("AccumulateNV2", *(values(kind, (2, 3), seed) for seed in range(3)), shape=(2, 3),
                      **tolerance(kind) if kind in FLOATS else {"absolute": 1e-6})
    yield op_case("AccumulateNV2", values(np.float32, (2, 3)), shape=(2, 3))


def _scans() -> Iterator[Case]:
    for kind in (np.float16, np.float32, np.float64):
        for exclusive in (False, True):
            for reverse in (False, True):
                for axis in (0, 1, -1):
                    yield op_case("CumulativeLogsumexp", values(kind, (4, 5)), np.array(axis, np.int32),
                                  exclusive=exclusive, reverse=reverse, **tolerance(kind))
        edges = np.array([-np.inf, 1, 2, -np.inf, np.inf, 3], kind)
        yield op_case("CumulativeLogsumexp", edges, np.array(0, np.int64), **tolerance(kind))
    x = values(np.float32, (3, 4))
    yield op_case("CumulativeLogsumexp", x, np.array(2, np.int32))
    yield op_case("CumulativeLogsumexp", x, np.array([1], np.int32))
    yield op_case("CumulativeLogsumexp", x[:, :0], np.array(1, np.int32))


def _searches() -> Iterator[Case]:
    for op in ("LowerBound", "UpperBound"):
        for kind in REAL:
            rows = np.sort(values(kind, (3, 9), 1), axis=1)
            for out in INDEX:
                yield op_case(op, rows, values(kind, (3, 7), 2), out_type=out)
        for kind in (np.float32, bf16, np.int8):
            many = values(kind, (3, 40), 2)
            many[:, 7] = 1 if kind is np.int8 else np.nan
            yield op_case(op, np.sort(values(kind, (3, 9), 1), axis=1), many)
        x = np.sort(values(np.float32, (2, 4)), axis=1)
        yield op_case(op, x, np.array([[np.nan, np.inf, -np.inf]] * 2, np.float32))
        yield op_case(op, x[:, :0], x)
        yield op_case(op, x, x[:, :0])
        yield op_case(op, x[:1], x)
        yield op_case(op, x[0], x)
        yield op_case(op, x, x[0])
    for kind in (np.int32, np.int64, np.float32, np.float64):
        for shape in SHAPES:
            yield op_case("Bucketize", values(kind, shape), boundaries=[-2.0, 0.1, 1.0, 3.0])
        yield op_case("Bucketize", values(kind, (5,)), boundaries=wire_floats())
    yield op_case("Bucketize", np.array([0.1, np.nan, np.inf, -np.inf]), boundaries=[0.1, 1.0])
    yield op_case("Bucketize", np.array([0.1, 16777217], np.float32), boundaries=[0.1, 16777217.0])
    yield op_case("Bucketize", np.array([16777217], np.int32), boundaries=[0.1, 16777217.0])
    yield op_case("Bucketize", values(np.float32, (5,)), boundaries=[1.0, 0.0])


def wire_floats() -> Any:
    """Return an empty list of floats as an attr."""
    from runtime import wire

    message = wire.AttrValue()
    message.list.SetInParent()
    return message


def _histograms() -> Iterator[Case]:
    for kind in (np.int32, np.int64, np.float32, np.float64):
        for dtype in INDEX:
            yield op_case("HistogramFixedWidth", np.array([-1, 0, 1.5, 2, 5, 15], kind), np.array([0, 5], kind),
                          np.array(5, np.int32), dtype=dtype)
        yield op_case("HistogramFixedWidth", values(kind, (30, 5)), np.array([-4, 4], kind), np.array(7, np.int32))
        yield op_case("HistogramFixedWidth", values(kind, (0,)), np.array([-4, 4], kind), np.array(3, np.int32))
    x, five = values(np.float32, (4,)), np.array(5, np.int32)
    for limits, bins in (((1, 1), five), ((2, 1), five), ((0, 1, 2), five), ((0, 1), five * 0), ((0, 1), five - 7),
                         ((0, 1), np.array([5], np.int32))):
        yield op_case("HistogramFixedWidth", x, np.array(limits, np.float32), bins, name=f"{limits} {bins}")
    yield op_case("HistogramFixedWidth", np.array([np.nan], np.float32), np.array([0, 1], np.float32), five)
    yield op_case("HistogramFixedWidth", np.array([np.inf, -np.inf, 1e30], np.float32), np.array([0, 1], np.float32),
                  five)


def _nth() -> Iterator[Case]:
    for kind in REAL:
        for reverse in (False, True):
            yield op_case("NthElement", values(kind, (3, 7)), np.array(2, np.int32), reverse=reverse)
    x = values(np.float32, (3, 7))
    for shape, n in (((7,), 6), ((0, 7), 2), ((2, 3, 4), 0)):
        yield op_case("NthElement", values(np.float32, shape), np.array(n, np.int32))
    for value, n in ((x, 7), (x, -1), (x[0, 0], 0)):
        yield op_case("NthElement", value, np.array(n, np.int32))
    yield op_case("NthElement", x, np.array([1], np.int32))


def _quantize() -> Iterator[Case]:
    x = np.array([[-3, -1.01, -0.3, 0, 0.501], [0.5, 1, 1.3, 1.5, 7]], np.float32)
    low, high = np.array(-1.2, np.float32), np.array(1.5, np.float32)
    for kind in QUANTIZED:
        for mode, rounding in (("MIN_COMBINED", "HALF_AWAY_FROM_ZERO"), ("MIN_FIRST", "HALF_AWAY_FROM_ZERO"),
                               ("SCALED", "HALF_AWAY_FROM_ZERO"), ("SCALED", "HALF_TO_EVEN")):
            # TensorFlow leaves some wide ranges to another library, which rounds in its own way.
            for narrow in (False, True) if mode != "MIN_FIRST" and rounding != "HALF_TO_EVEN" else (True,):
                yield op_case("QuantizeV2", x, low, high, T=kind, mode=mode, round_mode=rounding, narrow_range=narrow)
    kind = DataType.QUINT8
    for axis in (0, 1):
        limits = np.linspace(0.2, 2, x.shape[axis]).astype(np.float32)
        for mode in ("MIN_COMBINED", "MIN_FIRST", "SCALED"):
            yield op_case("QuantizeV2", x, -limits, limits, T=kind, axis=axis, mode=mode)
    yield op_case("QuantizeV2", x, low * 0 + 0.2, low * 0 + 0.2001, T=kind)
    yield op_case("QuantizeV2", x, low * 0, low * 0, T=kind)
    yield op_case("QuantizeV2", x, high, low, T=kind)
    yield op_case("QuantizeV2", x, np.zeros(2, np.float32), np.ones(2, np.float32), T=kind)
    yield op_case("QuantizeV2", x, np.zeros(3, np.float32), np.ones(3, np.float32), T=kind, axis=1)
    yield op_case("QuantizeV2", x, low, high, T=kind, round_mode="HALF_TO_EVEN")


def _quantize_and_dequantize() -> Iterator[Case]:
    none = np.zeros((), np.float32)
    for kind in WIDE:
        x = values(kind, (4, 5), 3)
        low, high = np.array(-1.2, kind), np.array(1.5, kind)
        for signed in (False, True):
            for rounding in ("HALF_TO_EVEN", "HALF_UP"):
                for narrow in (False, True):
                    yield op_case("QuantizeAndDequantizeV2", x, low, high, signed_input=signed, range_given=True,
                                  round_mode=rounding, narrow_range=narrow, **tolerance(kind))
            for bits in (3, 8, 16):
                yield op_case("QuantizeAndDequantizeV2", x, low, high, signed_input=signed, num_bits=bits,
                              **tolerance(kind))
        for axis in (0, 1):
            limits = np.linspace(0.2, 2, x.shape[axis]).astype(kind)
            yield op_case("QuantizeAndDequantizeV2", x, -limits, limits, range_given=True, axis=axis, **tolerance(kind))
            yield op_case("QuantizeAndDequantizeV2", x, low, high, axis=axis, **tolerance(kind))
    x = values(np.float32, (2, 3))
    yield op_case("QuantizeAndDequantizeV2", x[:0], none, none)
    yield op_case("QuantizeAndDequantizeV2", x * 0, none, none)
    yield op_case("QuantizeAndDequantizeV2", x, none + 1, none, range_given=True)
    yield op_case("QuantizeAndDequantizeV2", x, none, none, num_bits=64)
    yield op_case("QuantizeAndDequantizeV2", x, none, none, axis=2, text=False)
    yield op_case("QuantizeAndDequantizeV2", x, np.zeros(2, np.float32), np.ones(2, np.float32), range_given=True,
                  axis=1)
