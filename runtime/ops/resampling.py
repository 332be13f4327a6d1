"""Where the samples of a resized image come from: for every place of the result, places of the input and weights.

Positions are computed in float32, step by step as the ops define them, because a position next to a whole number
decides which samples are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime._ext import pixels
from runtime._ext.errors import InvalidArgument

__all__ = ["KERNELS", "Taps", "bicubic", "bilinear", "box", "kernel_taps", "nearest", "resample", "spread"]

_F = np.float32
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Taps:
    """What is summed along one dimension.

    Attributes
    ----------
    places : ndarray of int64, shape (k, n)
        For each of n results the k places of the input; along n every row ascends.
    weights : ndarray of float32, shape (k, n)
    size : int
        Cells of the input.
    """

    places: Array
    weights: Array
    size: int

    def arrays(self) -> tuple[Array, Array]:
        """Return the places and weights as compiled loops take them."""
        return np.ascontiguousarray(self.places, np.int64), np.ascontiguousarray(self.weights, np.float32)

    def gather(self, xp: Any, value: Any, axis: int) -> Any:
        """Return the weighted sums along an axis."""
        shape = [1] * value.ndim
        shape[axis] = -1
        total: Any = None
        for place, weight in zip(self.places, self.weights, strict=True):
            if total is not None and not weight.any():
                continue
            part = xp.take(value, xp.asarray(place), axis) * xp.asarray(weight.reshape(shape).astype(value.dtype))
            total = part if total is None else xp.add(total, part, out=total)
        return total

    def scatter(self, xp: Any, grad: Any, axis: int) -> Any:
        """Return the gradient of `gather`: what the results hand back to the cells of the input."""
        result = xp.zeros((*grad.shape[:axis], self.size, *grad.shape[axis + 1:]), grad.dtype)
        shape = [1] * grad.ndim
        shape[axis] = -1
        lead = (slice(None),) * axis
        for place, weight in zip(self.places, self.weights, strict=True):
            if not weight.any():
                continue
            # The places ascend, so that what goes to one cell lies side by side.
            starts = np.flatnonzero(np.concatenate((np.ones(1, bool), place[1:] != place[:-1])))
            parts = grad * xp.asarray(weight.reshape(shape).astype(grad.dtype))
            result[(*lead, xp.asarray(place[starts]))] += xp.add.reduceat(parts, starts, axis, dtype=grad.dtype)
        return result


def resample(xp: Any, images: Any, rows: Taps, columns: Taps) -> Any:
    """Return float32 images, shape (batch, height, width, channels), resampled in both dimensions."""
    if images.shape[0] == 0 or images.shape[3] == 0:
        return xp.zeros((images.shape[0], rows.places.shape[1], columns.places.shape[1], images.shape[3]), images.dtype)
    if xp is np:
        return pixels.gather(images, *rows.arrays(), *columns.arrays())
    return rows.gather(xp, columns.gather(xp, images, 2), 1)


def spread(xp: Any, grads: Any, rows: Taps, columns: Taps) -> Any:
    """Return the gradient of `resample` by its images, for gradients of any type of numbers."""
    if grads.shape[0] == 0 or grads.shape[3] == 0:
        return xp.zeros((grads.shape[0], rows.size, columns.size, grads.shape[3]), grads.dtype)
    if xp is np and grads.dtype == np.float32:
        return pixels.scatter(grads, *rows.arrays(), *columns.arrays(), rows.size, columns.size)
    return columns.scatter(xp, rows.scatter(xp, grads, 1), 2)


def scale_of(size: int, count: int, align_corners: bool) -> Any:
    """Return how many cells of the input one of the result stands for, as float32."""
    return _F(size - 1) / _F(count - 1) if align_corners and count > 1 else _F(size) / _F(count)


def _positions(size: int, count: int, align_corners: bool, half_pixel: bool) -> Array:
    scale = scale_of(size, count, align_corners)
    cells = np.arange(count, dtype=_F)
    return np.asarray((cells + _F(0.5)) * scale - _F(0.5) if half_pixel else cells * scale)


def bilinear(size: int, count: int, align_corners: bool, half_pixel: bool) -> Taps:
    """Return the two neighbours of each position."""
    position = _positions(size, count, align_corners, half_pixel)
    floor = np.floor(position)
    lower = np.clip(floor.astype(np.int64), 0, size - 1)
    upper = np.clip(np.ceil(position).astype(np.int64), 0, size - 1)
    share = position - floor
    return Taps(np.stack((lower, upper)), np.stack((_F(1) - share, share)), size)


def nearest(size: int, count: int, align_corners: bool, half_pixel: bool) -> Array:
    """Return the one cell that each place of the result copies."""
    scale = scale_of(size, count, align_corners)
    cells = np.arange(count, dtype=_F)
    position = (cells + _F(0.5)) * scale if half_pixel else cells * scale
    # Halves go away from zero; positions are not negative.
    place = np.floor(position + _F(0.5)) if align_corners else np.floor(position)
    return np.asarray(np.minimum(place.astype(np.int64), size - 1))


_CUBIC_STEPS = 1024


def _cubic_table(a: float) -> tuple[Array, Array]:
    """Return the cubic's values on [0, 1] and on [1, 2], on the grid on which the op evaluates it."""
    x = np.arange(_CUBIC_STEPS + 1) * 1.0 / _CUBIC_STEPS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    y = x + 1.0
    far = ((a * y - 5 * a) * y + 8 * a) * y - 4 * a
    return near.astype(_F), far.astype(_F)


