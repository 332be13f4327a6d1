"""Gradients of crops of images: by the images and by the boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import row_sums
from runtime._ext.errors import InvalidArgument, OutOfRange
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.resizing import box_positions, nearest_cells, neighbours, reserve
from runtime.ops.shapes import format_shape, unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]
Cells = tuple[tuple[Any, Any], Any, Any]
"""Lower and upper cell of each place of a crop, the distance from the lower, and whether the place is in the image."""


def _check(grads: Any, boxes: Any, box_index: Any, images: int) -> None:
    if grads.ndim != 4:
        raise InvalidArgument("grads image must be 4-D")
    if grads.shape[1] <= 0 or grads.shape[2] <= 0:
        raise InvalidArgument("grads dimensions must be positive")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidArgument(f"boxes must have 4 columns, got shape {format_shape(boxes.shape)}")
    if box_index.ndim != 1 or box_index.shape[0] != boxes.shape[0]:
        raise InvalidArgument("box_index has incompatible shape")
    if grads.shape[0] != boxes.shape[0]:
        raise InvalidArgument("boxes and grads have incompatible shape")
    if box_index.size and (int(box_index.min()) < 0 or int(box_index.max()) >= images):
        raise OutOfRange("box_index has values outside [0, batch_size)")


def _cells(boxes: Any, axis: int, count: int, size: int, by_ratio: bool = False) -> Cells:
    places, inside = box_positions(boxes[:, axis], boxes[:, axis + 2], count, size, by_ratio)
    pair, distance = neighbours(places, size)
    return pair, distance, inside


@kernel("CropAndResizeGradImage", shape=unknown, host=(0, 1, 2, 3))
def _by_images(node: Node, env: KernelEnv) -> Run:
    dtype = to_numpy(base(node.output_types[0]))
    smooth = node.attr("method") == b"bilinear"

    def run(grads: Any, boxes: Any, box_index: Any, image_size: Any) -> Any:
        if image_size.ndim != 1:
            raise InvalidArgument("image_size must be 1-D")
        if image_size.shape[0] != 4:
            raise InvalidArgument("image_size must have 4 elements")
        batch, height, width, depth = (int(size) for size in image_size)
        if min(batch, height, width, depth) <= 0:
            raise InvalidArgument("image dimensions must be positive")
        _check(grads, boxes, box_index, batch)
        if grads.shape[3] != depth:
            raise InvalidArgument("image_size and grads are incompatible")
        reserve(batch, height, width, depth)
        result = np.zeros((batch * height * width, depth), np.float64 if dtype == np.float64 else np.float32)
        count, rows, columns = grads.shape[:3]
        if count:
            down = _taps(boxes, 0, rows, height, smooth)
            across = _taps(boxes, 1, columns, width, smooth)
            sources = np.arange(count * rows * columns).reshape(count, rows, columns)
            values = np.require(grads, result.dtype, ("C", "A")).reshape(-1, depth)
            for row, row_weight in down:
                for column, column_weight in across:
                    weights = (row_weight[:, :, None] * column_weight[:, None, :]).astype(result.dtype)
                    targets = (box_index.astype(np.int64)[:, None, None] * height + row[:, :, None]) * width
                    targets = targets + column[:, None, :]
                    used = weights != 0
                    row_sums.add_rows(result, targets[used], values, sources[used], weights[used])
        return env.xp.asarray(result.reshape(batch, height, width, depth).astype(dtype, copy=False))

    return run


def _taps(boxes: Any, axis: int, count: int, size: int, smooth: bool) -> list[tuple[Any, Any]]:
    """Return the cells that places of crops are made of and their weights, (boxes, count) each; 0 outside the image."""
    if not smooth:
        places, inside = box_positions(boxes[:, axis], boxes[:, axis + 2], count, size)
        return [(nearest_cells(places, size), inside.astype(np.float32))]
    (lower, upper), distance, inside = _cells(boxes, axis, count, size)
    return [(lower, (1 - distance) * inside), (upper, distance * inside)]


def _boxes_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[2] is None or len(shapes[2]) != 2 else (shapes[2][0], 4)]


@kernel("CropAndResizeGradBoxes", shape=_boxes_shape, host=(0, 1, 2, 3))
def _by_boxes(node: Node, env: KernelEnv) -> Run:
    def run(grads: Any, images: Any, boxes: Any, box_index: Any) -> Any:
        if images.ndim != 4:
            raise InvalidArgument("input image must be 4-D")
        if images.shape[1] <= 0 or images.shape[2] <= 0:
            raise InvalidArgument("image dimensions must be positive")
        _check(grads, boxes, box_index, images.shape[0])
        if grads.shape[3] != images.shape[3]:
            raise InvalidArgument("image, grads depth differ")
        count, rows, columns = grads.shape[:3]
        result = np.zeros((count, 4), np.float32)
        if count:
            (top, bottom), down, row_inside = _cells(boxes, 0, rows, images.shape[1], by_ratio=True)
            (left, right), across, column_inside = _cells(boxes, 1, columns, images.shape[2], by_ratio=True)
            value, which = images.astype(np.float32, copy=False), box_index[:, None, None]

            def cells(y: Any, x: Any) -> Any:
                return value[which, y[:, :, None], x[:, None, :]]

            upper, lower = (cells(top, left), cells(top, right)), (cells(bottom, left), cells(bottom, right))
            inside = grads * (row_inside[:, :, None] & column_inside[:, None, :])[..., None]
            x, y = across[:, None, :, None], down[:, :, None, None]
            by_row = ((1 - x) * (lower[0] - upper[0]) + x * (lower[1] - upper[1])) * inside
            by_column = ((1 - y) * (upper[1] - upper[0]) + y * (lower[1] - lower[0])) * inside
            for axis, part, cell_count in ((0, by_row.sum((2, 3)), rows), (1, by_column.sum((1, 3)), columns)):
                near, far = _shares(cell_count, images.shape[1 + axis])
                result[:, axis] = (part * near).sum(1)
                result[:, axis + 2] = (part * far).sum(1)
        return env.xp.asarray(result)

    return run


def _shares(count: int, size: int) -> tuple[Any, Any]:
    """Return how far the places of a crop move with each end of its box."""
    span = np.float32(size - 1)
    if count == 1:
        return span / 2, span / 2
    far = np.arange(count, dtype=np.float32) * (span / np.float32(count - 1))
    return span - far, far
