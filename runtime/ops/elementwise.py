"""Element-wise ops of two and more inputs: arithmetic, comparisons, logic.

Integers wrap around, half and bfloat16 are rounded after each operation; both are what the array namespace does by
itself. Divisions by zero and the like are silent because the step runs with numpy's floating-point warnings off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import FailedPrecondition, InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.broadcasting import Binary, broadcasting, broadcasts, with_nonzero_divisor
from runtime.ops.objects import as_object_array
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast, broadcast_shapes, format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16, DataType.FLOAT, DataType.DOUBLE})
_COMPLEX = frozenset({DataType.COMPLEX64, DataType.COMPLEX128})


def _kind(node: Node) -> DataType:
    return base(node.input_types[0])


def _is_integer(kind: DataType) -> bool:
    return to_numpy(kind).kind in "iu"


def _register(ops: tuple[str, ...], function: Callable[[Any], Binary]) -> None:
    """Register ops that are one broadcasting function of the array namespace, whatever the dtype."""
    kernel(*ops, shape=broadcast)(lambda node, env: broadcasting(function(env.xp)))


_register(("Sub",), lambda xp: xp.subtract)
_register(("Mul",), lambda xp: xp.multiply)
_register(("Less",), lambda xp: xp.less)
_register(("LessEqual",), lambda xp: xp.less_equal)
_register(("Greater",), lambda xp: xp.greater)
_register(("GreaterEqual",), lambda xp: xp.greater_equal)
_register(("LogicalAnd",), lambda xp: xp.logical_and)
_register(("LogicalOr",), lambda xp: xp.logical_or)


@kernel("Add", "AddV2", shape=broadcast)
def _add(node: Node, env: KernelEnv) -> Callable[..., Any]:
    add = env.xp.add
    if _kind(node).is_object:  # strings are joined element by element
        return broadcasting(lambda x, y: as_object_array(add(x, y)))
    return broadcasting(add)


def _add_n_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return [None]
    result = list(known[0])
    for shape in known[1:]:
        if len(shape) != len(result):
            return [None]
        result = [a if a is not None else b for a, b in zip(result, shape)]
    return [tuple(result)]


@kernel("AddN", "AccumulateNV2", shape=_add_n_shape)
def _add_n(node: Node, env: KernelEnv) -> Callable[..., Any]:
    add = env.xp.add
    if _kind(node).is_object:  # variants know how to add themselves

        def add_objects(first: Any, *others: Any) -> Any:
            for other in others:
                first = as_object_array(add(first, other))
            return first

        return add_objects

    def run(first: Any, *others: Any) -> Any:
        for index, other in enumerate(others):
            _check_addend(node, first, other, index + 1)
        if not others:
            return first
        total = add(first, others[0])
        if len(others) > 1:
            total = env.xp.asarray(total)
            for other in others[1:]:
                add(total, other, out=total)
        return total

    return run


def _check_addend(node: Node, first: Any, other: Any, index: int) -> None:
    if other.shape != first.shape:
        raise InvalidArgument(f"Inputs to operation {node.name} of type {node.op} must have the same size and shape.  "
                              f"Input 0: {format_shape(first.shape)} != input {index}: {format_shape(other.shape)}")


def add_to_sum(node: Node, index: int) -> Callable[[Any, Any], Any]:
    """Return a function that adds one input of an AddN, with this index, to the sum of those before it."""

    def run(total: Any, other: Any) -> Any:
        _check_addend(node, total, other, index)
        return total + other

    return run


@kernel("RealDiv", shape=broadcast)
def _real_div(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if _is_integer(_kind(node)):
        return _truncate_div(node, env)
    return broadcasting(env.xp.true_divide)


@kernel("DivNoNan", shape=broadcast)
def _div_no_nan(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    zero = to_numpy(_kind(node)).type(0)
    return broadcasting(lambda x, y: xp.where(y == 0, zero, xp.true_divide(x, y)))


@kernel("MulNoNan", shape=broadcast)
def _mul_no_nan(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    zero = to_numpy(_kind(node)).type(0)
    return broadcasting(lambda x, y: xp.where(y == 0, zero, xp.multiply(x, y)))


@kernel("FloorDiv", shape=broadcast)
def _floor_div(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    if _is_integer(_kind(node)):
        return broadcasting(with_nonzero_divisor(xp.floor_divide, node.op))
    if to_numpy(_kind(node)).kind == "c":
        raise InvalidArgument(f"{node.op} '{node.name}' is of {_kind(node).label}: complex numbers have no floor; "
                              "RealDiv divides them")
    # numpy's own floor_divide gives NaN for an infinite dividend, where the floor of the quotient is infinite.
    return broadcasting(lambda x, y: xp.floor(xp.true_divide(x, y)))


@kernel("FloorMod", shape=broadcast)
def _floor_mod(node: Node, env: KernelEnv) -> Callable[..., Any]:
    remainder = env.xp.remainder
    return broadcasting(with_nonzero_divisor(remainder, node.op) if _is_integer(_kind(node)) else remainder)


@kernel("TruncateDiv", "Div", shape=broadcast)
def _truncate_div(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    kind = _kind(node)
    if not _is_integer(kind):
        if node.op == "Div" or kind in _COMPLEX:
            return broadcasting(xp.true_divide)
        return broadcasting(lambda x, y: xp.trunc(xp.true_divide(x, y)))
    if to_numpy(kind).kind == "u":
        return broadcasting(with_nonzero_divisor(xp.floor_divide, node.op))
    # Without its remainder the dividend is a multiple of the divisor, and then floor is exact.
    return broadcasting(with_nonzero_divisor(lambda x, y: xp.floor_divide(xp.subtract(x, xp.fmod(x, y)), y),
                                             node.op))


@kernel("TruncateMod", "Mod", shape=broadcast)
def _truncate_mod(node: Node, env: KernelEnv) -> Callable[..., Any]:
    fmod = env.xp.fmod
    return broadcasting(with_nonzero_divisor(fmod, node.op) if _is_integer(_kind(node)) else fmod)


@kernel("Pow", shape=broadcast)
def _pow(node: Node, env: KernelEnv) -> Callable[..., Any]:
    power = env.xp.power
    if not _is_integer(_kind(node)):
        return broadcasting(power)

    def integer_power(x: Any, y: Any) -> Any:
        if (y < 0).any():
            if not broadcasts(x.shape, y.shape):
                raise ValueError
            if x.size:
                raise InvalidArgument("Integers to negative integer powers are not allowed")
        return power(x, y)

    return broadcasting(integer_power)


@kernel("SquaredDifference", shape=broadcast)
def _squared_difference(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    if _kind(node) in _COMPLEX:

        def squared_modulus(x: Any, y: Any) -> Any:
            difference = xp.subtract(x, y)
            return xp.multiply(xp.conjugate(difference), difference)

        return broadcasting(squared_modulus)
    return broadcasting(lambda x, y: xp.square(xp.subtract(x, y)))


@kernel("Maximum", "Minimum", shape=broadcast)
def _extremum(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return broadcasting(env.xp.maximum if node.op == "Maximum" else env.xp.minimum)


def _clip_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]]


@kernel("ClipByValue", shape=_clip_shape)
def _clip_by_value(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(tensor: Any, low: Any, high: Any) -> Any:
        for bound in (low, high):
            if bound.shape != tensor.shape and bound.ndim:
                raise InvalidArgument("clip_value_min and clip_value_max must be either of the same shape as input, or "
                                      f"a scalar. input shape: {format_shape(tensor.shape)}clip_value_min shape: "
                                      f"{format_shape(low.shape)}clip_value_max shape: {format_shape(high.shape)}")
        return xp.maximum(xp.minimum(tensor, high), low)  # in this order: low wins where the bounds cross

    return run


def _equality_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if node.attr("incompatible_shape_error"):
        return broadcast(node, shapes)
    left, right = shapes
    if left is None or right is None or None in left or None in right:
        return [None]  # a scalar if the values turn out not to broadcast
    try:
        return [broadcast_shapes(left, right)]
    except InvalidArgument:
        return [()]


@kernel("Equal", "NotEqual", shape=_equality_shape)
def _equality(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    function = xp.equal if node.op == "Equal" else xp.not_equal
    if _kind(node).is_object:
        ufunc = function

        def function(x: Any, y: Any) -> Any:
            return xp.asarray(ufunc(x, y), dtype=xp.bool_)

    if node.attr("incompatible_shape_error"):
        return broadcasting(function)
    otherwise = node.op == "NotEqual"

    def run(x: Any, y: Any) -> Any:
        return function(x, y) if broadcasts(x.shape, y.shape) else xp.bool_(otherwise)

    return run


@kernel("ApproximateEqual", shape=like_input())
def _approximate_equal(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    tolerance = float(node.attr("tolerance"))

    def run(x: Any, y: Any) -> Any:
        if x.shape != y.shape:
            raise InvalidArgument("x and y must be of the same shape. x shape: "
                                  f"{format_shape(x.shape)}. y shape: {format_shape(y.shape)}")
        return xp.less(xp.absolute(xp.subtract(x, y)), tolerance)

    return run


@kernel("Complex", shape=broadcast)
def _complex(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def join(real: Any, imaginary: Any) -> Any:
        result = xp.empty(xp.broadcast_shapes(real.shape, imaginary.shape), dtype)
        result.real = real
        result.imag = imaginary
        return result

    return broadcasting(join)


@kernel("Xlogy", "Xlog1py", "Xdivy", shape=broadcast)
def _times_or_zero(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Products and quotients that are 0 where the first factor is, whatever the second."""
    xp = env.xp
    zero = to_numpy(_kind(node)).type(0)
    if node.op == "Xdivy":
        return broadcasting(lambda x, y: xp.where(x == 0, zero, xp.true_divide(x, y)))
    logarithm = xp.log if node.op == "Xlogy" else xp.log1p
    return broadcasting(lambda x, y: xp.where(x == 0, zero, xp.multiply(x, logarithm(y))))


@kernel("Cross", shape=like_input())
def _cross(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(a: Any, b: Any) -> Any:
        if a.shape != b.shape:
            raise InvalidArgument("Both inputs must be of same shape: "
                                  f"{format_shape(a.shape)} vs. {format_shape(b.shape)}")
        if a.ndim < 1:
            raise InvalidArgument("Input must be at least 1D[]")
        if a.shape[-1] != 3:
            raise FailedPrecondition("Cross-products are only defined for 3-element vectors.")
        (a0, a1, a2), (b0, b1, b2) = xp.moveaxis(a, -1, 0), xp.moveaxis(b, -1, 0)
        return xp.stack((a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0), axis=-1)

    return run


_register(("BitwiseAnd",), lambda xp: xp.bitwise_and)
_register(("BitwiseOr",), lambda xp: xp.bitwise_or)
_register(("BitwiseXor",), lambda xp: xp.bitwise_xor)
_register(("NextAfter",), lambda xp: xp.nextafter)
_register(("Atan2",), lambda xp: xp.arctan2)
