"""Gradient rules of element-wise ops."""

from __future__ import annotations

import math

from runtime.dtypes import DataType
from runtime.graph.gradient_rules import Grads, dense, gradient, no_gradient
from runtime.graph.gradient_rules.broadcasting import conj, unbroadcast
from runtime.graph.tensor import Operation, Tensor

no_gradient("Floor", "Ceil", "Round", "Rint", "FloorDiv", "TruncateDiv", "Equal", "NotEqual", "ApproximateEqual",
            "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot", "IsNan", "IsInf",
            "IsFinite")


def _parts(op: Operation, grads: Grads) -> tuple[Tensor, Tensor, Tensor]:
    """Return input, output and gradient of a unary operation, conjugated where complex."""
    return conj(op.inputs[0]), conj(op.outputs[0]), dense(grads[0])


@gradient("Add", "AddV2")
def _add(op: Operation, grads: Grads) -> Grads:
    x, y = op.inputs
    return unbroadcast(dense(grads[0]), x, dense(grads[0]), y)


@gradient("AddN", "AccumulateNV2")
def _add_n(op: Operation, grads: Grads) -> Grads:
    return [grads[0]] * len(op.inputs)


@gradient("Sub")
def _sub(op: Operation, grads: Grads) -> Grads:
    (x, y), grad = op.inputs, dense(grads[0])
    return unbroadcast(grad, x, -grad, y)


@gradient("Mul")
def _mul(op: Operation, grads: Grads) -> Grads:
    (x, y), grad = op.inputs, dense(grads[0])
    return unbroadcast(grad * conj(y), x, conj(x) * grad, y)


