"""Compiled depthwise convolutions: each beside its Python definition, on random geometries, layouts and views."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime.errors import InvalidArgument
from tests.ext.kernels.pairs import Declined, Pair, misaligned
from tests.ext.kernels.test_convolution import attrs_of, close, nhwc_to, normal

FORWARD, INPUT, FILTER = (f"DepthwiseConv2dNative{suffix}" for suffix in ("", "BackpropInput", "BackpropFilter"))


def compare(rng, dtype, image, weights, view=lambda array: array, **options):
    """Check the convolution and both gradients of one geometry; return False where the windows do not fit."""
    attrs = attrs_of(dtype, **options)
    what = (dtype, image, weights, options)
    x, w = nhwc_to(attrs["data_format"], normal(rng, image, dtype)), normal(rng, weights, dtype)
    forward = Pair(FORWARD, **attrs)
    try:
        (expected,) = forward.python(x, w)
    except InvalidArgument:
        with pytest.raises(Declined):
            forward.compiled(x, w)
        return False
    close(forward.compiled(view(x), view(w))[0], expected, what)
    g = normal(rng, expected.shape, dtype)
    sizes, filter_sizes = np.array(x.shape, np.int32), np.array(w.shape, np.int32)
    backward = Pair(INPUT, **attrs)
    close(backward.compiled(sizes, view(w), view(g))[0], backward.python(sizes, w, g)[0], what)
    backward = Pair(FILTER, **attrs)
    close(backward.compiled(view(x), filter_sizes, view(g))[0], backward.python(x, filter_sizes, g)[0], what)
    return True


def any_geometry(rng):
    channels, multiplier = int(rng.choice([1, 3, 4, 8, 16, 17, 32, 64, 100])), int(rng.choice([1, 1, 1, 2, 3]))
    image = (int(rng.integers(0, 4)), *rng.integers(1, 21, 2).tolist(), channels)
    weights = (*rng.integers(1, 8, 2).tolist(), channels, multiplier)
    padding = rng.choice([b"SAME", b"VALID", b"EXPLICIT"])
    options = {"strides": tuple(rng.choice([1, 1, 2, 3], 2).tolist()), "padding": bytes(padding),
               "dilations": tuple(rng.choice([1, 1, 2, 3], 2).tolist()),
               "layout": bytes(rng.choice([b"NHWC", b"NHWC", b"NCHW"]))}
    if padding == b"EXPLICIT":
        options["explicit"] = tuple(map(tuple, rng.integers(0, 5, (2, 2)).tolist()))
    return image, weights, options


@pytest.mark.parametrize(("dtype", "count"), [("f4", 100), ("f8", 50), ("f2", 10), (ml_dtypes.bfloat16, 10)])
def test_any_geometry(dtype, count):
    rng = np.random.default_rng(40)
    assert sum(compare(rng, dtype, *geometry[:2], **geometry[2])
               for geometry in (any_geometry(rng) for _ in range(count))) > count / 2


@pytest.mark.parametrize(("image", "weights"), [((2, 60, 50, 70), (3, 3, 70, 1)), ((1, 9, 900, 64), (3, 3, 64, 1)),
                                                ((3, 30, 31, 40), (5, 5, 40, 2)), ((1, 12, 12, 6), (12, 11, 6, 1))])
def test_large_ones_are_done_in_boxes(image, weights):
    compare(np.random.default_rng(41), "f4", image, weights)


@pytest.mark.parametrize("view", [
    misaligned,
    lambda array: np.repeat(array, 2, 3)[..., ::2],
    lambda array: np.repeat(array, 2, 2)[:, :, ::2],
    np.asfortranarray,
    lambda array: np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1],
], ids=["misaligned", "channels apart", "columns apart", "fortran", "backwards"])
def test_views(view):
    rng = np.random.default_rng(42)
    for dtype in ("f4", "f8"):
        compare(rng, dtype, (2, 9, 8, 16), (3, 2, 16, 1), view, padding=b"VALID")
        compare(rng, dtype, (2, 9, 8, 5), (3, 3, 5, 2), view, strides=(2, 1), layout=b"NCHW")


def test_gradients_are_the_derivatives():
    rng = np.random.default_rng(43)
    for options in ({}, {"strides": (2, 2), "padding": b"VALID"}, {"dilations": (2, 1)}):
        attrs = attrs_of("f8", **options)
        x, w = rng.standard_normal((2, 7, 8, 3)), rng.standard_normal((3, 2, 3, 2))
        forward = Pair(FORWARD, **attrs)
        g = rng.standard_normal(forward.compiled(x, w)[0].shape)
        (by_x,) = Pair(INPUT, **attrs).compiled(np.array(x.shape, "i4"), w, g)
        (by_w,) = Pair(FILTER, **attrs).compiled(x, np.array(w.shape, "i4"), g)
        for _ in range(4):  # linear in either, so that any step is exact
            dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
            assert np.isclose((forward.compiled(dx, w)[0] * g).sum(), (by_x * dx).sum(), rtol=1e-10)
            assert np.isclose((forward.compiled(x, dw)[0] * g).sum(), (by_w * dw).sum(), rtol=1e-10)


def test_the_same_with_any_number_of_threads():
    rng = np.random.default_rng(44)
    x, w, g = (normal(rng, shape, "f4") for shape in ((9, 20, 20, 70), (3, 3, 70, 1), (9, 20, 20, 70)))
    attrs = attrs_of("f4")
    before = worker_pool.workers()
    results = []
    try:
        for count in (1, 3):
            worker_pool.set_workers(count)
            results.append((Pair(FORWARD, **attrs).compiled(x, w)[0],
                            Pair(INPUT, **attrs).compiled(np.array(x.shape, "i4"), w, g)[0],
                            Pair(FILTER, **attrs).compiled(x, np.array(w.shape, "i4"), g)[0]))
    finally:
        worker_pool.set_workers(before)
    for one, same in zip(*results, strict=True):
        np.testing.assert_array_equal(one, same)


def test_what_does_not_fit_is_declined():
    attrs = attrs_of("f4", padding=b"VALID")
    x, w, g = np.ones((1, 4, 4, 3), "f4"), np.ones((2, 2, 3, 2), "f4"), np.ones((1, 3, 3, 6), "f4")
    pair = Pair(FORWARD, **attrs)
    for left, right in [(x[0], w), (x, w[0]), (x[..., :2], w), (x[:, :0], w), (x, w[:0]), (x.astype(">f4"), w)]:
        with pytest.raises(Declined):
            pair.compiled(left, right)
    pair = Pair(INPUT, **attrs)
    for sizes, gradient in [([1, 4, 4, 3], g[:, :2]), ([2, 4, 4, 3], g), ([4, 4], g), ([-1, 4, 4, 3], g),
                            ([1, 4, 4, 3], g[..., :5]), ([1, 2**31 - 1, 4, 3], g)]:
        with pytest.raises(Declined):
            pair.compiled(np.array(sizes, np.int32), w, gradient)
    pair = Pair(FILTER, **attrs)
    for sizes in ([2, 2, 3], [2, 2, 3, 1], [0, 2, 3, 2], [2, 2, 2, 3]):
        with pytest.raises(Declined):
            pair.compiled(x, np.array(sizes, np.int32), g)
