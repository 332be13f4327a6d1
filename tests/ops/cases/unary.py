"""Cases of the element-wise ops of one input, and of the gradients that take an output and its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, bf16, op_case
from tests.ops.values import SHAPES, edge_values, values

SIGNED = (np.int8, np.int16, np.int32, np.int64)
INEXACT = (*FLOATS, *COMPLEX)

UNARY: dict[str, tuple[Any, ...]] = {
    "Neg": (*FLOATS, *SIGNED, *COMPLEX),
    "Abs": (*FLOATS, *SIGNED),
    "Sign": (*FLOATS, *SIGNED, *COMPLEX),
    "Square": (*FLOATS, *SIGNED, *COMPLEX),
    "Reciprocal": INEXACT,
    "Inv": INEXACT,
    "Round": FLOATS,  # of int32 and int64 TensorFlow's kernel makes zeros; ours leaves integers as they are
    "Floor": FLOATS,
    "Ceil": FLOATS,
    "Rint": (np.float32, np.float64),
    "LogicalNot": (np.bool_,),
    "IsNan": FLOATS,
    "IsInf": FLOATS,
    "IsFinite": FLOATS,
    "Erf": FLOATS,
    "Erfc": FLOATS,
    "Invert": INTEGERS,
    **dict.fromkeys(("Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Tanh",
                     "Sigmoid", "Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh"), INEXACT),
}
"""Op types and the types that TensorFlow has kernels for on a CPU."""

GRADIENTS = ("TanhGrad", "SigmoidGrad", "SqrtGrad", "RsqrtGrad", "ReciprocalGrad", "InvGrad")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for op, kinds in UNARY.items():
        for kind in kinds:
            for shape in SHAPES:
                yield op_case(op, values(kind, shape), relative=_relative(kind))
            if kind in FLOATS:
                edges = edge_values(kind)
                if op == "Erf" and kind is np.float64:
                    edges = edges[~np.isinf(edges)]  # TensorFlow's kernel gives NaN for infinity in this type alone
                yield op_case(op, edges, name="edges", relative=_relative(kind))
                yield op_case(op, np.linspace(-12, 12, 101).astype(kind), name="wide", relative=_relative(kind))
                yield op_case(op, np.logspace(-4, 4, 41).astype(kind), name="positive", relative=_relative(kind))
    for op in GRADIENTS:
        for kind in INEXACT:
            for shape in SHAPES:
                yield op_case(op, values(kind, shape, 1), values(kind, shape, 2), relative=_relative(kind, 4.0))
        yield op_case(op, values(np.float32, (3,), 1), values(np.float32, (), 2))


def _relative(kind: Any, factor: float = 1.0) -> float | None:
    """Return a wider tolerance: these functions are approximated, each library in its own way."""
    base = {np.float32: 1e-5, np.complex64: 2e-5, np.float16: 4e-3, bf16: 1.6e-2, np.float64: 1e-11,
            np.complex128: 1e-11}
    return base[kind] * factor if kind in base else None