@gradient("MulNoNan")
def _mul_no_nan(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    return unbroadcast(graph.op("MulNoNan", grad, conj(y)), x, graph.op("MulNoNan", conj(x), grad), y)


@gradient("RealDiv", "Div")
def _div(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    if x.dtype not in _FLOATING:
        return [None, None]
    left, right = conj(x), conj(y)
    slope = graph.op("RealDiv", graph.op("RealDiv", -left, right), right)
    return unbroadcast(graph.op("RealDiv", grad, right), x, grad * slope, y)


_FLOATING = frozenset({DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16, DataType.COMPLEX64,
                       DataType.COMPLEX128})


@gradient("DivNoNan")
def _div_no_nan(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    left, right = conj(x), conj(y)
    slope = graph.divide_no_nan(graph.divide_no_nan(-left, right), right)
    return unbroadcast(graph.divide_no_nan(grad, right), x, grad * slope, y)


@gradient("Xdivy")
def _xdivy(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    nonzero = graph.cast(graph.not_equal(x, graph.zeros_like(x)), x.dtype)
    return unbroadcast(grad * graph.op("Xdivy", nonzero, y), x,
                       grad * graph.op("Xdivy", -x, graph.square(y)), y)


@gradient("Xlogy")
def _xlogy(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    nonzero = graph.cast(graph.not_equal(x, graph.zeros_like(x)), x.dtype)
    return unbroadcast(grad * graph.op("Xlogy", nonzero, y), x, grad * graph.op("Xdivy", x, y), y)


@gradient("FloorMod")
def _floor_mod(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    return unbroadcast(grad, x, -grad * graph.floor_divide(x, y), y)


@gradient("TruncateMod", "Mod")
def _truncate_mod(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    return unbroadcast(grad, x, -grad * graph.op("TruncateDiv", x, y), y)


@gradient("Pow")
def _pow(op: Operation, grads: Grads) -> Grads:
    graph, grad = op.graph, dense(grads[0])
    x, y, z = conj(op.inputs[0]), conj(op.inputs[1]), conj(op.outputs[0])
    ones = graph.ones_like(x)
    zeros = graph.zeros_like(x)
    # The logarithm is taken only where it exists; elsewhere the derivative by the exponent counts as 0.
    exists = graph.not_equal(x, zeros) if x.dtype in _COMPLEX else graph.greater(x, zeros)
    logs = graph.where(exists, graph.log(graph.where(exists, x, ones)), zeros)
    return unbroadcast(grad * y * graph.pow(x, y - graph.ones_like(y)), op.inputs[0], grad * z * logs, op.inputs[1])


_COMPLEX = frozenset({DataType.COMPLEX64, DataType.COMPLEX128})


@gradient("Maximum", "Minimum")
def _extremum(op: Operation, grads: Grads) -> Grads:
    graph, (x, y), grad = op.graph, op.inputs, dense(grads[0])
    zeros = graph.zeros_like(grad)
    takes_x = graph.greater_equal(x, y) if op.type == "Maximum" else graph.less_equal(x, y)
    return unbroadcast(graph.where(takes_x, grad, zeros), x, graph.where(takes_x, zeros, grad), y)


@gradient("ClipByValue")
def _clip(op: Operation, grads: Grads) -> Grads:
    graph, (x, low, high), grad = op.graph, op.inputs, dense(grads[0])
    zeros = graph.zeros_like(grad)
    below, above = graph.less(x, low), graph.greater(x, high)
    inside = graph.where(graph.logical_or(below, above), zeros, grad)
    grad_low = unbroadcast(None, x, graph.where(below, grad, zeros), low)[1]
    grad_high = unbroadcast(None, x, graph.where(above, grad, zeros), high)[1]
    return [inside, grad_low, grad_high]


@gradient("SquaredDifference")
def _squared_difference(op: Operation, grads: Grads) -> Grads:
    (x, y), grad = op.inputs, dense(grads[0])
    slope = grad * 2.0 * conj(x - y) if x.dtype in _FLOATING else grad * 2 * (x - y)
    return unbroadcast(slope, x, -slope, y)


@gradient("Neg")
def _neg(op: Operation, grads: Grads) -> Grads:
    return [-dense(grads[0])]


@gradient("Abs")
def _abs(op: Operation, grads: Grads) -> Grads:
    return [dense(grads[0]) * op.graph.sign(op.inputs[0])]


@gradient("ComplexAbs")
def _complex_abs(op: Operation, grads: Grads) -> Grads:
    graph, x, grad = op.graph, op.inputs[0], dense(grads[0])
    slope = graph.divide_no_nan(grad, op.outputs[0])
    return [graph.op("Complex", slope, graph.zeros_like(slope), Tout=x.dtype) * x]


@gradient("Sign")
def _sign(op: Operation, grads: Grads) -> Grads:
    return [op.graph.zeros_like(op.inputs[0])]


@gradient("Square")
def _square(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * (x * op.graph.constant(2, x.dtype))]


@gradient("Sqrt")
def _sqrt(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("SqrtGrad", op.outputs[0], dense(grads[0]))]


@gradient("SqrtGrad")
def _sqrt_grad(op: Operation, grads: Grads) -> Grads:
    graph, y, grad = op.graph, op.inputs[0], dense(grads[0])
    ratio = graph.op("RealDiv", grad, conj(y))
    return [-ratio * conj(op.outputs[0]), ratio * 0.5]


@gradient("Rsqrt")
def _rsqrt(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("RsqrtGrad", op.outputs[0], dense(grads[0]))]


@gradient("RsqrtGrad")
def _rsqrt_grad(op: Operation, grads: Grads) -> Grads:
    (y, dy), grad = op.inputs, dense(grads[0])
    return [grad * -1.5 * conj(dy) * op.graph.square(conj(y)), op.graph.op("RsqrtGrad", y, grad)]


@gradient("Reciprocal", "Inv")
def _reciprocal(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("ReciprocalGrad", op.outputs[0], dense(grads[0]))]


@gradient("ReciprocalGrad")
def _reciprocal_grad(op: Operation, grads: Grads) -> Grads:
    (y, dy), grad = op.inputs, dense(grads[0])
    return [grad * -2.0 * conj(dy) * conj(y), op.graph.op("ReciprocalGrad", y, grad)]


@gradient("Exp")
def _exp(op: Operation, grads: Grads) -> Grads:
    _, y, grad = _parts(op, grads)
    return [grad * y]


@gradient("Expm1")
def _expm1(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.exp(x)]


@gradient("Log")
def _log(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.reciprocal(x)]


@gradient("Log1p")
def _log1p(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.reciprocal(x + 1.0)]


@gradient("Sin")
def _sin(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.cos(x)]


@gradient("Cos")
def _cos(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [-grad * op.graph.sin(x)]


@gradient("Tan")
def _tan(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.square(op.graph.reciprocal(op.graph.cos(x)))]


@gradient("Sinh")
def _sinh(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.op("Cosh", x)]


@gradient("Cosh")
def _cosh(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.op("Sinh", x)]


@gradient("Asin", "Acos")
def _asin(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    slope = op.graph.rsqrt(1.0 - op.graph.square(x))
    return [grad * slope if op.type == "Asin" else -grad * slope]


@gradient("Atan")
def _atan(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.reciprocal(1.0 + op.graph.square(x))]


@gradient("Asinh")
def _asinh(op: Operation, grads: Grads) -> Grads:
    _, y, grad = _parts(op, grads)
    return [op.graph.op("RealDiv", grad, op.graph.op("Cosh", y))]


@gradient("Acosh")
def _acosh(op: Operation, grads: Grads) -> Grads:
    _, y, grad = _parts(op, grads)
    return [op.graph.op("RealDiv", grad, op.graph.op("Sinh", y))]


@gradient("Atanh")
def _atanh(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.reciprocal(1.0 - op.graph.square(x))]


@gradient("Atan2")
def _atan2(op: Operation, grads: Grads) -> Grads:
    graph, (y, x), grad = op.graph, op.inputs, dense(grads[0])
    scaled = graph.op("RealDiv", grad, graph.square(x) + graph.square(y))
    return unbroadcast(x * scaled, y, -y * scaled, x)


@gradient("Tanh")
def _tanh(op: Operation, grads: Grads) -> Grads:
    _, y, grad = _parts(op, grads)
    return [op.graph.op("TanhGrad", y, grad)]


@gradient("TanhGrad")
def _tanh_grad(op: Operation, grads: Grads) -> Grads:
    (y, dy), grad = op.inputs, dense(grads[0])
    return [grad * -2.0 * conj(dy) * conj(y), op.graph.op("TanhGrad", conj(y), grad)]


@gradient("Sigmoid")
def _sigmoid(op: Operation, grads: Grads) -> Grads:
    _, y, grad = _parts(op, grads)
    return [op.graph.op("SigmoidGrad", y, grad)]


@gradient("SigmoidGrad")
def _sigmoid_grad(op: Operation, grads: Grads) -> Grads:
    y, dy, grad = conj(op.inputs[0]), conj(op.inputs[1]), dense(grads[0])
    both = grad * dy
    return [both - 2.0 * both * y, op.graph.op("SigmoidGrad", y, grad)]


@gradient("Erf", "Erfc")
def _erf(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    factor = 2.0 / math.sqrt(math.pi) * (1 if op.type == "Erf" else -1)
    return [grad * (op.graph.exp(-op.graph.square(x)) * factor)]


@gradient("Lgamma")
def _lgamma(op: Operation, grads: Grads) -> Grads:
    x, _, grad = _parts(op, grads)
    return [grad * op.graph.op("Digamma", x)]
