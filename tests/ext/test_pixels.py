"""Loops over pixels and tridiagonal systems: what they refuse, and that threads share their work rightly."""

from __future__ import annotations

import numpy as np
import pytest

from runtime._ext import pixels, tridiagonal
from runtime.ops import colours, resampling
from runtime.ops.factorizations import solve_tridiagonal

RNG = np.random.default_rng(1)


@pytest.mark.parametrize(("height", "width", "channels"), [(5, 7, 1), (90, 40, 3), (40, 90, 4), (17, 33, 6)])
@pytest.mark.parametrize("size", [(60, 70), (9, 8), (1, 1)])
def test_resampling_is_that_of_whole_arrays(height: int, width: int, channels: int, size: tuple[int, int]) -> None:
    images = RNG.standard_normal((3, height, width, channels)).astype(np.float32)
    rows = resampling.bicubic(height, size[0], False, True)
    columns = resampling.box(width, size[1], False)
    expected = rows.gather(np, columns.gather(np, images, 2), 1)
    np.testing.assert_allclose(resampling.resample(np, images, rows, columns), expected, rtol=2e-5, atol=2e-5)
    grads = RNG.standard_normal(expected.shape).astype(np.float32)
    spread = columns.scatter(np, rows.scatter(np, grads, 1), 2)
    np.testing.assert_allclose(resampling.spread(np, grads, rows, columns), spread, rtol=2e-5, atol=2e-5)


def test_resampling_refuses_places_outside() -> None:
    images = np.zeros((1, 2, 2, 1), np.float32)
    inside, weights = np.zeros((1, 3), np.int64), np.ones((1, 3), np.float32)
    for wrong in (inside + 2, inside - 1):
        with pytest.raises(ValueError, match="is not in"):
            pixels.gather(images, wrong, weights, inside, weights)
        with pytest.raises(ValueError, match="is not in"):
            pixels.scatter(np.zeros((1, 3, 3, 1), np.float32), inside, weights, wrong, weights, 2, 2)
    with pytest.raises(ValueError, match="as many weights"):
        pixels.gather(images, inside, weights[:, :2].copy(), inside, weights)
    with pytest.raises(ValueError, match="each row and column"):
        pixels.scatter(images, inside, weights, inside, weights, 2, 2)
    with pytest.raises(TypeError, match="float32 of rank 4"):
        pixels.gather(images[0], inside, weights, inside, weights)


def test_colours_are_those_of_whole_arrays() -> None:
    images = RNG.uniform(0, 1, (200, 300, 3)).astype(np.float32)
    images[0] = images[0, :, :1]  # grey
    parts = colours.to_hsv(np, images)
    np.testing.assert_allclose(pixels.to_hsv(images), np.stack(parts, -1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pixels.to_rgb(pixels.to_hsv(images)), images, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="three channels"):
        pixels.to_hsv(images[..., :2])


def test_boxes_are_checked() -> None:
    boxes, order = np.ones((3, 5), np.float32), np.arange(3)
    for wrong_order, kept, found in ((order + 1, np.zeros(2, np.int32), 0), (order, np.zeros(2, np.int32), 3),
                                     (order, np.full(2, 7, np.int32), 1)):
        with pytest.raises(ValueError, match="there is no box|do not fit"):
            pixels.suppress(boxes, wrong_order, kept, found, 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("pivoting", [False, True])
def test_tridiagonal_systems_are_solved_as_by_whole_arrays(dtype: type, pivoting: bool) -> None:
    bands = (RNG.standard_normal((70, 3, 30)) + np.array([[0], [4], [0]])).astype(dtype)
    rhs = RNG.standard_normal((70, 30, 2)).astype(dtype)
    parts = np.moveaxis(bands, 0, -1)
    expected = np.moveaxis(solve_tridiagonal(np, *parts, np.moveaxis(rhs, 0, -1), pivoting, False), -1, 0)
    close = 1e-3 if np.dtype(dtype).itemsize < 8 or dtype is np.complex64 else 1e-9
    np.testing.assert_allclose(tridiagonal.solve(bands, rhs, pivoting), expected, rtol=close, atol=close)


def test_tridiagonal_shapes_are_checked() -> None:
    for bands, rhs in (((1, 2, 3), (1, 3, 1)), ((1, 3, 3), (1, 4, 1)), ((2, 3, 3), (1, 3, 1))):
        with pytest.raises(ValueError, match="are needed"):
            tridiagonal.solve(np.zeros(bands), np.zeros(rhs), True)
    with pytest.raises(ValueError, match="of one type"):
        tridiagonal.solve(np.zeros((1, 3, 3), np.float32), np.zeros((1, 3, 1)), True)
    with pytest.raises(TypeError, match="floating or complex"):
        tridiagonal.solve(np.zeros((1, 3, 3), np.int32), np.zeros((1, 3, 1), np.int32), True)
