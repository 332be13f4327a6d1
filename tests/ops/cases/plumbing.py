"""Cases of constants, placeholders, identities, assertions and checks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.dtypes import DataType
from tests.ops.case import FLOATS, Case, Run, bf16, graph_case, node, op_case
from tests.ops.cases.arrays import EVERY
from tests.ops.values import SHAPES, values


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in EVERY:
        for shape in ((), (3,), (2, 0)):
            x = values(kind, shape)
            dtype = DataType.STRING if kind is object else kind
            constant = node("Const", "op", dtype=dtype, value=x)
            yield graph_case("Const", f"{x.dtype}{shape}", [constant], Run({}, ["op:0"]))
    for op in ("Identity", "StopGradient", "PreventGradient", "Snapshot", "GuaranteeConst"):
        for shape in SHAPES:
            yield op_case(op, values(np.float32, shape))
        if op != "Snapshot":
            yield op_case(op, values(object, (2,)))
    yield op_case("PlaceholderWithDefault", values(np.float32, (2,)), shape=(None,))
    yield op_case("IdentityN", values(np.float32, (2,)), values(object, ()), values(np.bool_, (0,)))
    yield op_case("IdentityN", values(np.int8, (2,)))
    yield op_case("NoOp")
    yield op_case("ControlTrigger")
    for shape in (None, (), (2, None), (3,), (None,)):
        for kind in (np.float32, np.int32, DataType.STRING, bf16, np.bool_, np.complex64):
            yield graph_case("Placeholder", f"{shape} {kind}", [node("Placeholder", "op", dtype=kind, shape=shape)],
                             Run({}, ["op:0"]))
    yield from _assertions()
    yield from _checks()


def _assertions() -> Iterator[Case]:
    false = np.array(False)
    yield op_case("Assert", np.array(True), values(np.float32, (2,)))
    for kind in EVERY:
        for shape in ((), (2,), (5,), (2, 3), (0,)):
            if kind is not object:
                yield op_case("Assert", false, values(kind, shape))
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for count in (-1, 0, 1, 2, 3, 5, 12, 100):
        yield op_case("Assert", false, numbers, b"text", np.arange(5), summarize=count)
    odd = [0.1, 1 / 3, 1e10, 1e-10, 1e20, 123456789, np.nan, np.inf, -np.inf, -0.0, 3.4e38, 16777216,
           100000, 1e6]
    for kind in FLOATS:
        with np.errstate(all="ignore"):
            yield op_case("Assert", false, np.array(odd, kind), summarize=-1)
    words = np.array([b"a", b"", b'quote " and \' and \\', b"tab\tnewline\n", "Grüße".encode(), b"\x01"], object)
    yield op_case("Assert", false, words, summarize=-1)
    yield op_case("Assert", np.array([True]), words[:1])


def _checks() -> Iterator[Case]:
    for kind in FLOATS:
        for shape in SHAPES:
            yield op_case("CheckNumerics", values(kind, shape), message="here")
        for bad in ([1, np.nan], [np.inf, 1], [-np.inf, np.nan, np.inf]):
            yield op_case("CheckNumerics", np.array(bad, kind), message="here it is")
