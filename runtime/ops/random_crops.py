"""Random parts of images: the very ones that TensorFlow chooses for the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import FailedPrecondition, InvalidArgument
from runtime.ops.candidate_sampling import Words
from runtime.ops.random import stream_of
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_F = np.float32
_INT32_MAX = 2**31 - 1


def _crop_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    image = shapes[0]
    return [(None, None, None if image is None or len(image) != 3 else image[2])]


@kernel("RandomCrop", shape=_crop_shape, host=(1,))
def _random_crop(node: Node, env: KernelEnv) -> Callable[..., Any]:
    stream = stream_of(node, env)

    def run(image: Any, size: Any) -> Any:
        if image.ndim != 3:
            raise InvalidArgument(f"input must be 3-dimensional{format_shape(image.shape)}")
        if size.ndim != 1:
            raise InvalidArgument(f"shape_t must be 1-dimensional{format_shape(size.shape)}")
        if size.shape[0] != 2:
            raise InvalidArgument(f"shape_t must have two elements{format_shape(size.shape)}")
        height, width = size.tolist()
        if height < 0 or width < 0:
            raise InvalidArgument(f"size must not be negative, got {format_shape((height, width))}")
        for name, have, wanted in (("width", image.shape[1], width), ("height", image.shape[0], height)):
            if have < wanted:
                raise FailedPrecondition(f"{name} must be >= target_{name}: {name} = {have}, target_{name} = {wanted}")
        words = Words(stream.reserve(1))
        left = int(words.take(1)[0]) % (image.shape[1] - width + 1) if image.shape[1] > width else 0
        top = int(words.take(1)[0]) % (image.shape[0] - height + 1) if image.shape[0] > height else 0
        return image[top:top + height, left:left + width]

    return run


@dataclass(frozen=True, slots=True)
class _Box:
    """A box of whole pixels; the ends are not part of it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> Any:
        return _F((self.right - self.left) * (self.bottom - self.top))

    def shared(self, other: _Box) -> Any:
        """Return the area that two boxes share."""
        left, right = max(self.left, other.left), min(self.right, other.right)
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        return _Box(left, top, right, bottom).area if left <= right and top <= bottom else _F(0)


def _covers(crop: _Box, boxes: Sequence[_Box], least: Any) -> bool:
    """Tell whether a crop shows enough of some box; boxes of less than a pixel do not count."""
    if crop.area < 1:
        return False
    return any(box.area >= 1 and crop.shared(box) / box.area >= least for box in boxes)


def _round(value: Any) -> int:
    return int(np.rint(_F(value)))


def _draw_crop(words: Words, width: int, height: int, areas: tuple[Any, Any], aspect: Any) -> _Box | None:
    """Return a random box of a shape, or None when none of the drawn size fits.

    The arithmetic is that of the op, in float32: other roundings would choose other boxes.
    """
    if width <= 0 or height <= 0 or areas[0] > areas[1]:
        return None
    least, most = (_F(_F(part * _F(width)) * _F(height)) for part in areas)
    rows, most_rows = (_round(np.sqrt(_F(area / aspect))) for area in (least, most))
    if _round(_F(most_rows) * aspect) > width:
        most_rows = int((width + 0.5 - float(_F(1e-7))) / float(aspect))
        if _round(_F(most_rows) * aspect) > width:
            most_rows -= 1
    most_rows = min(most_rows, height)
    rows = min(rows, most_rows)
    if rows < most_rows:
        rows += int(words.below(most_rows - rows + 1, 1, 32)[0])
    columns = _round(_F(rows) * aspect)
    if _F(columns * rows) < least:
        rows += 1
        columns = _round(_F(rows) * aspect)
    if _F(columns * rows) > most:
        rows -= 1
        columns = _round(_F(rows) * aspect)
    if not least <= _F(columns * rows) <= most or not 0 < columns <= width or not 0 < rows <= height:
        return None
    top = int(words.below(height - rows, 1, 32)[0]) if rows < height else 0
    left = int(words.below(width - columns, 1, 32)[0]) if columns < width else 0
    return _Box(left, top, left + columns, top + rows)


def _sample_shapes(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(3,), (3,), (1, 1, 4)]


