"""Pooling of volumes, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.ops.pooling import Pooling, average, average_gradient, check_gradients, maximum, pooled_shape, taken_at
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.windows import all_offsets, padded, slices

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["max_pool_3d"]

Run = Callable[..., Any]


def _attrs_of(node: Node, op: str = "Pooling") -> Pooling:
    """Read and check a node's attrs; the texts are not those of images."""
    ksize, strides = node.attr("ksize"), node.attr("strides")
    channel = node.attr("data_format").index(b"C")
    if len(ksize) == 5 and len(strides) == 5:
        if min(ksize) <= 0:
            raise InvalidArgument("Sliding window ksize field must have non-negative dimensions")
        if ksize[0] != 1 or strides[0] != 1:
            raise Unimplemented("Pooling is not yet supported on the batch dimension.")
        if ksize[channel] != 1 or strides[channel] != 1:
            raise Unimplemented(f"{op} is not yet supported on the depth dimension.")
    return Pooling.with_sizes(node, ksize, strides)


def _shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [pooled_shape(_attrs_of(node), shapes[0])]


def _check_rank(volume: Any) -> None:
    if volume.ndim != 5:
        raise InvalidArgument("tensor_in must be 5-dimensional")


@kernel("MaxPool3D", shape=_shape)
def max_pool_3d(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp

    def run(volume: Any) -> Any:
        _check_rank(volume)
        return attrs.layout.back(maximum(xp, attrs.layout.last(volume), attrs))

    return run


@kernel("MaxPool3DGrad", shape=like_input())
def max_pool_3d_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp

    def run(volume: Any, output: Any, gradient: Any) -> Any:
        check_gradients(volume, output, gradient, attrs)
        layout = attrs.layout
        return layout.back(_shared(xp, layout.last(volume), layout.last(output), layout.last(gradient), attrs))

    return run


def _shared(xp: Any, volume: Any, output: Any, gradient: Any, attrs: Pooling) -> Any:
    """Give each window's gradient to every cell that equals its output."""
    places = attrs.places(volume.shape[1:-1])
    whole = padded(xp, volume, places, volume.dtype.type(0))
    result = xp.zeros(whole.shape, gradient.dtype)
    if gradient.size:
        for offsets in all_offsets(places):
            cell = slices(places, offsets)
            xp.add(result[cell], gradient, out=result[cell], where=whole[cell] == output)
    return result[(slice(None), *(slice(item.before, item.before + item.size) for item in places))]


@kernel("MaxPool3DGradGrad", shape=_shape)
def max_pool_3d_grad_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node, "MaxPooling3dGradGrad"), env.xp

    def run(volume: Any, output: Any, gradient: Any) -> Any:
        check_gradients(volume, output, gradient, attrs, of_input=True)
        layout = attrs.layout
        return layout.back(taken_at(xp, layout.last(volume), layout.last(output), layout.last(gradient), attrs))

    return run


@kernel("AvgPool3D", shape=_shape)
def avg_pool_3d(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp

    def run(volume: Any) -> Any:
        _check_rank(volume)
        return average(xp, volume, attrs)

    return run


def _unknown(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 5]


@kernel("AvgPool3DGrad", shape=_unknown, host=(0,))
def avg_pool_3d_grad(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp

    def run(input_shape: Any, gradient: Any) -> Any:
        if input_shape.shape != (5,):
            raise InvalidArgument("tensor_in must be 1-dimensional and 5 elements")
        if gradient.ndim != 5:
            raise InvalidArgument("out_backprop must be 5-dimensional")
        shape = tuple(int(size) for size in input_shape.tolist())
        if min(shape) < 0:
            raise InvalidArgument(f"Expected a non-negative size, got {next(size for size in shape if size < 0)}")
        if shape[0] != gradient.shape[0]:
            raise InvalidArgument("Expected first dimension of tensor_in_shape and out_backprop to match, got "
                                  f"{shape[0]} and {gradient.shape[0]}")
        expected = attrs.output_shape(shape)
        if gradient.shape != expected:
            raise InvalidArgument(f"Expected grad shape to be {format_shape(expected)}, but got "
                                  f"{format_shape(gradient.shape)}")
        return average_gradient(xp, shape, gradient, attrs)

    return run
