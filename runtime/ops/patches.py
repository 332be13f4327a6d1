"""Patches of images as channels, and grey-scale dilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape
from runtime.ops.windows import Axis, padded, place, slices

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


def _across_space(node: Node, name: str) -> tuple[int, int]:
    """Return the two entries of an attr that belong to the height and the width."""
    values: list[int] = node.attr(name)
    if len(values) != 4:
        raise InvalidArgument(f"Sliding window {name} field must specify 4 dimensions")
    if values[0] != 1 or values[3] != 1:
        raise Unimplemented(f"Only support {name} across space.")
    if values[1] < 1 or values[2] < 1:
        raise InvalidArgument(f"Sliding window {name} field must be positive, got {values}")
    return values[1], values[2]


def _patches_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None or len(shape) != 4 or len(node.attr("ksizes")) != 4:
        return [None]
    rows, columns = node.attr("ksizes")[1:3]
    return [(shape[0], None, None, None if shape[3] is None else shape[3] * rows * columns)]


@kernel("ExtractImagePatches", shape=_patches_shape)
def _extract_image_patches(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    sizes, strides, rates = (_across_space(node, name) for name in ("ksizes", "strides", "rates"))
    padding = node.attr("padding")

    def run(images: Any) -> Any:
        if images.ndim != 4:
            raise InvalidArgument(f"input must be 4-dimensional{format_shape(images.shape)}")
        places = [place(length, Axis(*parts), padding)
                  for length, *parts in zip(images.shape[1:3], sizes, strides, rates, strict=True)]
        batch, depth = images.shape[0], images.shape[3]
        result = xp.empty((batch, *(item.count for item in places), *sizes, depth), images.dtype)
        cells = padded(xp, images, places, 0)
        for row in range(sizes[0]):
            for column in range(sizes[1]):
                result[:, :, :, row, column] = cells[slices(places, (row, column))]
        return result.reshape(*result.shape[:3], -1 if result.size else sizes[0] * sizes[1] * depth)

    return run


def _dilation_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    return [None if shape is None or len(shape) != 4 else (shape[0], None, None, shape[3])]


@kernel("Dilation2D", shape=_dilation_shape)
def _dilation(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    strides, rates = (_across_space(node, name) for name in ("strides", "rates"))
    padding = node.attr("padding")

    def run(images: Any, filters: Any) -> Any:
        if images.ndim != 4:
            raise InvalidArgument(f"input must be 4-dimensional: {format_shape(images.shape)}")
        if filters.ndim != 3:
            raise InvalidArgument(f"filter must be 3-dimensional: {format_shape(filters.shape)}")
        if images.shape[3] != filters.shape[2]:
            raise InvalidArgument(f"input and filter must have the same depth: {images.shape[3]} vs "
                                  f"{filters.shape[2]}")
        places = [place(length, Axis(*parts), padding)
                  for length, *parts in zip(images.shape[1:3], filters.shape[:2], strides, rates, strict=True)]
        dtype = images.dtype
        lowest = (np.iinfo if dtype.kind in "iu" else ml_dtypes.finfo)(dtype).min
        result = xp.full((images.shape[0], *(item.count for item in places), images.shape[3]), lowest, dtype)
        if not result.size:
            return result
        # Cells outside the image do not take part: a mask beside the image says which those are.
        cells = padded(xp, images, places, 0)
        there = padded(xp, xp.ones((1, *images.shape[1:3], 1), bool), places, False)
        for row in range(filters.shape[0]):
            for column in range(filters.shape[1]):
                index = slices(places, (row, column))
                higher = cells[index] + filters[row, column]
                xp.copyto(result, higher, where=there[index] & (higher > result))
        return result

    return run
