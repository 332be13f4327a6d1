"""Partly known shapes that are values of a running step: those of tensor arrays, lists and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.ops.registry import Shape

__all__ = ["known", "matches", "merge", "shape_from_tensor"]


def matches(left: Shape, right: Shape) -> bool:
    """Tell whether two shapes may be the same: where both know a dimension, it is equal."""
    return left is None or right is None or left == right or (len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)))


def merge(left: Shape, right: Shape) -> Shape:
    """Return what two shapes that match know together.

    Raises
    ------
    InvalidArgument
        If they do not match.
    """
    if left is None or right is None:
        return right if left is None else left
    if not matches(left, right):
        if len(left) != len(right):
            raise InvalidArgument(f"PartialTensorShape: Incompatible ranks during merge: {len(left)} vs. {len(right)}")
        raise InvalidArgument("PartialTensorShape: Incompatible shapes during merge: "
                              f"{format_shape(left)} vs. {format_shape(right)}")
    return tuple(b if a is None else a for a, b in zip(left, right, strict=True))


def known(shape: Shape) -> tuple[int, ...] | None:
    """Return a shape in which every dimension is known, None for any other."""
    if shape is None:
        return None
    dims = tuple(dim for dim in shape if dim is not None)
    return dims if len(dims) == len(shape) else None


def shape_from_tensor(tensor: Any) -> Shape:
    """Return the shape that a tensor of integers spells: -1 for an unknown dimension, the scalar -1 for unknown rank.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    if not tensor.ndim:
        if int(tensor) != -1:
            raise InvalidArgument("The only valid scalar shape tensor is the fully unknown shape specified as -1.")
        return None
    if tensor.ndim != 1:
        raise InvalidArgument(f"Shape must be at most rank 1 but is rank {tensor.ndim}")
    dims = tensor.tolist()
    for dim in dims:
        if dim < -1:
            raise InvalidArgument(f"Dimension {dim} must be >= -1")
    return tuple(None if dim == -1 else dim for dim in dims)
