"""Maximum pooling that tells where the maxima stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.pooling import Pooling, check_spatial, first_maximum, pooled_shape
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.windows import Placement

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["max_pool_with_argmax"]

Run = Callable[..., Any]


def _attrs_of(node: Node) -> Pooling:
    """Return a node's attrs; a window over channels is checked and then not looked at, as TensorFlow does it."""
    attrs = Pooling.of(node)
    return attrs if attrs.depth_window == 1 else Pooling(attrs.layout, attrs.window, attrs.strides, 1, attrs.padding,
                                                         attrs.explicit)


def _shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = pooled_shape(_attrs_of(node), shapes[0])
    return [shape, shape]


@kernel("MaxPoolWithArgmax", shape=_shape)
def max_pool_with_argmax(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp
    index_type = to_numpy(node.attr("Targmax"))
    with_batch = node.attr("include_batch_in_index")

    def run(image: Any) -> Any:
        if image.ndim != 4:
            raise InvalidArgument("tensor_in must be 4-dimensional (2)")
        if not image.size:
            raise InvalidArgument("tensor_in must not be empty (2)")
        places = attrs.places(image.shape[1:-1])
        shape = (image.shape[0], *(item.count for item in places), image.shape[-1])
        if not prod(shape):
            return xp.empty(shape, image.dtype), xp.empty(shape, index_type)
        best, winner = first_maximum(xp, image, places)
        return best, _flat(xp, winner, places, image.shape, with_batch).astype(index_type)

    return run


def _flat(xp: Any, winner: Any, places: Sequence[Placement], shape: Sequence[int], with_batch: bool) -> Any:
    """Return the flat positions in an image, or in the batch, of cells that are given by their number in a window."""
    down, across = places
    row = winner // across.axis.window + (xp.arange(down.count) * down.axis.stride - down.before)[:, None, None]
    column = winner % across.axis.window + (xp.arange(across.count) * across.axis.stride - across.before)[:, None]
    result = (row * shape[2] + column) * shape[3] + xp.arange(shape[3])
    if with_batch:
        result = result + (xp.arange(shape[0]) * prod(shape[1:]))[:, None, None, None]
    return result


@kernel("MaxPoolGradWithArgmax", shape=like_input())
def max_pool_grad_with_argmax(node: Node, env: KernelEnv) -> Run:
    attrs, xp = _attrs_of(node), env.xp
    with_batch = node.attr("include_batch_in_index")

    def run(image: Any, gradient: Any, argmax: Any) -> Any:
        check_spatial(image, attrs)
        expected = attrs.output_shape(image.shape)
        for name, array in (("grad", gradient), ("argmax", argmax)):
            if array.shape != expected:
                raise InvalidArgument(f"Expected {name} shape to be {format_shape(expected)}, but got "
                                      f"{format_shape(array.shape)}")
        result = xp.zeros(image.size, gradient.dtype)
        if gradient.size:
            places = argmax.astype(xp.int64, copy=False)
            if not with_batch:
                places = places + (xp.arange(image.shape[0]) * prod(image.shape[1:]))[:, None, None, None]
            low, high = int(places.min()), int(places.max())
            if low < 0 or high >= image.size:
                raise InvalidArgument(f"Invalid output gradient index: {low if low < 0 else high}, 0, {image.size}")
            xp.add.at(result, places.reshape(-1), gradient.reshape(-1))
        return result.reshape(image.shape)

    return run
