"""Gradient rules of neural network ops."""

from __future__ import annotations

from typing import Any

from runtime._ext.errors import Unimplemented
from runtime.graph.gradient_rules import Grads, dense, gradient, no_gradient
from runtime.graph.gradient_rules.broadcasting import shape_of
from runtime.graph.indexed_slices import as_dense
from runtime.graph.tensor import Operation, Tensor

no_gradient("InTopK", "InTopKV2")


def _attrs(op: Operation, *names: str) -> dict[str, Any]:
    return {name: op.attr(name) for name in names}


@gradient("BiasAdd")
def _bias_add(op: Operation, grads: Grads) -> Grads:
    grad = dense(grads[0])
    return [grad, op.graph.op("BiasAddGrad", grad, data_format=op.attr("data_format"))]


@gradient("BiasAddV1")
def _bias_add_v1(op: Operation, grads: Grads) -> Grads:
    grad = dense(grads[0])
    return [grad, op.graph.op("BiasAddGrad", grad)]


@gradient("BiasAddGrad")
def _bias_add_grad(op: Operation, grads: Grads) -> Grads:
    graph = op.graph
    return [graph.bias_add(graph.zeros_like(op.inputs[0]), dense(grads[0]), op.attr("data_format").decode())]


@gradient("Relu", "Relu6", "Elu", "Selu")
def _from_output(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op(f"{op.type}Grad", dense(grads[0]), op.outputs[0])]


@gradient("ReluGrad", "Relu6Grad")
def _relu_grad(op: Operation, grads: Grads) -> Grads:
    grad = dense(grads[0])
    return [op.graph.op(op.type, grad, op.inputs[1]), None]


@gradient("LeakyRelu")
def _leaky_relu(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("LeakyReluGrad", dense(grads[0]), op.inputs[0], alpha=op.attr("alpha"))]


@gradient("LeakyReluGrad")
def _leaky_relu_grad(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("LeakyReluGrad", dense(grads[0]), op.inputs[1], alpha=op.attr("alpha")), None]


@gradient("Softplus")
def _softplus(op: Operation, grads: Grads) -> Grads:
    return [dense(grads[0]) * op.graph.sigmoid(op.inputs[0])]


@gradient("Softsign")
def _softsign(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("SoftsignGrad", dense(grads[0]), op.inputs[0])]


@gradient("Softmax")
def _softmax(op: Operation, grads: Grads) -> Grads:
    graph, softmax, grad = op.graph, op.outputs[0], dense(grads[0])
    return [(grad - graph.reduce_sum(grad * softmax, -1, keepdims=True)) * softmax]


@gradient("LogSoftmax")
def _log_softmax(op: Operation, grads: Grads) -> Grads:
    graph, grad = op.graph, dense(grads[0])
    return [grad - graph.reduce_sum(grad, -1, keepdims=True) * graph.exp(op.outputs[0])]


def _cross_entropy(op: Operation, grads: Grads) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient by the logits, and the losses' gradient as a column."""
    graph, logits = op.graph, op.inputs[0]
    column = total = None
    if grads[0] is not None:
        column = graph.expand_dims(as_dense(grads[0]), -1)
        total = column * op.outputs[1]
    if grads[1] is not None:  # by the second output, which is a first derivative: second derivatives
        second = as_dense(grads[1])
        softmax = graph.softmax(logits)
        part = (second - graph.reduce_sum(second * softmax, -1, keepdims=True)) * softmax
        total = part if total is None else total + part
    return total, column


@gradient("SoftmaxCrossEntropyWithLogits")
def _softmax_cross_entropy(op: Operation, grads: Grads) -> Grads:
    by_logits, column = _cross_entropy(op, grads)
    by_labels = None if column is None else column * -op.graph.log_softmax(op.inputs[0])
    return [by_logits, by_labels]


@gradient("SparseSoftmaxCrossEntropyWithLogits")
def _sparse_softmax_cross_entropy(op: Operation, grads: Grads) -> Grads:
    return [_cross_entropy(op, grads)[0], None]


