"""Cases of everyday extras: complex numbers, special functions, conversions, counting, bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INDEX, INTEGERS, Case, bf16, op_case
from tests.ops.cases.arrays import EVERY, ints
from tests.ops.cases.strings import text
from tests.ops.values import PAIRS, SHAPES, edge_values, values


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _complex_numbers()
    yield from _functions()
    yield from _to_text()
    yield from _from_text()
    yield from _formats()
    yield from _positions()
    yield from _bits()


def _complex_numbers() -> Iterator[Case]:
    for kind, part in ((np.complex64, np.float32), (np.complex128, np.float64)):
        for shape in SHAPES:
            x = values(kind, shape)
            yield op_case("Conj", x)
            for op in ("Real", "Imag", "ComplexAbs", "Angle"):
                yield op_case(op, x, Tout=part)
        for left, right in PAIRS:
            yield op_case("Complex", values(part, left, 1), values(part, right, 2), Tout=kind)
    yield op_case("Complex", values(np.float32, (2, 3)), values(np.float32, (4,)))


def _functions() -> Iterator[Case]:
    tolerance = {np.float16: 4e-3, bf16: 1.6e-2, np.float32: 2e-5, np.float64: 1e-10}
    for kind in FLOATS:
        if kind is bf16:  # TensorFlow's CPU has none of the three
            continue
        relative = tolerance[kind]
        wide = np.linspace(-6.3, 12, 101).astype(kind)
        inside = np.linspace(-0.98, 0.98, 51).astype(kind)
        yield op_case("Lgamma", wide, relative=relative, absolute=relative)
        yield op_case("Digamma", wide, relative=relative, absolute=relative)
        edges = edge_values(kind)
        yield op_case("Lgamma", edges, name="edges", relative=relative)
        yield op_case("Digamma", np.array([1, 0.5, 1.5, 3, np.inf, np.nan], kind), name="edges", relative=relative)
        inverses = ("Erfinv",) if kind is not np.float16 else ()
        if inverses:
            yield op_case("Erfinv", inside, relative=relative)
            yield op_case("Erfinv", edges, name="edges", relative=relative)
        for op in ("Lgamma", "Digamma", *inverses):
            yield op_case(op, values(kind, (2, 0)))
            yield op_case(op, values(kind, (), 0, 0.1, 0.9), relative=relative)
    for op in ("Xlogy", "Xdivy", "Xlog1py"):
        for kind in (*FLOATS, *COMPLEX):
            for left, right in PAIRS:
                x, y = values(kind, left, 1), values(kind, right, 2, 0.5, 4)
                yield op_case(op, x, y, relative=tolerance.get(kind, 2e-5), absolute=1e-6)
            if kind in FLOATS:
                edges = edge_values(kind)
                yield op_case(op, edges[:, None], edges, name="edges", relative=tolerance[kind])
        yield op_case(op, values(np.float32, (2,)), values(np.float32, (3,)))
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        for kind in INTEGERS:
            yield op_case(op, values(kind, (3, 4), 1), values(kind, (4,), 2))
    for kind in (np.float32, np.float64):
        yield op_case("NextAfter", values(kind, (7,), 1), values(kind, (7,), 2))
    for kind in FLOATS:
        yield op_case("Atan2", values(kind, (7,), 1), values(kind, (7,), 2), relative=tolerance[kind])


def _to_text() -> Iterator[Case]:
    for kind in (*INTEGERS, np.bool_, object):
        for shape in ((), (5,), (0,)):
            yield op_case("AsString", values(kind, shape))
    numbers = [0.0, -0.0, 1.5, -2.25, 1 / 3, 1e10, 1e-10, 123456.789, np.inf, -np.inf, np.nan, 65504]
    styles = ({}, {"precision": 3}, {"scientific": True}, {"shortest": True}, {"precision": 2, "scientific": True},
              {"precision": 0}, {"width": 12}, {"width": 12, "fill": "0"}, {"width": 12, "fill": "-"}, {"fill": "+"},
              {"fill": " "}, {"shortest": True, "precision": 3, "width": 9})
    for kind in (*FLOATS, *COMPLEX):
        for style in styles:
            with np.errstate(all="ignore"):
                yield op_case("AsString", np.array(numbers, kind), **style)
    for style in ({"width": 6}, {"width": 6, "fill": "0"}, {"width": 6, "fill": "-"}, {"fill": "+"}):
        yield op_case("AsString", np.array([1, -20, 300], np.int32), **style)
    for style in ({"precision": 2}, {"scientific": True}, {"shortest": True}, {"fill": "ab"}, {"fill": "x"}):
        yield op_case("AsString", np.array([1, -20], np.int32), text=False, **style)
    yield op_case("AsString", np.array([1.0], np.float32), scientific=True, shortest=True, text=False)


def _from_text() -> Iterator[Case]:
    good = ("0", "1", " 7 ", "+5", "10", "007")
    for kind in (np.float32, np.float64, np.int32, np.int64, np.uint32, np.uint64):
        yield op_case("StringToNumber", text(*good), out_type=kind)
        yield op_case("StringToNumber", text("12", "34", shape=(2, 1)), out_type=kind)
        yield op_case("StringToNumber", b"42", out_type=kind)
        yield op_case("StringToNumber", text(), out_type=kind)
        for word in ("", " ", "x", "1x", "1 2", "--1", "-1", "-0", "1.5", "1e3", ".5", "5.", ".", "1_0", "0x1F",
                     "0x1p3", "inf", "-Infinity", "nan", "NaN", "1e400", "1e-400", "4294967296", "9223372036854775808",
                     "18446744073709551616", "-2147483648", "2147483648", "1e", "e1", "+", "infin", "1f", "\t3\n",
                     "0" * 50 + "1"):
            yield op_case("StringToNumber", text(word), name=word, out_type=kind)
    words = text(*[bytes((7 * size + i) % 256 for i in range(size)) for size in range(0, 200, 3)])
    for buckets in (1, 10, 2**31, 2**62):
        yield op_case("StringToHashBucketFast", words, num_buckets=buckets)
    yield op_case("StringToHashBucketFast", b"hello", num_buckets=100)
    yield op_case("StringToHashBucketFast", words[:0], num_buckets=100)


def _formats() -> Iterator[Case]:
    for kind in EVERY:
        for shape in ((), (2,), (7,), (2, 3), (0,), (2, 0), (0, 2), (8, 8), (2, 3, 4)):
            if kind not in COMPLEX:
                yield op_case("StringFormat", values(kind, shape), template="a %s b")
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for count in (-1, 0, 1, 2, 3, 10):
        yield op_case("StringFormat", x, summarize=count)
        yield op_case("StringFormat", x[0, 0], summarize=count)
    yield op_case("StringFormat", x[0, 0], b"text", np.array(True), template="{}, {} and {}.", placeholder="{}")
    yield op_case("StringFormat", template="nothing", T=[])
    yield op_case("StringFormat", text('quote"', "new\nline", "Grüße", b"\xff"))


def _positions() -> Iterator[Case]:
    for kind in EVERY:
        for index in INDEX:
            yield op_case("Roll", values(kind, (3, 4)), np.array(1, index), np.array(1, index))
        yield op_case("Roll", values(kind, (3, 4)), ints(1, -2), ints(0, 1))
    x = values(np.float32, (3, 4))
    for shift, axis in (((5,), (0,)), ((1, 2), (1, 1)), ((1,), (-1,)), ((1,), (2,)), ((1,), (-3,)), ((0,), (0,)),
                        ((), ())):
        yield op_case("Roll", x, np.array(shift, np.int32), np.array(axis, np.int32), name=f"{shift} {axis}")
    yield op_case("Roll", x, ints(1, 2), ints(0))
    yield op_case("Roll", x[0, 0], np.array(1, np.int32), np.array(0, np.int32))
    yield op_case("Roll", x[:0], np.array(1, np.int32), np.array(0, np.int32))
    for kind in INDEX:
        yield op_case("UnravelIndex", np.array([0, 5, 11], kind), ints(3, 4, kind=kind))
        yield op_case("UnravelIndex", np.array(7, kind), ints(2, 2, 3, kind=kind))
        yield op_case("UnravelIndex", np.array([0, 12], kind), ints(3, 4, kind=kind))
        yield op_case("UnravelIndex", np.array([0], kind), ints(3, 0, kind=kind))
        for weight in (np.int32, np.int64, np.float32, np.float64):
            some = np.array([1, 0, 2, 2, 7], kind)
            none = np.zeros(0, weight)
            yield op_case("DenseBincount", some, np.array(4, kind), none)
            yield op_case("DenseBincount", some, np.array(8, kind), values(weight, (5,)))
            yield op_case("DenseBincount", some, np.array(8, kind), none, binary_output=True)
            yield op_case("DenseBincount", np.array([[1, 0, 1], [2, 2, 9]], kind), np.array(4, kind), none)
            yield op_case("DenseBincount", np.array([[1, 0, 1], [2, 2, 9]], kind), np.array(4, kind),
                          values(weight, (2, 3)))
            yield op_case("DenseBincount", np.array([[1, 0, 1], [2, 2, 9]], kind), np.array(4, kind), none,
                          binary_output=True)
            if kind is np.int32:
                yield op_case("Bincount", some, np.array(4, kind), none)
                yield op_case("Bincount", some, np.array(8, kind), values(weight, (5,)))
    yield op_case("DenseBincount", ints(-1), np.array(4, np.int32), np.zeros(0, np.float32))
    yield op_case("DenseBincount", ints(1), np.array(-4, np.int32), np.zeros(0, np.float32))
    yield op_case("DenseBincount", ints(1, 2), np.array(4, np.int32), np.ones(3, np.float32))
    yield op_case("DenseBincount", ints(), np.array(4, np.int32), np.zeros(0, np.float32))


def _bits() -> Iterator[Case]:
    numbers = (*FLOATS, *INTEGERS, *COMPLEX)
    for source in numbers:
        for target in numbers:
            old, new = np.dtype(source).itemsize, np.dtype(target).itemsize
            if old >= new:
                yield op_case("Bitcast", values(source, (2, 3)), type=target, compare=_same_bits)
                yield op_case("Bitcast", values(source, ()), type=target, compare=_same_bits)
            else:
                yield op_case("Bitcast", values(source, (3, new // old)), type=target, compare=_same_bits)
    yield op_case("Bitcast", values(np.int8, (2, 3)), type=np.int32, text=False)
    yield op_case("Bitcast", values(np.int8, ()), type=np.int32, text=False)


def _same_bits(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    mine, other = ours[0], theirs[0]
    if mine.shape != other.shape:
        return f"the shape is {mine.shape}, TensorFlow's {other.shape}"
    return "" if mine.tobytes() == other.tobytes() else "the bits differ"
