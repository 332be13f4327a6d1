"""Functions of two arrays that broadcast, with TensorFlow's text when the shapes do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runtime._ext.errors import Error, Internal, InvalidArgument
from runtime.ops.shapes import broadcast_shapes, format_shape

__all__ = ["broadcasting", "broadcasts", "incompatible", "with_nonzero_divisor"]

Binary = Callable[[Any, Any], Any]


def incompatible(left: Sequence[int], right: Sequence[int]) -> InvalidArgument:
    """Return the error for two shapes that do not broadcast."""
    return InvalidArgument(f"Incompatible shapes: {format_shape(tuple(left))} vs. {format_shape(tuple(right))}")


def broadcasts(left: Sequence[int], right: Sequence[int]) -> bool:
    """Tell whether two full shapes broadcast together."""
    return all(a == b or a == 1 or b == 1 for a, b in zip(reversed(left), reversed(right), strict=False))


def broadcasting(function: Binary) -> Binary:
    """Return `function` with its complaint about shapes put into TensorFlow's words.

    The shapes are only looked at when the function failed, so that the usual call costs one frame more.
    """

    def run(x: Any, y: Any) -> Any:
        try:
            return function(x, y)
        except ValueError:
            if broadcasts(x.shape, y.shape):
                raise
            raise incompatible(x.shape, y.shape) from None

    return run


def with_nonzero_divisor(function: Binary, op: str) -> Binary:
    """Return an integer division that refuses a zero divisor, unless the result has no elements anyway."""
    # TensorFlow's kernels of the truncating ops do not foresee the error that they meet.
    error: Error = InvalidArgument("Integer division by zero")
    if op in ("TruncateDiv", "TruncateMod"):
        error = Internal("Unexpected error in binary operator (only integer div and mod should have errors)")

    def run(x: Any, y: Any) -> Any:
        if not y.all():
            shape = broadcast_shapes(x.shape, y.shape)
            if shape is not None and 0 not in shape:
                raise type(error)(error.message)
        return function(x, y)

    return run
