"""Compiled convolutions: each beside its Python definition, on random geometries, layouts and views."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime.errors import InvalidArgument
from tests.ext.kernels.pairs import Declined, Pair, misaligned

# Both sum in their own order: the difference stays below a few units of the largest sum of magnitudes.
TOLERANCE = {"float32": 3e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 1.6e-2}


def attrs_of(dtype, strides=(1, 1), dilations=(1, 1), padding=b"SAME", explicit=(), layout=b"NHWC"):
    def around(pair):
        return [1, *pair, 1] if layout == b"NHWC" else [1, 1, *pair]

    pads = [0] * 8
    for place, sizes in enumerate(explicit):
        at = 2 * (place + (1 if layout == b"NHWC" else 2))
        pads[at:at + 2] = sizes
    return {"T": np.dtype(dtype), "strides": around(strides), "dilations": around(dilations), "padding": padding,
            "explicit_paddings": pads if padding == b"EXPLICIT" else [], "data_format": layout}


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def close(ours, theirs, what):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, what
    tolerance = TOLERANCE[ours.dtype.name]
    ours, theirs = ours.astype("f8"), theirs.astype("f8")
    largest = np.abs(theirs).max() if theirs.size else 0.0
    worst = np.abs(ours - theirs).max() if theirs.size else 0.0
    assert worst <= tolerance * max(largest, 1e-3), (what, worst)


def nhwc_to(layout, array):
    return array if layout == b"NHWC" else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def compare(rng, dtype, image, weights, view=lambda array: array, **options):
    """Check the convolution and both gradients of one geometry; return False where the windows do not fit."""
    attrs = attrs_of(dtype, **options)
    layout = attrs["data_format"]
    what = (dtype, image, weights, options)
    x, w = nhwc_to(layout, normal(rng, image, dtype)), normal(rng, weights, dtype)
    forward = Pair("Conv2D", **attrs)
    try:
        (expected,) = forward.python(x, w)
    except InvalidArgument:
        with pytest.raises(Declined):
            forward.compiled(x, w)
        return False
    (result,) = forward.compiled(view(x), view(w))
    close(result, expected, what)
    g = normal(rng, expected.shape, dtype)
    sizes, filter_sizes = np.array(x.shape, np.int32), np.array(w.shape, np.int32)
    backward = Pair("Conv2DBackpropInput", **attrs)
    close(backward.compiled(sizes, view(w), view(g))[0], backward.python(sizes, w, g)[0], what)
    backward = Pair("Conv2DBackpropFilter", **attrs)
    close(backward.compiled(view(x), filter_sizes, view(g))[0], backward.python(x, filter_sizes, g)[0], what)
    return True


def any_geometry(rng):
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    channels, depth = groups * int(rng.integers(1, 9)), groups * int(rng.choice([1, 3, 8, 16, 17, 33, 40]))
    image = (int(rng.integers(0, 4)), *rng.integers(1, 21, 2).tolist(), channels)
    weights = (*rng.integers(1, 6, 2).tolist(), channels // groups, depth)
    padding = rng.choice([b"SAME", b"VALID", b"EXPLICIT"])
    options = {"strides": tuple(rng.choice([1, 1, 2, 3], 2).tolist()), "padding": bytes(padding),
               "dilations": tuple(rng.choice([1, 1, 2, 3], 2).tolist()),
               "layout": bytes(rng.choice([b"NHWC", b"NHWC", b"NCHW"]))}
    if padding == b"EXPLICIT":
        options["explicit"] = tuple(map(tuple, rng.integers(0, 5, (2, 2)).tolist()))
    return image, weights, options


@pytest.mark.parametrize(("dtype", "count"), [("f4", 120), ("f8", 60), ("f2", 15), (ml_dtypes.bfloat16, 15)])
def test_any_geometry(dtype, count):
    rng = np.random.default_rng(20)
    fitting = 0
    for _ in range(count):
        image, weights, options = any_geometry(rng)
        fitting += compare(rng, dtype, image, weights, **options)
    assert fitting > count / 2


@pytest.mark.parametrize("image,weights", [((3, 30, 29, 4), (5, 5, 4, 70)), ((2, 40, 40, 24), (3, 3, 24, 32)),
                                           ((1, 9, 300, 8), (3, 3, 8, 16)), ((2, 5, 6, 600), (3, 1, 600, 20)),
                                           ((1, 3, 3000, 20), (1, 3, 20, 5)), ((40, 7, 7, 33), (3, 3, 33, 34))])
def test_large_ones_are_done_in_boxes(image, weights):
    compare(np.random.default_rng(21), "f4", image, weights)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_few_channels_of_many(depth):
    rng = np.random.default_rng(29)
    for dtype, many in (("f4", 37), ("f4", 64), ("f8", 19)):
        compare(rng, dtype, (2, 9, 8, many), (3, 3, many, depth))
        compare(rng, dtype, (2, 11, 9, depth), (2, 3, depth, many), strides=(1, 2))
        compare(rng, dtype, (1, 7, 6, 2 * many), (3, 2, many, 2 * depth), dilations=(1, 2))
    compare(rng, "f4", (1, 20, 21, depth), (13, 11, depth, 40), padding=b"VALID")


def test_many_taps_are_summed_in_blocks():
    rng = np.random.default_rng(22)
    compare(rng, "f4", (2, 40, 40, 1), (11, 13, 1, 5))
    compare(rng, "f8", (2, 21, 20, 2), (9, 9, 2, 3), dilations=(1, 2))
    compare(rng, "f4", (1, 12, 40, 1), (12, 40, 1, 20), padding=b"VALID")


@pytest.mark.parametrize("view", [
    misaligned,
    lambda array: np.repeat(array, 2, 3)[..., ::2],
    lambda array: np.repeat(array, 2, 2)[:, :, ::2],
    lambda array: array,
    np.asfortranarray,
    lambda array: np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1],
], ids=["misaligned", "channels apart", "columns apart", "as it is", "fortran", "backwards"])
def test_views(view):
    rng = np.random.default_rng(23)
    for dtype in ("f4", "f8"):
        compare(rng, dtype, (2, 9, 8, 5), (3, 2, 5, 6), view)
        compare(rng, dtype, (2, 9, 8, 4), (3, 3, 2, 20), view, strides=(2, 1), layout=b"NCHW")
        compare(rng, dtype, (2, 6, 6, 4), (2, 2, 4, 16), view, padding=b"VALID")


def test_rows_of_a_packed_record():
    records = np.zeros((2, 6), np.dtype([("pad", "u1"), ("row", "f4", (5, 3))]))
    records["row"] = np.random.default_rng(24).standard_normal((2, 6, 5, 3))
    weights = np.random.default_rng(25).standard_normal((2, 2, 3, 4)).astype("f4")
    pair = Pair("Conv2D", **attrs_of("f4", padding=b"VALID"))
    close(pair.compiled(records["row"], weights)[0], pair.python(records["row"], weights)[0], "records")


def test_infinities_and_nan_stay_in_their_windows():
    image = np.ones((1, 6, 6, 2), "f4")
    image[0, 1, 1, 0], image[0, 5, 5, 1] = np.nan, np.inf
    weights = np.ones((2, 2, 2, 3), "f4")
    pair = Pair("Conv2D", **attrs_of("f4"))
    np.testing.assert_array_equal(pair.compiled(image, weights)[0], pair.python(image, weights)[0])


def test_gradients_are_the_derivatives():
    rng = np.random.default_rng(26)
    for options in ({}, {"strides": (2, 3), "padding": b"VALID"}, {"dilations": (2, 1)}):
        attrs = attrs_of("f8", **options)
        x, w = rng.standard_normal((2, 7, 8, 3)), rng.standard_normal((3, 2, 3, 4))
        forward = Pair("Conv2D", **attrs)
        g = rng.standard_normal(forward.compiled(x, w)[0].shape)
        (by_x,) = Pair("Conv2DBackpropInput", **attrs).compiled(np.array(x.shape, "i4"), w, g)
        (by_w,) = Pair("Conv2DBackpropFilter", **attrs).compiled(x, np.array(w.shape, "i4"), g)
        for _ in range(4):  # linear in either, so that any step is exact
            dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
            assert np.isclose((forward.compiled(dx, w)[0] * g).sum(), (by_x * dx).sum(), rtol=1e-10)
            assert np.isclose((forward.compiled(x, dw)[0] * g).sum(), (by_w * dw).sum(), rtol=1e-10)


# Winograd's algorithm is taken for 3 and 5 taps of whole vectors of channels


WINOGRAD = [((3, 17, 19, 32), (3, 3, 32, 48)), ((2, 16, 23, 32), (5, 5, 32, 16)), ((2, 31, 18, 16), (3, 5, 16, 32)),
            ((2, 19, 33, 16), (5, 3, 16, 64)), ((40, 7, 7, 32), (3, 3, 32, 32)), ((1, 60, 61, 80), (3, 3, 80, 16))]


@pytest.mark.parametrize(("image", "weights"), WINOGRAD)
def test_few_taps_of_many_channels(image, weights):
    rng = np.random.default_rng(50)
    compare(rng, "f4", image, weights)
    compare(rng, "f4", image, weights, misaligned, padding=b"VALID")
    compare(rng, "f8", image, weights, padding=b"EXPLICIT", explicit=((3, 0), (1, 2)))
    compare(rng, "f4", image, weights, lambda array: np.repeat(array, 2, 2)[:, :, ::2])
    compare(rng, "f4", image, weights, np.asfortranarray, layout=b"NCHW")


@pytest.mark.parametrize(("image", "weights"), WINOGRAD[:4])
def test_their_rounding_errors_are_those_of_sums(image, weights):
    rng = np.random.default_rng(51)
    attrs, wide = attrs_of("f4"), attrs_of("f8")
    x, w = normal(rng, image, "f4"), normal(rng, weights, "f4")
    g = normal(rng, (*image[:3], weights[3]), "f4")
    sizes, filter_sizes = np.array(image, "i4"), np.array(weights, "i4")
    for op, args, terms in (("Conv2D", (x, w), np.prod(weights[:3])),
                            ("Conv2DBackpropInput", (sizes, w, g), np.prod(weights) / weights[2]),
                            ("Conv2DBackpropFilter", (x, filter_sizes, g), np.prod(image[:3]))):
        (result,) = Pair(op, **attrs).compiled(*args)
        (exact,) = Pair(op, **wide).python(*(arg.astype("f8") if arg.dtype == "f4" else arg for arg in args))
        error = np.sqrt(np.mean((result - exact) ** 2))
        assert error < 16 * 2.0**-24 * np.sqrt(terms), (op, error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_stays_in_its_windows_there_too(value):
    rng = np.random.default_rng(52)
    x, w = np.abs(normal(rng, (2, 17, 19, 32), "f4")), np.abs(normal(rng, (3, 3, 32, 48), "f4"))
    x[1, 5, 6, 7] = value
    g = np.abs(normal(rng, (2, 17, 19, 48), "f4"))
    for op, args in (("Conv2D", (x, w)), ("Conv2DBackpropInput", (np.array(x.shape, "i4"), w, g * 1e30)),
                     ("Conv2DBackpropFilter", (x, np.array(w.shape, "i4"), g))):
        (result,), (expected,) = Pair(op, **attrs_of("f4")).compiled(*args), Pair(op, **attrs_of("f4")).python(*args)
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected))
        np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
        there = np.isfinite(expected)
        np.testing.assert_allclose(result[there], expected[there], rtol=1e-5)


@pytest.mark.parametrize("channels", [16, 17])
def test_the_same_with_any_number_of_threads(channels):
    rng = np.random.default_rng(27)
    x, w = normal(rng, (9, 20, 20, channels), "f4"), normal(rng, (3, 3, channels, 48), "f4")
    attrs = attrs_of("f4")
    g = normal(rng, (9, 20, 20, 48), "f4")
    before = worker_pool.workers()
    results = []
    try:
        for count in (1, 2, 4):
            worker_pool.set_workers(count)
            results.append((Pair("Conv2D", **attrs).compiled(x, w)[0],
                            Pair("Conv2DBackpropInput", **attrs).compiled(np.array(x.shape, "i4"), w, g)[0],
                            Pair("Conv2DBackpropFilter", **attrs).compiled(x, np.array(w.shape, "i4"), g)[0]))
    finally:
        worker_pool.set_workers(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_short_input_sizes_give_height_and_width():
    rng = np.random.default_rng(28)
    w, g = normal(rng, (2, 2, 3, 4), "f4"), normal(rng, (2, 5, 6, 4), "f4")
    pair = Pair("Conv2DBackpropInput", **attrs_of("f4"))
    sizes = np.array([5, 6], np.int32)
    close(pair.compiled(sizes, w, g)[0], pair.python(sizes, w, g)[0], "sizes")


def test_what_does_not_fit_is_declined():
    attrs = attrs_of("f4", padding=b"VALID")
    x, w = np.ones((1, 4, 4, 3), "f4"), np.ones((2, 2, 3, 2), "f4")
    pair = Pair("Conv2D", **attrs)
    for left, right in [(x[0], w), (x, w[0]), (x[..., :2], w), (x[:, :0], w), (x, w[:0])]:
        with pytest.raises(Declined):
            pair.compiled(left, right)
    with pytest.raises(Declined):
        pair.compiled(x.astype(">f4"), w)
    backward = Pair("Conv2DBackpropInput", **attrs)
    g = np.ones((1, 3, 3, 2), "f4")
    for sizes, gradient in [([1, 4, 4, 3], g[:, :2]), ([2, 4, 4, 3], g), ([1, 4, 4], g), ([-1, 4, 4, 3], g),
                            ([1, 4, 4, 3], g[..., :1]), ([1, 2**31 - 1, 4, 3], g)]:
        with pytest.raises(Declined):
            backward.compiled(np.array(sizes, np.int32), w, gradient)
    backward = Pair("Conv2DBackpropFilter", **attrs)
    for sizes in ([2, 2, 3], [2, 2, 3, 1], [0, 2, 3, 2], [2, 2, 2, 2]):
        with pytest.raises(Declined):
            backward.compiled(x, np.array(sizes, np.int32), g)
    assert Pair("Conv2D", **attrs_of("i4")).kernel is None


def test_windows_that_reach_too_far_are_declined():
    image, weights = np.ones((1, 9, 9, 1), "f4"), np.ones((2, 2, 1, 1), "f4")
    pair = Pair("Conv2D", **attrs_of("f4", dilations=(1 << 20, 1 << 20)))
    with pytest.raises(Declined):
        pair.compiled(image, weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", [b"NHWC", b"NCHW"])
def test_filters_of_one_entry(dtype, layout):
    """They are products of matrices, but for strides, and for views whose rows lie apart."""
    rng = np.random.default_rng(21)
    for image, depth in [((2, 6, 7, 5), 9), ((1, 1, 1, 3), 1), ((3, 20, 20, 40), 33), ((1, 50, 46, 2), 70)]:
        weights = (1, 1, image[3], depth)
        assert compare(rng, dtype, image, weights, layout=layout)
        assert compare(rng, dtype, image, weights, view=misaligned, layout=layout)
        assert compare(rng, dtype, image, weights, layout=layout, strides=(2, 2))
        assert compare(rng, dtype, image, weights, layout=layout, padding=b"EXPLICIT", explicit=((1, 0), (0, 2)))

        def apart(array):
            return np.repeat(array, 2, 1)[:, ::2] if array.shape[:2] != (1, 1) else array

        assert compare(rng, dtype, image, weights, view=apart, layout=layout)
