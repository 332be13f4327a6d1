"""Static shape functions that many ops share.

Each takes a node and its inputs' static shapes (see `runtime.ops.registry.Shape`) and returns one shape per output.
They know what attrs and input shapes tell; what depends on values is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime._ext.errors import InvalidArgument

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape, ShapeFn

__all__ = ["broadcast", "broadcast_shapes", "format_shape", "like_input", "scalar", "unknown"]


def broadcast_shapes(left: Shape, right: Shape) -> Shape:
    """Return the shape that two static shapes broadcast to.

    Raises
    ------
    InvalidArgument
        If known dimensions cannot be broadcast.
    """
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    padded_left = (1,) * (rank - len(left)) + left
    padded_right = (1,) * (rank - len(right)) + right
    result: list[int | None] = []
    for a, b in zip(padded_left, padded_right, strict=True):
        if a == 1:
            result.append(b)
        elif b == 1 or a == b:
            result.append(a)
        elif a is None or b is None:
            result.append(b if a is None else a)
        else:
            raise InvalidArgument(f"Incompatible shapes: {format_shape(left)} vs. {format_shape(right)}")
    return tuple(result)


def broadcast(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """All inputs broadcast together; every output has that shape."""
    result: Shape = ()
    for shape in shapes:
        result = broadcast_shapes(result, shape)
    return [result] * len(node.output_types)


def like_input(index: int = 0) -> ShapeFn:
    """Every output has the shape of one input."""

    def shape_fn(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
        return [shapes[index]] * len(node.output_types)

    return shape_fn


def scalar(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Every output is a scalar."""
    return [()] * len(node.output_types)


def unknown(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Nothing is known before the values are."""
    return [None] * len(node.output_types)


def format_shape(shape: Shape) -> str:
    """Return a shape as TensorFlow prints it: ``[2,3]``, ``[?,3]``, ``<unknown>``."""
    if shape is None:
        return "<unknown>"
    return "[" + ",".join("?" if dim is None else str(dim) for dim in shape) + "]"