def bicubic(size: int, count: int, align_corners: bool, half_pixel: bool) -> Taps:
    """Return the four neighbours of each position; with half pixels those outside do not count."""
    near, far = _cubic_table(-0.5 if half_pixel else -0.75)
    position = _positions(size, count, align_corners, half_pixel)
    first = np.floor(position)
    offset = np.rint((position - first) * _F(_CUBIC_STEPS)).astype(np.int64)
    wanted = first.astype(np.int64) + np.arange(-1, 3)[:, None]
    places = np.clip(wanted, 0, size - 1)
    weights = np.stack((far[offset], near[offset], near[_CUBIC_STEPS - offset], far[_CUBIC_STEPS - offset]))
    if half_pixel:
        weights = np.where(places == wanted, weights, _F(0))
        total = weights.sum(axis=0, dtype=_F)
        weights = np.where(np.abs(total) >= 1000 * np.finfo(_F).tiny, weights / np.where(total, total, _F(1)), weights)
    return Taps(places, weights, size)


def box(size: int, count: int, align_corners: bool) -> Taps:
    """Return the cells that each cell of the result covers, by how much, divided by what it covers in all."""
    scale = scale_of(size, count, align_corners)
    cells = np.arange(count, dtype=_F)
    start, end = cells * scale, (cells + _F(1)) * scale
    first, last = np.floor(start).astype(np.int64), np.ceil(end).astype(np.int64)
    span = max(int((last - first).max(initial=1)), 1)
    wanted = first + np.arange(span)[:, None]
    low, high = wanted.astype(_F), (wanted + 1).astype(_F)
    # The whole cell, or what of it lies between start and end.
    part = np.where(low < start, np.where(high > end, scale, high - start), np.where(high > end, end - low, _F(1)))
    weights = np.where(wanted < last, part, _F(0)) / scale
    return Taps(np.clip(wanted, 0, size - 1), weights.astype(_F), size)


# --- kernels of any width --------------------------------------------------------------------------------------------


def _lanczos(radius: float) -> Callable[[Array], Array]:
    def value(x: Array) -> Array:
        angle = math.pi * x
        with np.errstate(all="ignore"):
            inside = radius * np.sin(angle) * np.sin(angle / radius) / (angle * angle)
        return np.where(x > radius, 0.0, np.where(x <= 1e-3, 1.0, inside))

    return value


def _gaussian(x: Array) -> Array:
    radius = 1.5
    sigma = radius / 3.0
    return np.where(x >= radius, 0.0, np.exp(-x * x / (2 * sigma * sigma)))


def _keys(x: Array) -> Array:
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x >= 2, 0.0, np.where(x >= 1, far, ((1.5 * x - 2.5) * x) * x + 1.0))


def _mitchell(x: Array) -> Array:
    far = (((-7.0 / 18.0) * x + 2.0) * x - 10.0 / 3.0) * x + 16.0 / 9.0
    near = (((7.0 / 6.0) * x - 2.0) * x) * x + 8.0 / 9.0
    return np.where(x >= 2, 0.0, np.where(x >= 1, far, near))


KERNELS: dict[str, tuple[float, Callable[[Array], Array]]] = {
    "lanczos1": (1.0, _lanczos(1.0)), "lanczos3": (3.0, _lanczos(3.0)), "lanczos5": (5.0, _lanczos(5.0)),
    "gaussian": (1.5, _gaussian),
    "box": (1.0, lambda x: np.where(x < 0.5, 1.0, np.where(x == 0.5, 0.5, 0.0))),
    "triangle": (1.0, lambda x: np.where(x < 1, 1 - x, 0.0)),
    "keyscubic": (2.0, _keys), "mitchellcubic": (2.0, _mitchell),
}
"""Name of a kernel to its radius and its values at distances from its middle."""


def kernel_taps(kernel: str, size: int, count: int, scale: float, translation: float, antialias: bool) -> Taps:
    """Return the samples under a kernel around each position; positions outside the input get none.

    Parameters
    ----------
    scale, translation : float
        A place x of the input, in cells, is place ``x * scale + translation`` of the result.
    antialias : bool
        Whether the kernel is widened where the result is smaller than the input.

    Raises
    ------
    InvalidArgument
        If the kernel is unknown, or the scale is not a positive number.
    """
    if kernel not in KERNELS:
        raise InvalidArgument(f"Unrecognized kernel type: {kernel}")
    radius, function = KERNELS[kernel]
    inverse = _F(1) / _F(scale)
    back = -inverse * _F(translation)
    width = max(inverse, _F(1)) if antialias else _F(1)
    span = min(2 * math.ceil(_F(radius) * width) + 1, size)
    sample = (np.arange(count, dtype=_F) + _F(0.5)) * inverse + back
    reach = _F(radius) * width
    outside = ~((sample >= 0) & (sample <= size))
    inner = np.clip(sample, 0, size)
    first = np.clip(np.ceil(inner - reach - _F(0.5)).astype(np.int64), 0, size - 1)
    last = np.clip(np.floor(inner + reach - _F(0.5)).astype(np.int64), 0, size - 1) + 1
    wanted = first + np.arange(span)[:, None]
    distance = np.abs((wanted.astype(_F) + _F(0.5) - inner) * (_F(1) / width))
    weights = np.where(wanted < last, function(distance).astype(_F), _F(0))
    total = weights.sum(axis=0, dtype=_F)
    weights = np.where(np.abs(total) >= 1000 * np.finfo(_F).tiny, weights / np.where(total, total, _F(1)), weights)
    places = np.clip(wanted, 0, size - 1)
    return Taps(places, np.where(outside, _F(0), weights).astype(_F), size)
