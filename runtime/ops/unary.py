"""Element-wise ops of one input, and the gradient ops that take an output and its gradient."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import special_functions
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops import special
from runtime.ops.registry import elementwise, kernel
from runtime.ops.shapes import broadcast, format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_SMALL_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16})
_COMPLEX = frozenset({DataType.COMPLEX64, DataType.COMPLEX128})
_SAME = like_input()

_PLAIN = (
    ("Neg", "negative"), ("Abs", "absolute"), ("Sign", "sign"), ("Square", "square"), ("Sqrt", "sqrt"),
    ("Reciprocal", "reciprocal"), ("Inv", "reciprocal"), ("Exp", "exp"), ("Expm1", "expm1"), ("Log", "log"),
    ("Log1p", "log1p"), ("Sin", "sin"), ("Cos", "cos"), ("Tan", "tan"), ("Sinh", "sinh"), ("Cosh", "cosh"),
    ("Tanh", "tanh"), ("Floor", "floor"), ("Ceil", "ceil"), ("Rint", "rint"), ("LogicalNot", "logical_not"),
    ("IsNan", "isnan"), ("IsInf", "isinf"), ("IsFinite", "isfinite"), ("Asin", "arcsin"), ("Acos", "arccos"),
    ("Atan", "arctan"), ("Asinh", "arcsinh"), ("Acosh", "arccosh"), ("Atanh", "arctanh"), ("Invert", "invert"),
)
"""Ops that are one function of the array namespace, by its name there."""

for _op, _name in _PLAIN:
    elementwise(_op, operator.attrgetter(_name), _SAME)


@kernel("Round", shape=_SAME)
def _round(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if to_numpy(base(node.input_types[0])).kind in "iu":
        return lambda x: x
    return env.xp.rint  # type: ignore[no-any-return]


def _rounded_once(function: Callable[..., Any], node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Let a formula of several steps work in float32 for half and bfloat16, and round its result once."""
    kind = base(node.input_types[0])
    if kind not in _SMALL_FLOATS:
        return function
    wide, narrow = env.xp.float32, to_numpy(kind)

    def run(*args: Any) -> Any:
        return env.xp.asarray(function(*[arg.astype(wide) for arg in args])).astype(narrow)

    return run


@kernel("Rsqrt", shape=_SAME)
def _rsqrt(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    return _rounded_once(lambda x: xp.reciprocal(xp.sqrt(x)), node, env)


@kernel("Sigmoid", shape=_SAME)
def _sigmoid(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    return _rounded_once(lambda x: xp.reciprocal(xp.add(xp.exp(xp.negative(x)), 1)), node, env)


_SPECIAL: dict[str, Callable[[Any, Any], Any]] = {
    "Erf": special.erf,
    "Erfc": special.erfc,
    "Erfinv": special.erfinv,
    "Lgamma": special.lgamma,
    "Digamma": special.digamma,
}


_COMPILED: dict[str, Callable[[Any], Any]] = {
    "Erf": special_functions.erf,
    "Erfc": special_functions.erfc,
    "Erfinv": special_functions.erfinv,
    "Lgamma": special_functions.lgamma,
    "Digamma": special_functions.digamma,
}


@kernel(*_SPECIAL, shape=_SAME)
def _special(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if env.xp is np and node.op in _COMPILED:
        return _rounded_once(_COMPILED[node.op], node, env)
    return special.in_double(_SPECIAL[node.op], env.xp, to_numpy(node.output_types[0]))


# --- complex numbers -------------------------------------------------------------------------------------------------


@kernel("Conj", shape=_SAME)
def _conj(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if base(node.input_types[0]).is_object:
        return lambda value: value
    return env.xp.conjugate  # type: ignore[no-any-return]


def _converted(function: Callable[[Any], Any], node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Return `function` with its result cast to the declared type, which an attr may choose freely."""
    dtype = to_numpy(node.output_types[0])
    return lambda value: env.xp.asarray(function(value)).astype(dtype, copy=False)


@kernel("Real", shape=_SAME)
def _real(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _converted(env.xp.real, node, env)


@kernel("Imag", shape=_SAME)
def _imag(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _converted(env.xp.imag, node, env)


@kernel("ComplexAbs", shape=_SAME)
def _complex_abs(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _converted(env.xp.absolute, node, env)


@kernel("Angle", shape=_SAME)
def _angle(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _converted(env.xp.angle, node, env)


def _tanh_grad(xp: Any, y: Any, dy: Any) -> Any:
    return dy * (1 - xp.square(y))


def _sigmoid_grad(xp: Any, y: Any, dy: Any) -> Any:
    return dy * y * (1 - y)


def _sqrt_grad(xp: Any, y: Any, dy: Any) -> Any:
    return xp.true_divide(dy * 0.5, y)


def _rsqrt_grad(xp: Any, y: Any, dy: Any) -> Any:
    return (dy * -0.5) * y * xp.square(y)


def _reciprocal_grad(xp: Any, y: Any, dy: Any) -> Any:
    return xp.negative(dy) * xp.square(y)


_GRADIENTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "TanhGrad": _tanh_grad,
    "SigmoidGrad": _sigmoid_grad,
    "SqrtGrad": _sqrt_grad,
    "RsqrtGrad": _rsqrt_grad,
    "ReciprocalGrad": _reciprocal_grad,
    "InvGrad": _reciprocal_grad,
}


@kernel(*_GRADIENTS, shape=broadcast)
def _gradient(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    function = _GRADIENTS[node.op]
    if base(node.input_types[0]) in _COMPLEX and node.op not in ("TanhGrad", "SigmoidGrad"):
        formula = function  # for those two the client conjugates

        def function(xp: Any, y: Any, dy: Any) -> Any:  # of the conjugate: gradients of holomorphic functions
            return formula(xp, xp.conjugate(y), dy)

    compute = _rounded_once(lambda y, dy: function(xp, y, dy), node, env)

    def run(y: Any, dy: Any) -> Any:
        if y.shape != dy.shape:
            raise InvalidArgument("The two arguments to a cwise op must have same number of elements, got "
                                  f"{y.size} and {dy.size}" if y.size != dy.size else
                                  f"Incompatible shapes: {format_shape(y.shape)} vs. {format_shape(dy.shape)}")
        return compute(y, dy)

    return run
