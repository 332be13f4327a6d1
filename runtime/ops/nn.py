"""Activations, biases and their gradients, softmax and the cross entropies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes

from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.shapes import broadcast_shapes, format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["log_sum_shift", "sum_in_float"]

Run = Callable[..., Any]

_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_SCALE_ALPHA = 1.7580993408473768599402175208123
_finfo: Callable[[Any], Any] = ml_dtypes.finfo


def sum_in_float(xp: Any, array: Any, axis: Any) -> Any:
    """Sum over axes; 16-bit floats are summed in float32 and rounded once."""
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iu":
        return xp.sum(array, axis=axis, dtype=xp.float32).astype(array.dtype)
    return xp.sum(array, axis=axis, dtype=array.dtype)


# Activations


def _activation(op: str, make: Callable[[Any, Node], Run]) -> None:
    """Register a function of one array; `make(xp, node)` returns it."""
    kernel(op, shape=like_input())(lambda node, env: make(env.xp, node))


def _gradient(op: str, make: Callable[[Any, Node], Run]) -> None:
    """Register a function of two arrays of one shape: the incoming gradient and the features or the outputs."""

    def bind(node: Node, env: KernelEnv) -> Run:
        function = make(env.xp, node)

        def run(gradients: Any, other: Any) -> Any:
            if gradients.shape != other.shape:
                raise InvalidArgument(f"Inputs to operation {node.name} of type {op} must have the same size and "
                                      f"shape.  Input 0: {format_shape(gradients.shape)} != input 1: "
                                      f"{format_shape(other.shape)}")
            return function(gradients, other)

        return run

    kernel(op, shape=like_input())(bind)


def _relu(xp: Any, node: Node) -> Run:
    return lambda x: xp.maximum(x, x.dtype.type(0))


def _relu_grad(xp: Any, node: Node) -> Run:
    # A product, not a selection: an infinite gradient at a negative feature gives NaN as in TensorFlow.
    return lambda g, x: xp.multiply(g, x > x.dtype.type(0), dtype=g.dtype)


def _relu6(xp: Any, node: Node) -> Run:
    return lambda x: xp.minimum(xp.maximum(x, x.dtype.type(0)), x.dtype.type(6))


def _relu6_grad(xp: Any, node: Node) -> Run:
    return lambda g, x: xp.multiply(g, (x > x.dtype.type(0)) & (x < x.dtype.type(6)), dtype=g.dtype)


def _leaky_relu(xp: Any, node: Node) -> Run:
    alpha = node.attr("alpha")
    choose = xp.maximum if alpha < 1 else xp.minimum
    return lambda x: choose(x, x * x.dtype.type(alpha))


def _leaky_relu_grad(xp: Any, node: Node) -> Run:
    alpha = node.attr("alpha")
    return lambda g, x: xp.where(x > x.dtype.type(0), g, g * g.dtype.type(alpha))


def _elu(xp: Any, node: Node) -> Run:
    def run(x: Any) -> Any:
        zero, one = x.dtype.type(0), x.dtype.type(1)
        return xp.where(x < zero, xp.exp(xp.minimum(x, zero)) - one, x)

    return run


def _elu_grad(xp: Any, node: Node) -> Run:
    return lambda g, y: xp.where(y < y.dtype.type(0), (y + y.dtype.type(1)) * g, g)


def _selu(xp: Any, node: Node) -> Run:
    def run(x: Any) -> Any:
        of = x.dtype.type
        return xp.where(x < of(0), of(_SELU_SCALE_ALPHA) * (xp.exp(xp.minimum(x, of(0))) - of(1)), of(_SELU_SCALE) * x)

    return run


def _selu_grad(xp: Any, node: Node) -> Run:
    def run(g: Any, y: Any) -> Any:
        of = y.dtype.type
        return xp.where(y < of(0), g * (y + of(_SELU_SCALE_ALPHA)), g * of(_SELU_SCALE))

    return run


def _softplus(xp: Any, node: Node) -> Run:
    def run(x: Any) -> Any:
        of = x.dtype.type
        threshold = of(math.log(float(_epsilon(x.dtype))) + 2)
        exponential = xp.exp(xp.minimum(x, -threshold))
        middle = xp.where(x < threshold, exponential, xp.log1p(exponential))
        return xp.where(x > -threshold, x, middle)

    return run


def _epsilon(dtype: Any) -> float:
    """Return the distance from 1 to the next number of a floating type."""
    return float(_finfo(dtype).eps)


def _softplus_grad(xp: Any, node: Node) -> Run:
    return lambda g, x: g / (xp.exp(-x) + x.dtype.type(1))


def _softsign(xp: Any, node: Node) -> Run:
    return lambda x: x / (xp.abs(x) + x.dtype.type(1))


def _softsign_grad(xp: Any, node: Node) -> Run:
    return lambda g, x: g / xp.square(xp.abs(x) + x.dtype.type(1))


for _op, _make in (("Relu", _relu), ("Relu6", _relu6), ("LeakyRelu", _leaky_relu), ("Elu", _elu), ("Selu", _selu),
                   ("Softplus", _softplus), ("Softsign", _softsign)):
    _activation(_op, _make)
for _op, _make in (("ReluGrad", _relu_grad), ("Relu6Grad", _relu6_grad), ("LeakyReluGrad", _leaky_relu_grad),
                   ("EluGrad", _elu_grad), ("SeluGrad", _selu_grad), ("SoftplusGrad", _softplus_grad),
                   ("SoftsignGrad", _softsign_grad)):
    _gradient(_op, _make)


# Biases


def _bias_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]]


@kernel("BiasAdd", "BiasAddV1", shape=_bias_shape)
def bias_add(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    channels_first = node.op == "BiasAdd" and node.attr("data_format") == b"NCHW"

    def run(value: Any, bias: Any) -> Any:
        if value.ndim < 2:
            raise InvalidArgument(f"Input tensor must be at least 2D: {format_shape(value.shape)}")
        if bias.ndim != 1:
            raise InvalidArgument(f"Biases must be 1D: {format_shape(bias.shape)}")
        if bias.shape[0] != value.shape[1 if channels_first else -1]:
            raise InvalidArgument("Must provide as many biases as the last dimension of the input tensor: "
                                  f"{format_shape(bias.shape)} vs. {format_shape(value.shape)}")
        if channels_first:
            return xp.add(value, bias.reshape((-1,) + (1,) * (value.ndim - 2)))
        return xp.add(value, bias)

    return run


def _bias_grad_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None or len(shape) < 2:
        return [(None,)]
    return [(shape[1 if node.attr("data_format") == b"NCHW" else -1],)]


@kernel("BiasAddGrad", shape=_bias_grad_shape)
def bias_add_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    channels_first = node.attr("data_format") == b"NCHW"

    def run(out_backprop: Any) -> Any:
        rank = out_backprop.ndim
        if rank < 2:
            raise InvalidArgument(f"Input tensor must be at least 2D: {format_shape(out_backprop.shape)}")
        channel = 1 if channels_first else rank - 1
        return sum_in_float(xp, out_backprop, tuple(axis for axis in range(rank) if axis != channel))

    return run


# Softmax


def _wide(xp: Any, array: Any) -> Any:
    """Return 16-bit floats as float32: sums of exponentials need the range."""
    return array.astype(xp.float32) if array.dtype.itemsize == 2 else array


def log_sum_shift(xp: Any, logits: Any) -> tuple[Any, Any, Any]:
    """Return (logits minus their row maximum, its exponential, the row sums of that), rows along the last axis."""
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    exponential = xp.exp(shifted)
    return shifted, exponential, xp.sum(exponential, axis=-1, keepdims=True)


@kernel("Softmax", "LogSoftmax", shape=like_input())
def softmax(node: Node, env: KernelEnv) -> Run:
    xp, logarithm = env.xp, node.op == "LogSoftmax"

    def run(logits: Any) -> Any:
        if not logits.ndim:
            raise InvalidArgument("logits must have >= 1 dimension, got []")
        if not logits.size:
            return xp.empty_like(logits)
        shifted, exponential, total = log_sum_shift(xp, _wide(xp, logits))
        if logarithm:
            result = xp.subtract(shifted, xp.log(total), out=shifted)
        else:
            result = xp.divide(exponential, total, out=exponential)
        return result.astype(logits.dtype, copy=False)

    return run


def _cross_entropy_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    both = broadcast_shapes(shapes[0], shapes[1])
    return [None if both is None else both[:1], both]


@kernel("SoftmaxCrossEntropyWithLogits", shape=_cross_entropy_shape)
def softmax_cross_entropy(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(features: Any, labels: Any) -> tuple[Any, Any]:
        dtype = features.dtype
        if features.shape != labels.shape:
            try:
                shape = xp.broadcast_shapes(features.shape, labels.shape)
            except ValueError:
                raise InvalidArgument(
                    f"logits and labels must be broadcastable: logits_size={format_shape(features.shape)} "
                    f"labels_size={format_shape(labels.shape)}") from None
            features, labels = xp.broadcast_to(features, shape), xp.broadcast_to(labels, shape)
        if features.ndim != 2:
            raise InvalidArgument("logits and labels must be either 2-dimensional, or broadcasted to be 2-dimensional")
        if not features.size:
            return xp.zeros(features.shape[:1], dtype), xp.zeros(features.shape, dtype)
        labels = _wide(xp, labels)
        shifted, exponential, total = log_sum_shift(xp, _wide(xp, features))
        backprop = xp.divide(exponential, total, out=exponential)
        xp.subtract(backprop, labels, out=backprop)
        loss = xp.subtract(xp.log(total), shifted, out=shifted)
        loss = xp.sum(xp.multiply(loss, labels, out=loss), axis=-1)
        return loss.astype(dtype, copy=False), backprop.astype(dtype, copy=False)

    return run


def _sparse_cross_entropy_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    features, labels = shapes
    batch = labels if features is None else features[:1]
    return [batch, features]


@kernel("SparseSoftmaxCrossEntropyWithLogits", shape=_sparse_cross_entropy_shape)
def sparse_softmax_cross_entropy(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(features: Any, labels: Any) -> tuple[Any, Any]:
        _check_sparse_cross_entropy(xp, features, labels)
        dtype = features.dtype
        if not features.size:
            return xp.zeros(features.shape[:1], dtype), xp.zeros(features.shape, dtype)
        rows = xp.arange(labels.shape[0])
        shifted, exponential, total = log_sum_shift(xp, _wide(xp, features))
        loss = xp.log(total[:, 0]) - shifted[rows, labels]
        backprop = xp.divide(exponential, total, out=exponential)
        backprop[rows, labels] -= backprop.dtype.type(1)
        return loss.astype(dtype, copy=False), backprop.astype(dtype, copy=False)

    return run


def _check_sparse_cross_entropy(xp: Any, features: Any, labels: Any) -> None:
    if features.ndim != 2:
        raise InvalidArgument(f"logits must be 2-D, but got shape {format_shape(features.shape)}")
    if labels.ndim != 1:
        raise InvalidArgument(f"labels must be 1-D, but got shape {format_shape(labels.shape)}")
    if features.shape[0] != labels.shape[0]:
        raise InvalidArgument("logits and labels must have the same first dimension, got logits shape "
                              f"{format_shape(features.shape)} and labels shape {format_shape(labels.shape)}")
    classes = features.shape[1]
    if classes == 0:
        raise InvalidArgument(f"Must have at least one class, but got logits shape {format_shape(features.shape)}")
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        first = int(labels[xp.argmax((labels < 0) | (labels >= classes))])
        raise InvalidArgument(f"Received a label value of {first} which is outside the valid range of [0, {classes}).  "
                              f"Label values: {' '.join(map(str, labels.tolist()))}")
