"""Compiled poolings: each beside its Python definition, on random geometries, layouts and views."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from runtime._ext import worker_pool
from runtime.errors import Error
from tests.ext.kernels.pairs import Declined, Pair, misaligned

TOLERANCE = {"float32": 1e-6, "float64": 1e-15, "float16": 2e-3, "bfloat16": 1.6e-2}


def attrs_of(dtype, window=(2, 2), strides=(2, 2), padding=b"VALID", explicit=None, layout=b"NHWC"):
    def around(pair):
        return [1, *pair, 1] if layout == b"NHWC" else [1, 1, *pair]

    attrs = {"T": np.dtype(dtype), "ksize": around(window), "strides": around(strides), "padding": padding,
             "data_format": layout}
    if explicit is not None:
        pads = [0] * 8
        at = 2 if layout == b"NHWC" else 4
        pads[at:at + 4] = explicit
        attrs["explicit_paddings"] = pads
    return attrs


def some(rng, shape, dtype):
    """Whole numbers, so that cells are often equal."""
    return rng.integers(-9, 10, shape).astype(dtype)


def close(ours, theirs, what):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, what
    np.testing.assert_allclose(ours.astype("f8"), theirs.astype("f8"), rtol=TOLERANCE[ours.dtype.name],
                               atol=TOLERANCE[ours.dtype.name] * 10, err_msg=str(what))


def compare(rng, dtype, shape, view=lambda array: array, **options):
    """Check both poolings and their gradients; return False where the windows do not fit."""
    attrs = attrs_of(dtype, **options)
    x = some(rng, shape, dtype)
    if attrs["data_format"] == b"NCHW":
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    what = (dtype, shape, options)
    pair = Pair("MaxPool", **attrs)
    try:
        (y,) = pair.python(x)
    except Error:
        with pytest.raises(Declined):
            pair.compiled(x)
        return False
    np.testing.assert_array_equal(pair.compiled(view(x))[0], y, str(what), strict=True)
    g = some(rng, y.shape, dtype)
    pair = Pair("MaxPoolGrad", **attrs)
    close(pair.compiled(view(x), view(y), view(g))[0], pair.python(x, y, g)[0], what)
    if options.get("explicit") is None:
        pair = Pair("AvgPool", **attrs)
        close(pair.compiled(view(x))[0], pair.python(x)[0], what)
        pair = Pair("AvgPoolGrad", **attrs)
        sizes = np.array(x.shape, np.int32)
        close(pair.compiled(sizes, view(g))[0], pair.python(sizes, g)[0], what)
    return True


def any_geometry(rng):
    window = rng.integers(1, 5, 2).tolist()
    options = {"window": tuple(window), "strides": tuple(rng.integers(1, 4, 2).tolist()),
               "padding": bytes(rng.choice([b"SAME", b"VALID", b"EXPLICIT"])),
               "layout": bytes(rng.choice([b"NHWC", b"NHWC", b"NCHW"]))}
    if options["padding"] == b"EXPLICIT":
        options["explicit"] = [int(rng.integers(0, window[i // 2])) for i in range(4)]
    shape = (int(rng.integers(0, 4)), *rng.integers(1, 15, 2).tolist(), int(rng.choice([0, 1, 3, 8, 16, 33, 300])))
    return shape, options


@pytest.mark.parametrize(("dtype", "count"), [("f4", 120), ("f8", 60), ("f2", 15), (ml_dtypes.bfloat16, 15)])
def test_any_geometry(dtype, count):
    rng = np.random.default_rng(30)
    fitting = 0
    for _ in range(count):
        shape, options = any_geometry(rng)
        fitting += compare(rng, dtype, shape, **options)
    assert fitting > count / 2


@pytest.mark.parametrize("view", [
    misaligned,
    lambda array: np.repeat(array, 2, 3)[..., ::2],
    lambda array: np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1],
    np.asfortranarray,
], ids=["misaligned", "channels apart", "backwards", "fortran"])
def test_views(view):
    rng = np.random.default_rng(31)
    for dtype in ("f4", "f8"):
        compare(rng, dtype, (2, 7, 8, 20), view)
        compare(rng, dtype, (2, 7, 8, 5), view, window=(3, 3), strides=(1, 2), padding=b"SAME", layout=b"NCHW")


@pytest.mark.parametrize(("shape", "options"), [
    ((4, 40, 40, 70), {}), ((1, 60, 60, 130), {"window": (3, 3), "strides": (1, 1), "padding": b"SAME"}),
    ((2, 30, 30, 40), {"window": (11, 9), "strides": (3, 4)})])
def test_the_same_with_any_number_of_threads(shape, options):
    rng = np.random.default_rng(32)
    before = worker_pool.workers()
    try:
        for count in (1, 3):
            worker_pool.set_workers(count)
            compare(rng, "f4", shape, **options)
    finally:
        worker_pool.set_workers(before)


def test_infinities_and_nan():
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 2, 3], [nan, 1, 2, 3], [nan, nan, nan, nan], [-inf, -inf, -inf, -inf], [inf, 1, nan, inf],
            [-0.0, 0.0, -0.0, 0.0], [2, 2, 2, 2]]
    image = np.array(rows, "f4").T.reshape(1, 2, 2, len(rows))
    for window, padding in [((2, 2), b"VALID"), ((2, 1), b"SAME"), ((3, 3), b"SAME")]:
        attrs = attrs_of("f4", window=window, padding=padding)
        (y,) = Pair("MaxPool", **attrs).python(image)
        np.testing.assert_array_equal(Pair("MaxPool", **attrs).compiled(image)[0], y)
        g = np.arange(1, y.size + 1, dtype="f4").reshape(y.shape)
        pair = Pair("MaxPoolGrad", **attrs)
        np.testing.assert_array_equal(pair.compiled(image, y, g)[0], pair.python(image, y, g)[0])


def test_gradients_are_the_derivatives():
    rng = np.random.default_rng(33)
    x = rng.permutation(2 * 7 * 6 * 3).reshape(2, 7, 6, 3).astype("f8")  # far apart, so that a small step is exact
    for options in ({}, {"window": (3, 2), "strides": (1, 2), "padding": b"SAME"}):
        attrs = attrs_of("f8", **options)
        for op in ("MaxPool", "AvgPool"):
            forward = Pair(op, **attrs)
            (y,) = forward.compiled(x)
            g, step = rng.standard_normal(y.shape), rng.standard_normal(x.shape) * 1e-2
            args = (x, y, g) if op == "MaxPool" else (np.array(x.shape, np.int32), g)
            (gradient,) = Pair(f"{op}Grad", **attrs).compiled(*args)
            change = forward.compiled(x + step)[0] - y
            assert np.isclose((change * g).sum(), (gradient * step).sum(), rtol=1e-9)


def test_what_does_not_fit_is_declined():
    image = np.ones((1, 4, 4, 3), "f4")
    pair = Pair("MaxPool", **attrs_of("f4", window=(3, 3), strides=(1, 1)))
    for value in (image[0], image[:, :1], image.astype(">f4")):
        with pytest.raises(Declined):
            pair.compiled(value)
    pair = Pair("MaxPoolGrad", **attrs_of("f4"))
    y = np.ones((1, 2, 2, 3), "f4")
    for args in ((image, y[:, :1], y), (image, y, y[:, :1]), (image, y, y[..., :2]), (image, y[0], y)):
        with pytest.raises(Declined):
            pair.compiled(*args)
    pair = Pair("AvgPoolGrad", **attrs_of("f4"))
    for sizes in ([1, 4, 4], [1, 4, 4, 2], [2, 4, 4, 3], [1, -4, 4, 3], [1, 2**31 - 1, 4, 3]):
        with pytest.raises(Declined):
            pair.compiled(np.array(sizes, np.int32), y)
    assert Pair("MaxPool", **attrs_of("i4")).kernel is None
