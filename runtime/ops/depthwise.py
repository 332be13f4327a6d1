"""Depthwise convolutions: each channel of an image has filters of its own.

A filter is (*window, in, multiplier); channel c of the image makes the channels c * multiplier + m of the output.
16-bit floats are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.convolution import Convolution, computed
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.windows import Placement, all_offsets, padded, slices, static_size

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["depthwise_conv2d"]

Run = Callable[..., Any]


def attrs_of(node: Node) -> Convolution:
    """Read and check a node's attrs."""
    strides = node.attr("strides")
    if len(strides) != 4:
        raise InvalidArgument("Sliding window strides field must specify 4 dimensions")
    if strides[0] != 1 or strides[node.attr("data_format").index(b"C")] != 1:
        raise InvalidArgument("Current implementation does not yet support strides in the batch and depth dimensions.")
    return Convolution.of(node)


def _shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    image, weights = shapes
    attrs = attrs_of(node)
    if (image is not None and len(image) != 4) or (weights is not None and len(weights) != 4):
        return [None]
    image = image or (None,) * 4
    weights = weights or (None,) * 4
    result: list[int | None] = [image[0]] * 4
    inner, multiplier = weights[2], weights[3]
    result[attrs.layout.channel] = None if inner is None or multiplier is None else inner * multiplier
    for place, axis in enumerate(attrs.layout.spatial):
        result[axis] = static_size(image[axis], weights[place], attrs.strides[place], attrs.dilations[place],
                                   attrs.padding, attrs.explicit[place])
    return [tuple(result)]


def _forward(xp: Any, image: Any, weights: Any, places: Sequence[Placement]) -> Any:
    """Return the convolution of a channels-last image, in its type."""
    counts = [item.count for item in places]
    result = xp.zeros((image.shape[0], *counts, *weights.shape[-2:]), image.dtype)
    if result.size:
        whole = padded(xp, image, places, image.dtype.type(0))
        for offsets in all_offsets(places):
            result += whole[slices(places, offsets)][..., None] * weights[offsets]
    return result.reshape(image.shape[0], *counts, weights.shape[-2] * weights.shape[-1])


def _input_gradient(xp: Any, shape: Sequence[int], weights: Any, gradient: Any, places: Sequence[Placement]) -> Any:
    """Return the gradient with respect to an image of a channels-last shape."""
    sizes = [item.before + item.size + item.after for item in places]
    whole = xp.zeros((shape[0], *sizes, shape[-1]), gradient.dtype)
    if gradient.size:
        split = gradient.reshape(*gradient.shape[:-1], *weights.shape[-2:])
        for offsets in all_offsets(places):
            whole[slices(places, offsets)] += (split * weights[offsets]).sum(-1)
    return whole[(slice(None), *(slice(item.before, item.before + item.size) for item in places))]


def _filter_gradient(xp: Any, image: Any, shape: Sequence[int], gradient: Any, places: Sequence[Placement]) -> Any:
    """Return the gradient with respect to a filter of the given shape."""
    result = xp.zeros(shape, gradient.dtype)
    if gradient.size and result.size:
        whole = padded(xp, image, places, image.dtype.type(0))
        split = gradient.reshape(*gradient.shape[:-1], *shape[-2:])
        for offsets in all_offsets(places):
            xp.einsum("nyxc,nyxcm->cm", whole[slices(places, offsets)], split, out=result[offsets])
    return result


@kernel("DepthwiseConv2dNative", shape=_shape)
def depthwise_conv2d(node: Node, env: KernelEnv) -> Run:
    attrs, xp = attrs_of(node), env.xp

    def run(image: Any, weights: Any) -> Any:
        if image.ndim != 4:
            raise InvalidArgument(f"input must be 4-dimensional{format_shape(image.shape)}")
        if weights.ndim != 4:
            raise InvalidArgument(f"filter must be 4-dimensional: {format_shape(weights.shape)}")
        depth = image.shape[attrs.layout.channel]
        if depth != weights.shape[2]:
            raise InvalidArgument(f"input and filter must have the same depth: {depth} vs {weights.shape[2]}")
        last = attrs.layout.last(image)
        places = attrs.places(last.shape[1:-1], weights.shape[:2])
        result = _forward(xp, computed(xp, last), computed(xp, weights), places)
        return attrs.layout.back(result).astype(image.dtype, copy=False)

    return run