def _range_attr(node: Node, name: str, label: str) -> tuple[Any, Any]:
    values = [_F(value) for value in node.attr(name)]
    if len(values) != 2:
        raise InvalidArgument(f"{label} range field must specify 2 dimensions")
    if not (values[0] > 0 and values[1] > 0):
        raise InvalidArgument(f"{label} range must be non-negative: [{values[0]:g}, {values[1]:g}]")
    return values[0], values[1]


@kernel("SampleDistortedBoundingBoxV2", shape=_sample_shapes, host=(0, 1, 2), needs_step=True)
def _sample_distorted_bounding_box(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    low, high = _range_attr(node, "aspect_ratio_range", "Aspect ratio")
    areas = _range_attr(node, "area_range", "Area")
    if max(areas) > 1:
        raise InvalidArgument(f"Area range must be less then or equal to 1.0: [{areas[0]:g}, {areas[1]:g}]")
    attempts = int(node.attr("max_attempts"))
    if attempts <= 0:
        raise InvalidArgument(f"Max attempts must be non-negative: {attempts}")
    whole_image = bool(node.attr("use_image_if_no_bounding_boxes"))
    stream = stream_of(node, env)

    def run(step: StepContext, image_size: Any, bounding_boxes: Any, min_object_covered: Any) -> Any:
        height, width = _checked_size(image_size)
        least = _checked_boxes(bounding_boxes, min_object_covered)
        image = _Box(0, 0, width, height)
        boxes = [_Box(*corners) for corners in _pixels(bounding_boxes, height, width)]
        if not boxes:
            if not whole_image:
                raise InvalidArgument("No bounding boxes provided as input. One must enable "
                                      "use_image_if_no_bounding_boxes if you wish to not provide any bounding boxes.")
            boxes.append(image)
        words = Words(stream.reserve(attempts))
        chosen = image
        for _ in range(attempts):
            step.check()
            share = _F(int(words.take(1)[0]) & 0x7FFFFF) * _F(2.0**-23)
            crop = _draw_crop(words, width, height, areas, _F(share * (high - low)) + low)
            if crop is not None and _covers(crop, boxes, least):
                chosen = crop
                break
        begin = np.array([chosen.top, chosen.left, 0]).astype(image_size.dtype)
        size = np.array([chosen.bottom - chosen.top, chosen.right - chosen.left, -1]).astype(image_size.dtype)
        edges = np.array([chosen.top, chosen.left, chosen.bottom, chosen.right], _F)
        edges /= np.array([height, width] * 2, _F)
        return xp.asarray(begin), xp.asarray(size), xp.asarray(edges.reshape(1, 1, 4))

    return run


def _checked_size(image_size: Any) -> tuple[int, int]:
    if image_size.ndim != 1:
        raise InvalidArgument(f"image_size must be 1-dimensional{format_shape(image_size.shape)}")
    if image_size.shape[0] != 3:
        raise InvalidArgument(f"image_size must contain 3 elements{format_shape(image_size.shape)}")
    height, width = image_size.tolist()[:2]
    for name, value in (("height", height), ("width", width)):
        if not 0 <= value < _INT32_MAX:
            raise InvalidArgument(f"image {name} cannot be >= int32 max")
    return height, width


def _checked_boxes(boxes: Any, min_object_covered: Any) -> Any:
    """Return the least share of a box that a crop must show."""
    if boxes.ndim != 3:
        raise InvalidArgument("input boxes must be 3-dimensional [batch, num_boxes, coords]: "
                              f"{format_shape(boxes.shape)}")
    if boxes.shape[2] != 4:
        raise InvalidArgument(f"bounding boxes must have shape [4] or [*, 4], got {format_shape(boxes.shape)}")
    if min_object_covered.ndim:
        raise InvalidArgument(f"min_object_covered must be 0-D, got shape {format_shape(min_object_covered.shape)}")
    if not min_object_covered >= 0:
        raise InvalidArgument(f"Min object covered must be non-negative: {float(min_object_covered):g}")
    wrong = ~((boxes >= 0) & (boxes <= 1))
    if wrong.any():
        raise InvalidArgument(f"All bounding box coordinates must be in [0.0, 1.0]: {float(boxes[wrong][0]):g}")
    return min_object_covered[()]


def _pixels(boxes: Any, height: int, width: int) -> Any:
    """Return left, top, right and bottom of each box."""
    scaled = (boxes.reshape(-1, 4) * np.array([height, width] * 2, _F)).astype(np.int64)
    return scaled[:, [1, 0, 3, 2]].tolist()
