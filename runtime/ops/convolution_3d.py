"""Convolutions of volumes, by the arithmetic of those of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.convolution import (
    Convolution,
    computed,
    conv_shape,
    filter_gradient,
    forward,
    gradient_places,
    input_gradient,
)
from runtime.ops.registry import kernel

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.ops.windows import Placement
    from runtime.step.environment import KernelEnv

__all__ = ["conv3d"]

Run = Callable[..., Any]


def _attrs_of(node: Node) -> Convolution:
    """Read and check a node's attrs; the texts are not those of images."""
    channel = node.attr("data_format").index(b"C")
    for name, what in (("strides", "strides"), ("dilations", "dilation rates")):
        values = node.attr(name)
        if len(values) == 5 and (values[0] != 1 or values[channel] != 1):
            raise InvalidArgument(f"Current implementation does not yet support {what} in the batch and depth "
                                  "dimensions.")
    return Convolution.of(node)


def _shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return conv_shape(_attrs_of(node), shapes)


@kernel("Conv3D", shape=_shape)
def conv3d(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp

    def run(image: Any, weights: Any) -> Any:
        for name, array in (("input", image), ("filter", weights)):
            if array.ndim != 5:
                raise InvalidArgument(f"{name} must be 5-dimensional")
        if not weights.size:
            raise InvalidArgument("filter must not have zero elements (i.e. all dimensions must be non-zero)")
        channels, inner = image.shape[attrs.layout.channel], weights.shape[3]
        if channels % inner:
            raise InvalidArgument(f"Input depth must be evenly divisible by filter depth: {channels} vs {inner}")
        if channels != inner:
            raise InvalidArgument(f"Number of channels in filter ({inner}) must match last dimension of input "
                                  f"({channels})")
        last = attrs.layout.last(image)
        places = attrs.places(last.shape[1:-1], weights.shape[:3])
        result = forward(xp, computed(xp, last), computed(xp, weights), places, 1)
        return attrs.layout.back(result).astype(image.dtype, copy=False)

    return run


def _sizes(asked: Any, what: str) -> tuple[int, ...]:
    """Return the shape that an input of sizes gives."""
    sizes = tuple(int(size) for size in asked.tolist()) if asked.ndim == 1 else ()
    for size in sizes:
        if size < 0:
            raise InvalidArgument(f"Dimension {size} must be >= 0")
    if len(sizes) != 5:
        raise InvalidArgument(f"{what} tensor must have 5 dimensions")
    return sizes


def _places(attrs: Convolution, image: Sequence[int], weights: Sequence[int], gradient: Any,
            op: str) -> tuple[Placement, ...]:
    """Check the three shapes; return where the windows lie."""
    channel = attrs.layout.channel
    for name, shape in (("input", image), ("filter_sizes", weights), ("out_backprop", gradient.shape)):
        if len(shape) != 5:
            raise InvalidArgument(f"{name} tensor must have 5 dimensions")
    for name, count, expected in (("input", image[channel], weights[3]),
                                  ("out_backprop", gradient.shape[channel], weights[4])):
        if count != expected:
            raise InvalidArgument(f"{name} and filter_sizes must have the same number of channels. Got {count} for "
                                  f"{name} and {expected} for filter_sizes")
    return gradient_places(attrs, image, weights, gradient, op)


def _input_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 5]


@kernel("Conv3DBackpropInputV2", shape=_input_shape, host=(0,))
def conv3d_backprop_input(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp
    layout = attrs.layout

    def run(input_sizes: Any, weights: Any, gradient: Any) -> Any:
        shape = _sizes(input_sizes, "input")
        places = _places(attrs, shape, weights.shape, gradient, "Conv3DBackpropInputOp")
        last_shape = (shape[0], *layout.spatial_of(shape), shape[layout.channel])
        result = input_gradient(xp, last_shape, computed(xp, weights), computed(xp, layout.last(gradient)), places, 1)
        return layout.back(result).astype(gradient.dtype, copy=False)

    return run


@kernel("Conv3DBackpropFilterV2", shape=_input_shape, host=(1,))
def conv3d_backprop_filter(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp
    layout = attrs.layout

    def run(image: Any, filter_sizes: Any, gradient: Any) -> Any:
        shape = _sizes(filter_sizes, "filter_sizes")
        places = _places(attrs, image.shape, shape, gradient, "Conv3DBackpropFilterOp")
        result = filter_gradient(xp, computed(xp, layout.last(image)), shape, computed(xp, layout.last(gradient)),
                                 places, 1)
        return result.astype(gradient.dtype, copy=False)

    return run