def _sizes(asked: Any, op: str, what: str) -> tuple[int, ...]:
    """Return the shape that an input of sizes gives."""
    if asked.ndim != 1:
        raise InvalidArgument(f"Conv2D{op}: {what}_sizes input must be 1-dim, not {asked.ndim}")
    sizes = tuple(int(size) for size in asked.tolist())
    for axis, size in enumerate(sizes):
        if size < 0:
            raise InvalidArgument(f"Dimension {axis} of {what}_sizes must be >= 0")
    return sizes


def _gradient_places(attrs: Convolution, image: Sequence[int], weights: Sequence[int], gradient: Sequence[int],
                     op: str) -> tuple[Placement, ...]:
    """Check the three shapes; return where the windows lie."""
    layout = attrs.layout
    for name, shape in (("input", image), ("filter", weights), ("out_backprop", gradient)):
        if len(shape) != 4:
            raise InvalidArgument(f"DepthwiseConv2D{op}: {name} must be 4-dimensional")
    if image[0] != gradient[0]:
        raise InvalidArgument(f"DepthwiseConv2D{op}: input and out_backprop must have the same batch size")
    if image[layout.channel] != weights[2]:
        raise InvalidArgument(f"DepthwiseConv2D{op}: input and filter must have the same in_depth")
    if weights[2] * weights[3] != gradient[layout.channel]:
        raise InvalidArgument(f"DepthwiseConv2D{op}: depth_multiplier * in_depth not equal to out_depth")
    places = attrs.places(layout.spatial_of(image), weights[:2])
    for what, item, axis in zip(("rows", "cols"), places, layout.spatial, strict=True):
        if gradient[axis] != item.count:
            raise InvalidArgument(f"DepthwiseConv2D{op}: Number of {what} of out_backprop doesn't match computed: "
                                  f"actual = {gradient[axis]}, computed = {item.count}")
    return places


def _unknown(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 4]


@kernel("DepthwiseConv2dNativeBackpropInput", shape=_unknown, host=(0,))
def depthwise_conv2d_backprop_input(node: Node, env: KernelEnv) -> Run:
    attrs, xp = attrs_of(node), env.xp
    layout = attrs.layout

    def run(input_sizes: Any, weights: Any, gradient: Any) -> Any:
        shape = _sizes(input_sizes, "BackpropInput", "input")
        places = _gradient_places(attrs, shape, weights.shape, gradient.shape, "BackpropInput")
        last_shape = (shape[0], *layout.spatial_of(shape), shape[layout.channel])
        result = _input_gradient(xp, last_shape, computed(xp, weights), computed(xp, layout.last(gradient)), places)
        return layout.back(result).astype(gradient.dtype, copy=False)

    return run


@kernel("DepthwiseConv2dNativeBackpropFilter", shape=_unknown, host=(1,))
def depthwise_conv2d_backprop_filter(node: Node, env: KernelEnv) -> Run:
    attrs, xp = attrs_of(node), env.xp
    layout = attrs.layout

    def run(image: Any, filter_sizes: Any, gradient: Any) -> Any:
        shape = _sizes(filter_sizes, "BackpropFilter", "filter")
        places = _gradient_places(attrs, image.shape, shape, gradient.shape, "BackpropFilter")
        result = _filter_gradient(xp, computed(xp, layout.last(image)), shape, computed(xp, layout.last(gradient)),
                                  places)
        return result.astype(gradient.dtype, copy=False)

    return run
