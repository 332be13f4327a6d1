"""Images of another size: nearest, bilinear, bicubic, by area, by a kernel, and parts of images; with gradients.

Images have the shape (batch, height, width, channels). Each dimension is resampled by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import image_crops
from runtime._ext.errors import InvalidArgument, OutOfRange, ResourceExhausted
from runtime.dtypes import base, to_numpy
from runtime.ops import resampling
from runtime.ops.registry import Shape, kernel
from runtime.ops.resampling import Taps
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_BYTES_PER_PLACE = 256
"""What the samples of one row or column of a result may take while they are found."""


def _resized_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    return [None if shape is None or len(shape) != 4 else (shape[0], None, None, shape[3])]


def _check_options(align_corners: bool, half_pixel: bool) -> None:
    if align_corners and half_pixel:
        raise InvalidArgument("If half_pixel_centers is True, align_corners must be False.")


def _check_images(images: Any, size: Any) -> tuple[int, int]:
    """Return the height and width that are asked for."""
    if images.ndim != 4:
        raise InvalidArgument(f"input must be 4-dimensional{format_shape(images.shape)}")
    if size.ndim != 1:
        raise InvalidArgument(f"shape_t must be 1-dimensional{format_shape(size.shape)}")
    if size.shape[0] != 2:
        raise InvalidArgument(f"shape_t must have two elements{format_shape(size.shape)}")
    height, width = size.tolist()
    if height <= 0 or width <= 0:
        raise InvalidArgument("output dimensions must be positive")
    if images.shape[1] <= 0 or images.shape[2] <= 0:
        raise InvalidArgument("input image must be of non-zero size")
    reserve(images.shape[0], height, width, images.shape[3])
    return height, width


def reserve(count: int, height: int, width: int, channels: int) -> None:
    """Fail at once where a result is asked for that no memory holds: nothing is touched yet."""
    needed = 4 * count * height * width * channels
    if needed > sys.maxsize:
        raise ResourceExhausted(f"out of memory: {count} images of {height} times {width} pixels need {needed} bytes")
    np.empty(needed, np.uint8)
    np.empty((height + width, _BYTES_PER_PLACE), np.uint8)


_METHODS: dict[str, Callable[[int, int, bool, bool], Taps]] = {
    "ResizeBilinear": resampling.bilinear,
    "ResizeBicubic": resampling.bicubic,
    "ResizeArea": lambda size, count, align_corners, half_pixel: resampling.box(size, count, align_corners),
}


@kernel(*_METHODS, shape=_resized_shape, host=(1,))
def _resize(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    method = _METHODS[node.op]
    align_corners = bool(node.attr("align_corners"))
    half_pixel = node.op != "ResizeArea" and bool(node.attr("half_pixel_centers"))
    _check_options(align_corners, half_pixel)

    def run(images: Any, size: Any) -> Any:
        height, width = _check_images(images, size)
        rows = method(images.shape[1], height, align_corners, half_pixel)
        columns = method(images.shape[2], width, align_corners, half_pixel)
        return resampling.resample(xp, images.astype(xp.float32, copy=False), rows, columns)

    return run


@kernel("ResizeNearestNeighbor", shape=_resized_shape, host=(1,))
def _resize_nearest(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    align_corners, half_pixel = bool(node.attr("align_corners")), bool(node.attr("half_pixel_centers"))
    _check_options(align_corners, half_pixel)

    def run(images: Any, size: Any) -> Any:
        height, width = _check_images(images, size)
        rows = resampling.nearest(images.shape[1], height, align_corners, half_pixel)
        columns = resampling.nearest(images.shape[2], width, align_corners, half_pixel)
        return xp.take(xp.take(images, xp.asarray(rows), 1), xp.asarray(columns), 2)

    return run


@kernel("ResizeNearestNeighborGrad", shape=_resized_shape, host=(1,))
def _resize_nearest_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    align_corners, half_pixel = bool(node.attr("align_corners")), bool(node.attr("half_pixel_centers"))
    _check_options(align_corners, half_pixel)

    def run(grads: Any, size: Any) -> Any:
        if grads.ndim != 4:
            raise InvalidArgument(f"input must be 4-dimensional{format_shape(grads.shape)}")
        if size.shape != (2,):
            raise InvalidArgument(f"shape_t must have two elements{format_shape(size.shape)}")
        height, width = size.tolist()
        if height <= 0 or width <= 0:
            raise InvalidArgument("output dimensions must be positive")
        reserve(grads.shape[0], height, width, grads.shape[3])
        batch, rows, columns, channels = grads.shape
        if grads.size == 0:
            return xp.zeros((batch, height, width, channels), grads.dtype)
        taps = [Taps(resampling.nearest(count, cells, align_corners, half_pixel)[None],
                     np.ones((1, cells), np.float32), count) for count, cells in ((height, rows), (width, columns))]
        return resampling.spread(xp, grads, *taps)

    return run


def _original_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    grads, original = shapes[0], shapes[1]
    if grads is None or original is None or len(grads) != 4 or len(original) != 4:
        return [None]
    return [(grads[0], original[1], original[2], grads[3])]


@kernel("ResizeBilinearGrad", "ResizeBicubicGrad", shape=_original_shape)
def _resize_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    method = _METHODS[node.op.removesuffix("Grad")]
    dtype = to_numpy(base(node.output_types[0]))
    align_corners, half_pixel = bool(node.attr("align_corners")), bool(node.attr("half_pixel_centers"))
    _check_options(align_corners, half_pixel)

    def run(grads: Any, original: Any) -> Any:
        for name, value in (("grads", grads), ("original_image", original)):
            if value.ndim != 4:
                raise InvalidArgument(f"{'input_grad' if name == 'grads' else name} must be 4-dimensional"
                                      f"{format_shape(value.shape)}")
        height, width = original.shape[1:3]
        if grads.size == 0 or height == 0 or width == 0:
            return xp.zeros((grads.shape[0], height, width, grads.shape[3]), dtype)
        value = grads.astype(xp.float64 if dtype == xp.float64 else xp.float32, copy=False)
        taps = [method(size, value.shape[axis], align_corners, half_pixel)
                for axis, size in ((1, height), (2, width))]
        return resampling.spread(xp, value, *taps).astype(dtype, copy=False)

    return run


# --- scaled and moved ------------------------------------------------------------------------------------------------


def _check_pairs(scale: Any, translation: Any) -> tuple[list[float], list[float]]:
    for name, value in (("scale", scale), ("translation", translation)):
        if value.shape != (2,):
            raise InvalidArgument(f"{name} must be a vector of two elements, got shape {format_shape(value.shape)}")
    if not bool((scale > 0).all()):
        raise InvalidArgument("Scale must be greater than zero.")
    return scale.tolist(), translation.tolist()


@kernel("ScaleAndTranslate", shape=_resized_shape, host=(1, 2, 3))
def _scale_and_translate(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    name, antialias = node.attr("kernel_type").decode(), bool(node.attr("antialias"))

    def run(images: Any, size: Any, scale: Any, translation: Any) -> Any:
        counts = _check_images(images, size)
        scales, moves = _check_pairs(scale, translation)
        rows, columns = (resampling.kernel_taps(name, images.shape[1 + i], counts[i], scales[i], moves[i], antialias)
                         for i in range(2))
        return resampling.resample(xp, images.astype(xp.float32, copy=False), rows, columns)

    return run


@kernel("ScaleAndTranslateGrad", shape=_original_shape, host=(2, 3))
def _scale_and_translate_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    name, antialias = node.attr("kernel_type").decode(), bool(node.attr("antialias"))

    def run(grads: Any, original: Any, scale: Any, translation: Any) -> Any:
        for what, value in (("input_grad", grads), ("original_image", original)):
            if value.ndim != 4:
                raise InvalidArgument(f"{what} must be 4-dimensional{format_shape(value.shape)}")
        scales, moves = _check_pairs(scale, translation)
        if grads.size == 0 or original.shape[1] == 0 or original.shape[2] == 0:
            return xp.zeros((grads.shape[0], *original.shape[1:3], grads.shape[3]), grads.dtype)
        taps = [resampling.kernel_taps(name, original.shape[axis], grads.shape[axis], scales[axis - 1],
                                       moves[axis - 1], antialias) for axis in (1, 2)]
        return resampling.spread(xp, grads, *taps)

    return run


# --- parts of images -------------------------------------------------------------------------------------------------


def _crops_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    images, boxes = shapes[0], shapes[1]
    return [(None if not boxes else boxes[0], None, None, None if images is None or len(images) != 4 else images[3])]


@kernel("CropAndResize", shape=_crops_shape, host=(1, 2, 3))
def _crop_and_resize(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    smooth = node.attr("method") == b"bilinear"
    outside_value = np.float32(node.attr("extrapolation_value"))

    def run(images: Any, boxes: Any, box_index: Any, crop_size: Any) -> Any:
        height, width = _check_crops(images, boxes, box_index, crop_size)
        count = box_index.shape[0]
        reserve(count, height, width, images.shape[3])
        rows, rows_inside = box_positions(boxes[:, 0], boxes[:, 2], height, images.shape[1])
        columns, columns_inside = box_positions(boxes[:, 1], boxes[:, 3], width, images.shape[2])
        value = images.astype(xp.float32, copy=False)
        if not count:
            return xp.zeros((0, height, width, images.shape[3]), xp.float32)
        if smooth:
            (top, bottom), down = neighbours(rows, images.shape[1])
            (left, right), across = neighbours(columns, images.shape[2])
        else:
            top = bottom = nearest_cells(rows, images.shape[1])
            left = right = nearest_cells(columns, images.shape[2])
            down, across = rows, columns
        if xp is np:
            return image_crops.crops(np.ascontiguousarray(value), box_index.astype(np.int64), top, bottom, down,
                                     rows_inside, left, right, across, columns_inside, float(outside_value), smooth)
        which = xp.asarray(box_index)[:, None, None]

        def cells(y: Any, x: Any) -> Any:
            return value[which, xp.asarray(y)[:, :, None], xp.asarray(x)[:, None, :]]

        if smooth:
            across, down = xp.asarray(across)[:, None, :, None], xp.asarray(down)[:, :, None, None]
            upper, lower = cells(top, left), cells(bottom, left)
            upper += (cells(top, right) - upper) * across
            lower += (cells(bottom, right) - lower) * across
            result = upper + (lower - upper) * down
        else:
            result = cells(top, left)
        inside = xp.asarray(rows_inside[:, :, None] & columns_inside[:, None, :])[..., None]
        return xp.where(inside, result, outside_value)

    return run


def _check_crops(images: Any, boxes: Any, box_index: Any, crop_size: Any) -> tuple[int, int]:
    if images.ndim != 4:
        raise InvalidArgument("input image must be 4-D")
    if images.shape[1] <= 0 or images.shape[2] <= 0:
        raise InvalidArgument("image dimensions must be positive")
    if crop_size.ndim != 1:
        raise InvalidArgument(f"crop_size must be 1-D{format_shape(crop_size.shape)}")
    if crop_size.shape[0] != 2:
        raise InvalidArgument(f"crop_size must have two elements {format_shape(crop_size.shape)}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidArgument(f"boxes must have 4 columns, got shape {format_shape(boxes.shape)}")
    if box_index.ndim != 1 or box_index.shape[0] != boxes.shape[0]:
        raise InvalidArgument("box_index has incompatible shape")
    height, width = crop_size.tolist()
    if height <= 0 or width <= 0:
        raise InvalidArgument("crop dimensions must be positive")
    if box_index.size and (int(box_index.min()) < 0 or int(box_index.max()) >= images.shape[0]):
        raise OutOfRange("box_index has values outside [0, batch_size)")
    return height, width


def box_positions(start: Any, end: Any, count: int, size: int, by_ratio: bool = False) -> tuple[Any, Any]:
    """Return the places of a dimension that crops sample, shape (boxes, count), and which lie in the image.

    The gradient by the boxes rounds the ratio of the sizes first, which decides whether a place at the border is in.
    """
    span = np.float32(size - 1)
    cells = np.arange(count, dtype=np.float32)
    if count > 1:
        last = np.float32(count - 1)
        step = (end - start) * (span / last) if by_ratio else (end - start) * span / last
        places = (start * span)[:, None] + cells * step[:, None]
    else:
        places = (np.float32(0.5) * (start + end) * span)[:, None]
    inside = (places >= 0) & (places <= span)
    return np.where(inside, places, np.float32(0)), inside


def neighbours(places: Any, size: int) -> tuple[tuple[Any, Any], Any]:
    floor = np.floor(places)
    lower = floor.astype(np.int64)
    return (lower, np.minimum(np.ceil(places).astype(np.int64), size - 1)), places - floor


def nearest_cells(places: Any, size: int) -> Any:
    return np.minimum(np.floor(places + np.float32(0.5)).astype(np.int64), size - 1)
