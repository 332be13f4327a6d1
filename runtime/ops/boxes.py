"""Boxes in images: choosing those that do not overlap, drawing them, and looking at parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import pixels
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Array = np.ndarray[Any, Any]

_BOXES_AT_ONCE = 1024

# --- boxes that overlap little ---------------------------------------------------------------------------------------


class _Overlaps:
    """Areas shared by boxes, over those covered by either; corners may be given in any order."""

    def __init__(self, boxes: Array) -> None:
        self._top, self._bottom = np.minimum(boxes[:, 0], boxes[:, 2]), np.maximum(boxes[:, 0], boxes[:, 2])
        self._left, self._right = np.minimum(boxes[:, 1], boxes[:, 3]), np.maximum(boxes[:, 1], boxes[:, 3])
        self._area = (self._bottom - self._top) * (self._right - self._left)

    def table(self) -> Array:
        """Return top, left, bottom, right and area of every box."""
        return np.stack((self._top, self._left, self._bottom, self._right, self._area), axis=1)

    def __call__(self, one: int, others: Array) -> Array:
        zero = self._area.dtype.type(0)
        height = np.minimum(self._bottom[one], self._bottom[others]) - np.maximum(self._top[one], self._top[others])
        width = np.minimum(self._right[one], self._right[others]) - np.maximum(self._left[one], self._left[others])
        shared = np.maximum(height, zero) * np.maximum(width, zero)
        empty = (self._area[one] <= 0) | (self._area[others] <= 0)
        return np.asarray(np.where(empty, zero, shared / (self._area[one] + self._area[others] - shared)))


def _candidates(scores: Array, least_score: float) -> Array:
    """Return the boxes that take part, best first; among equals the first comes first."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return order[scores[order] > least_score]


def suppress_boxes(boxes: _Overlaps, scores: Array, limit: int, threshold: float, least_score: float,
                   check: Callable[[], Any]) -> Array:
    """Return what `suppress` does, for boxes of float32; `check` is called now and then and may raise to stop."""
    order = np.ascontiguousarray(_candidates(scores, least_score), np.int64)
    table, kept, found = boxes.table(), np.empty(min(limit, order.size), np.int32), 0
    for start in range(0, order.size, _BOXES_AT_ONCE):
        check()
        found = pixels.suppress(table, order[start:start + _BOXES_AT_ONCE], kept, found, threshold)
    return kept[:found]


def suppress(overlaps: Callable[[int, Array], Array], scores: Array, limit: int, threshold: float,
             least_score: float, check: Callable[[], Any]) -> Array:
    """Return the best boxes that overlap no better one by more than a threshold, best first.

    Parameters
    ----------
    overlaps : callable
        ``overlaps(i, others)`` returns by how much box i overlaps each of the others.
    scores : ndarray, shape (n,)
        The higher the better; among equals the first wins.
    limit : int
        How many boxes at most.
    least_score : float
        Boxes whose score is not above it do not take part.
    """
    order = _candidates(scores, least_score)
    chosen: list[int] = []
    while order.size and len(chosen) < limit:
        check()
        best = int(order[0])
        chosen.append(best)
        order = order[1:]
        order = order[~(overlaps(best, order) > threshold)]
    return np.array(chosen, np.int32)


def suppress_softly(overlaps: Callable[[int, Array], Array], scores: Array, limit: int, sigma: Any,
                    least_score: float, check: Callable[[], Any]) -> tuple[Array, Array]:
    """Return the same with scores that sink, by a Gaussian of the overlap, instead of boxes that are dropped."""
    current = scores.copy()
    alive = np.flatnonzero(current > least_score)
    scale = scores.dtype.type(-0.5) / sigma
    chosen: list[int] = []
    kept: list[Any] = []
    while alive.size and len(chosen) < limit:
        check()
        place = int(np.argmax(current[alive]))
        best = int(alive[place])
        chosen.append(best)
        kept.append(current[best])
        alive = np.delete(alive, place)
        shared = overlaps(best, alive)
        current[alive] *= np.exp(scale * shared * shared)
        alive = alive[current[alive] > least_score]
    return np.array(chosen, np.int32), np.array(kept, scores.dtype)


_FROM_VERSION = {"NonMaxSuppressionV2": 2, "NonMaxSuppressionV3": 3, "NonMaxSuppressionV4": 4, "NonMaxSuppressionV5": 5,
                 "NonMaxSuppressionWithOverlaps": 3}


def _chosen_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [*[(None,)] * (len(node.output_types) - 1), ()] if len(node.output_types) > 1 else [(None,)]