_CONV = ("strides", "padding", "explicit_paddings", "data_format", "dilations")


@gradient("Conv2D")
def _conv2d(op: Operation, grads: Grads) -> Grads:
    graph, grad, (x, filters), attrs = op.graph, dense(grads[0]), op.inputs, _attrs(op, *_CONV)
    by_input = graph.op("Conv2DBackpropInput", shape_of(x), filters, grad, **attrs)
    by_filter = graph.op("Conv2DBackpropFilter", x, shape_of(filters), grad, **attrs)
    by_input.set_shape(x.shape)
    by_filter.set_shape(filters.shape)
    return [by_input, by_filter]


@gradient("Conv2DBackpropInput")
def _conv2d_backprop_input(op: Operation, grads: Grads) -> Grads:
    graph, grad, (_, filters, outer), attrs = op.graph, dense(grads[0]), op.inputs, _attrs(op, *_CONV)
    return [None, graph.op("Conv2DBackpropFilter", grad, shape_of(filters), outer, **attrs),
            graph.op("Conv2D", grad, filters, **attrs)]


@gradient("Conv2DBackpropFilter")
def _conv2d_backprop_filter(op: Operation, grads: Grads) -> Grads:
    graph, grad, (x, _, outer), attrs = op.graph, dense(grads[0]), op.inputs, _attrs(op, *_CONV)
    return [graph.op("Conv2DBackpropInput", shape_of(x), grad, outer, **attrs), None,
            graph.op("Conv2D", x, grad, **attrs)]


@gradient("DepthwiseConv2dNative")
def _depthwise(op: Operation, grads: Grads) -> Grads:
    graph, grad, (x, filters), attrs = op.graph, dense(grads[0]), op.inputs, _attrs(op, *_CONV)
    by_input = graph.op("DepthwiseConv2dNativeBackpropInput", shape_of(x), filters, grad, **attrs)
    by_filter = graph.op("DepthwiseConv2dNativeBackpropFilter", x, shape_of(filters), grad, **attrs)
    by_input.set_shape(x.shape)
    by_filter.set_shape(filters.shape)
    return [by_input, by_filter]


@gradient("MaxPool")
def _max_pool(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("MaxPoolGrad", op.inputs[0], op.outputs[0], dense(grads[0]),
                        **_attrs(op, "ksize", "strides", "padding", "explicit_paddings", "data_format"))]


@gradient("AvgPool")
def _avg_pool(op: Operation, grads: Grads) -> Grads:
    x = op.inputs[0]
    back = op.graph.op("AvgPoolGrad", shape_of(x), dense(grads[0]),
                       **_attrs(op, "ksize", "strides", "padding", "data_format"))
    back.set_shape(x.shape)
    return [back]


@gradient("AvgPoolGrad")
def _avg_pool_grad(op: Operation, grads: Grads) -> Grads:
    return [None, op.graph.op("AvgPool", dense(grads[0]), **_attrs(op, "ksize", "strides", "padding", "data_format"))]


@gradient("FusedBatchNormV3")
def _batch_norm(op: Operation, grads: Grads) -> Grads:
    if grads[0] is None:
        raise Unimplemented(f"FusedBatchNormV3 (node '{op.name}') has a gradient by its first output only; compute "
                            "moments with Graph.moments to differentiate by them")
    x, scale, _, mean, variance = op.inputs
    is_training = op.attr("is_training")
    reserved = op.outputs[3:5] if is_training else (mean, variance)
    found = op.graph.op("FusedBatchNormGradV3", dense(grads[0]), x, scale, *reserved, op.outputs[5],
                        **_attrs(op, "epsilon", "data_format", "is_training"))
    return [found[0], found[1], found[2], None, None]


@gradient("LRN")
def _lrn(op: Operation, grads: Grads) -> Grads:
    return [op.graph.op("LRNGrad", dense(grads[0]), op.inputs[0], op.outputs[0],
                        **_attrs(op, "depth_radius", "bias", "alpha", "beta"))]