@kernel(*_FROM_VERSION, shape=_chosen_shape, host=(0, 1, 2, 3, 4, 5), needs_step=True)
def _non_max_suppression(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    version, by_overlaps = _FROM_VERSION[node.op], node.op.endswith("Overlaps")
    pad = version >= 4 and bool(node.attr("pad_to_max_output_size"))

    def run(step: StepContext, boxes: Any, scores: Any, max_output_size: Any, threshold: Any, *rest: Any) -> Any:
        _check_boxes(boxes, scores, by_overlaps)
        limit = _scalar("max_output_size", max_output_size)
        if limit < 0:
            raise InvalidArgument("output size must be non-negative")
        overlap = _scalar("overlap_threshold" if by_overlaps else "iou_threshold", threshold)
        if not by_overlaps and not 0 <= overlap <= 1:
            raise InvalidArgument("iou_threshold must be in [0, 1]")
        least = _scalar("score_threshold", rest[0]) if rest else -np.inf
        sigma = rest[1] if len(rest) > 1 else None
        if sigma is not None and not _scalar("soft_nms_sigma", sigma) >= 0:
            raise InvalidArgument("soft_nms_sigma must be >= 0")
        overlaps = (lambda one, others: boxes[others, one]) if by_overlaps else _Overlaps(boxes)
        if sigma is not None and float(sigma) > 0:
            chosen, kept = suppress_softly(overlaps, scores, limit, sigma[()], least, step.check)
        else:
            if isinstance(overlaps, _Overlaps) and boxes.dtype == np.float32:
                chosen = suppress_boxes(overlaps, scores, limit, overlap, least, step.check)
            else:
                chosen = suppress(overlaps, scores, limit, overlap, least, step.check)
            kept = scores[chosen]
        count = chosen.size
        if pad:
            chosen = np.concatenate((chosen, np.zeros(limit - count, np.int32)))
            kept = np.concatenate((kept, np.zeros(limit - count, kept.dtype)))
        results = [chosen] if version < 5 else [chosen, kept]
        if version >= 4:
            results.append(np.array(count, np.int32))
        results = [xp.asarray(part) for part in results]
        return results if len(results) > 1 else results[0]

    return run


def _scalar(name: str, value: Any) -> Any:
    if value.ndim:
        raise InvalidArgument(f"{name} must be 0-D, got shape {format_shape(value.shape)}")
    return value.item() if value.dtype.kind in "iu" else float(value)


def _check_boxes(boxes: Any, scores: Any, by_overlaps: bool) -> None:
    if by_overlaps:
        if boxes.ndim != 2:
            raise InvalidArgument(f"overlaps must be 2-D{format_shape(boxes.shape)}")
        if boxes.shape[0] != boxes.shape[1]:
            raise InvalidArgument(f"overlaps must be square{format_shape(boxes.shape)}")
    else:
        if boxes.ndim != 2:
            raise InvalidArgument(f"boxes must be a rank 2 tensor! (Shape must be rank 2 but is rank {boxes.ndim})")
        if boxes.shape[1] != 4:
            raise InvalidArgument(f"boxes must have 4 columns (Dimension must be 4 but is {boxes.shape[1]})")
    if scores.ndim != 1:
        raise InvalidArgument(f"scores must be 1-D (Shape must be rank 1 but is rank {scores.ndim})")
    if scores.shape[0] != boxes.shape[0]:
        raise InvalidArgument(f"scores has incompatible shape (Dimensions must be equal, but are {boxes.shape[0]} and "
                              f"{scores.shape[0]})")


# --- drawing ---------------------------------------------------------------------------------------------------------

_COLOURS = ((1, 1, 0, 1), (0, 0, 1, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0.5, 0, 0.5, 1), (0.5, 0.5, 0, 1), (0.5, 0, 0, 1),
            (0, 0, 0.5, 1), (0, 1, 1, 1), (1, 0, 1, 1))
"""The colours of the boxes of an image, in turn."""


@kernel("DrawBoundingBoxes", shape=like_input(), host=(1,))
def _draw_bounding_boxes(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def run(images: Any, boxes: Any) -> Any:
        if images.ndim != 4:
            raise InvalidArgument("The rank of the images should be 4")
        if boxes.ndim != 3:
            raise InvalidArgument("The rank of the boxes tensor should be 3")
        if images.shape[0] != boxes.shape[0]:
            raise InvalidArgument("The batch sizes should be the same")
        depth = images.shape[3]
        if depth not in (1, 3, 4):
            raise InvalidArgument("Channel depth should be either 1 (GRY), 3 (RGB), or 4 (RGBA)")
        height, width = images.shape[1:3]
        colours = xp.asarray(_COLOURS, dtype)[:, :depth]
        if depth == 1:
            colours = xp.ones_like(colours)
        result = xp.array(images)
        for image, edges in zip(result, _pixels(boxes, height, width), strict=True):
            for number, (top, left, bottom, right) in enumerate(edges.tolist()):
                _draw(image, top, left, bottom, right, colours[number % len(_COLOURS)])
        return result

    return run


def _pixels(boxes: Any, height: int, width: int) -> Any:
    """Return the rows and columns of the edges; what is no number or far outside stays outside."""
    scale = np.array([height - 1, width - 1] * 2, np.float32)
    return np.nan_to_num(np.clip(boxes * scale, -2.0**31, 2.0**31), nan=-(2.0**31)).astype(np.int64)


def _draw(image: Any, top: int, left: int, bottom: int, right: int, colour: Any) -> None:
    height, width = image.shape[:2]
    if top > bottom or left > right or bottom < 0 or right < 0 or top >= height or left >= width:
        return
    rows = slice(max(top, 0), min(bottom, height - 1) + 1)
    columns = slice(max(left, 0), min(right, width - 1) + 1)
    for row in (top, bottom):
        if 0 <= row < height:
            image[row, columns] = colour
    for column in (left, right):
        if 0 <= column < width:
            image[rows, column] = colour


# --- glimpses --------------------------------------------------------------------------------------------------------


def _glimpse_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    return [None if shape is None or len(shape) != 4 else (shape[0], None, None, shape[3])]


@kernel("ExtractGlimpse", shape=_glimpse_shape, host=(1, 2))
def _extract_glimpse(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    centred, normalised = bool(node.attr("centered")), bool(node.attr("normalized"))
    noise = node.attr("noise").decode()
    if node.attr("uniform_noise") and noise != "uniform":
        raise InvalidArgument("The uniform_noise and noise could not be specified at the same time")
    if noise not in ("uniform", "gaussian", "zero"):
        raise InvalidArgument(f"The noise could only be uniform, gaussian, or zero, got{noise}")

    def run(images: Any, size: Any, offsets: Any) -> Any:
        if images.ndim != 4:
            raise InvalidArgument(f"input must be 4-dimensional (batch_size, height, width, depth)"
                                  f"{format_shape(images.shape)}")
        if size.shape != (2,):
            raise InvalidArgument(f"input must be a vector of size 2 (height, width){format_shape(size.shape)}")
        if offsets.ndim != 2 or offsets.shape[1] != 2:
            raise InvalidArgument(f"input must be a tensor [batch_size, 2]{format_shape(offsets.shape)}")
        if offsets.shape[0] != images.shape[0]:
            raise InvalidArgument(f"input should have shape [{images.shape[0]}, 2] "
                                  f"{format_shape(offsets.shape)}")
        sizes = size.tolist()
        if min(sizes) < 0:
            raise InvalidArgument(f"the size of a glimpse must not be negative, got {sizes}")
        batch, *space, depth = images.shape
        result = _noise(xp, noise, images, (batch, *sizes, depth))
        for image, target, offset in zip(images, result, offsets.astype(np.float32), strict=True):
            starts = [_start(place, length, part, centred, normalised)
                      for place, length, part in zip(offset, space, sizes, strict=True)]
            inner = [(max(start, 0), min(start + part, length))
                     for start, part, length in zip(starts, sizes, space, strict=True)]
            if all(low < high for low, high in inner):
                (top, bottom), (left, right) = inner
                target[top - starts[0]:bottom - starts[0], left - starts[1]:right - starts[1]] = \
                    image[top:bottom, left:right]
        return result

    return run


def _start(offset: Any, length: int, part: int, centred: bool, normalised: bool) -> int:
    """Return the first row or column of a glimpse, in float32 as the op computes it."""
    place = np.float32(offset)
    if normalised:
        place = place * np.float32(length)
    if centred:
        place = place / np.float32(2) + np.float32(length / 2)
    place = place - np.float32(part / 2)
    return int(np.clip(np.nan_to_num(place), -2.0**40, 2.0**40))


def _noise(xp: Any, noise: str, images: Any, shape: tuple[int, ...]) -> Any:
    """Return what stands where a glimpse shows nothing of its image."""
    if noise == "zero":
        return xp.zeros(shape, xp.float32)
    random = np.random.default_rng()
    if noise == "uniform":
        low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 1.0)
        return xp.asarray(random.uniform(low, high, shape).astype(np.float32))
    mean, spread = (float(images.mean()), float(images.std())) if images.size else (0.0, 1.0)
    low, high = (float(images.min()), float(images.max())) if images.size else (-np.inf, np.inf)
    return xp.asarray(np.clip(random.normal(mean, spread, shape), low, high).astype(np.float32))
