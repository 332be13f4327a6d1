"""Cases of convolutions and poolings of volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, Case, bf16, op_case
from tests.ops.cases.convolution import output_size, tolerance
from tests.ops.values import values

ONE = np.float32
# volume, filter, strides, padding
CONVOLUTIONS: tuple[tuple[Any, ...], ...] = (
    ((2, 3, 4, 5, 2), (2, 3, 2, 2, 3), (1, 1, 1), "SAME"), ((1, 4, 5, 4, 3), (2, 2, 3, 3, 2), (2, 1, 2), "VALID"),
    ((1, 5, 4, 3, 1), (3, 2, 2, 1, 4), (2, 2, 1), "SAME"), ((0, 3, 3, 3, 2), (2, 2, 2, 2, 3), (1, 1, 1), "SAME"),
    ((2, 3, 3, 3, 4), (1, 1, 1, 4, 5), (1, 1, 1), "VALID"), ((1, 2, 3, 3, 2), (3, 2, 2, 2, 1), (1, 1, 1), "VALID"),
)
# volume, window, strides, padding
POOLINGS: tuple[tuple[Any, ...], ...] = (
    ((2, 4, 4, 6, 3), (2, 2, 2), (2, 2, 2), "VALID"), ((1, 5, 5, 4, 2), (2, 3, 2), (1, 2, 2), "SAME"),
    ((0, 4, 4, 4, 2), (2, 2, 2), (2, 2, 2), "SAME"), ((1, 3, 3, 3, 2), (4, 1, 1), (1, 1, 1), "VALID"),
)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in FLOATS:
        for volume, weights, strides, padding in CONVOLUTIONS if kind is ONE else CONVOLUTIONS[:2]:
            attrs: dict[str, Any] = {"strides": [1, *strides, 1], "padding": padding.encode(), **tolerance(kind)}
            sizes = [output_size(volume[axis + 1], weights[axis], strides[axis], padding, 1, 0) for axis in range(3)]
            x, w = values(kind, volume, 1), values(kind, weights, 2)
            gradient = values(kind, (volume[0], *sizes, weights[4]), 3)
            yield op_case("Conv3D", x, w, **attrs)
            if volume[0] and not gradient.size:
                continue  # TensorFlow leaves these gradients as its memory was
            index = np.int64 if kind is np.float64 else np.int32
            yield op_case("Conv3DBackpropInputV2", np.array(volume, index), w, gradient, **attrs)
            yield op_case("Conv3DBackpropFilterV2", x, np.array(weights, np.int32), gradient, **attrs)
    yield from _convolution_rules()
    for kind in (ONE, bf16):
        for volume, window, strides, padding in POOLINGS if kind is ONE else POOLINGS[:2]:
            attrs = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding.encode(),
                     **tolerance(kind)}
            sizes = [output_size(volume[axis + 1], window[axis], strides[axis], padding, 1, 0) for axis in range(3)]
            x = values(kind, volume, 1)
            gradient = values(kind, (volume[0], *sizes, volume[4]), 3)
            yield op_case("MaxPool3D", x, **attrs)
            yield op_case("AvgPool3D", x, **attrs)
            yield op_case("AvgPool3DGrad", np.array(volume, np.int32), gradient, **attrs)
            if gradient.size and padding == "VALID":
                windows = np.lib.stride_tricks.sliding_window_view(x.astype(ONE), window, (1, 2, 3))
                maxima = windows[:, ::strides[0], ::strides[1], ::strides[2]].max((5, 6, 7)).astype(kind)
                yield op_case("MaxPool3DGrad", x, maxima, gradient, **attrs)
                yield op_case("MaxPool3DGradGrad", x, maxima, values(kind, volume, 4), **attrs)
    yield from _pooling_rules()


def _convolution_rules() -> Iterator[Case]:
    base: dict[str, Any] = {"strides": [1] * 5, "padding": b"SAME"}
    x, w, g = values(ONE, (2, 3, 4, 4, 2)), values(ONE, (2, 2, 2, 2, 3)), values(ONE, (2, 3, 4, 4, 3))
    for volume, weights, more in ((x, w, {"strides": [2, 1, 1, 1, 1]}), (x, w, {"dilations": [2, 1, 1, 1, 1]}),
                                  (x[0], w, {}), (x, w[0], {}), (x, values(ONE, (2, 2, 2, 3, 3)), {}),
                                  (values(ONE, (2, 3, 4, 4, 4)), values(ONE, (2, 2, 2, 2, 2)), {}), (x, w[:0], {}),
                                  (x, values(ONE, (5, 2, 2, 2, 3)), {"padding": b"VALID"})):
        yield op_case("Conv3D", volume, weights, **{**base, **more})
    sizes = np.array(x.shape, np.int32)
    for asked, weights, gradient in ((sizes[:3], w, g), (sizes, w, g[..., :2]), (sizes, w, g[:, :, :3]),
                                     (sizes, w, g[:1]), (-sizes, w, g), (sizes, w[0], g), (sizes, w, g[0]),
                                     (sizes, values(ONE, (2, 2, 2, 3, 3)), g)):
        yield op_case("Conv3DBackpropInputV2", asked, weights, gradient, **base)
    sizes = np.array(w.shape, np.int32)
    for volume, asked, gradient in ((x, sizes[:3], g), (x, sizes, g[..., :2]), (x, sizes, g[:, :, :3]),
                                    (x, sizes, g[:1]), (x, -sizes, g), (x[0], sizes, g), (x, sizes, g[0])):
        yield op_case("Conv3DBackpropFilterV2", volume, asked, gradient, **base)


def _pooling_rules() -> Iterator[Case]:
    base: dict[str, Any] = {"ksize": [1, 2, 2, 2, 1], "strides": [1, 2, 2, 2, 1], "padding": b"SAME"}
    x, y = values(ONE, (2, 3, 4, 4, 2)), values(ONE, (2, 2, 2, 2, 2))
    for op in ("MaxPool3D", "AvgPool3D"):
        yield op_case(op, x[0], **base)
        for more in ({"ksize": [2, 2, 2, 2, 1]}, {"ksize": [1, 2, 2, 2, 2]}, {"strides": [1, 1, 1, 1, 2]},
                     {"ksize": [1, 0, 1, 1, 1]}, {"ksize": [1, 5, 1, 1, 1], "padding": b"VALID"}):
            yield op_case(op, x, **{**base, **more})
    edges = np.array([np.nan, 1, -np.inf, -np.inf, 2, np.nan, 3, 3], ONE).reshape(1, 2, 2, 2, 1)
    yield op_case("MaxPool3D", edges, name="edges", **base)
    flat = np.ones((1, 3, 3, 3, 1), ONE)
    yield op_case("MaxPool3DGrad", flat, flat[:, :2, :2, :2], flat[:, :2, :2, :2], name="all equal", **base)
    yield op_case("MaxPool3DGrad", x, y, y, name="not its output", **base)
    yield op_case("MaxPool3DGrad", flat * np.float32(0), flat[:, :2, :2, :2] * np.float32(0),
                  flat[:, :2, :2, :2], name="zeros", **base)
    for volume, output, gradient in ((x, y[:1], y), (x, y, y[:1]), (x[0], y, y), (x, y[0], y), (x, y, y[0])):
        yield op_case("MaxPool3DGrad", volume, output, gradient, **base)
    for volume, output, gradient in ((x, y, x), (x, y[:1], x), (x, y, x[:1]), (x[0], y, x), (x, y[0], x), (x, y, x[0])):
        yield op_case("MaxPool3DGradGrad", volume, output, gradient, **base)
    for more in ({"ksize": [2, 2, 2, 2, 1]}, {"ksize": [1, 2, 2, 2, 2]}):
        yield op_case("MaxPool3DGradGrad", x, y, x, **{**base, **more})
    yield op_case("MaxPool3DGradGrad", flat, flat[:, :2, :2, :2], values(ONE, flat.shape), name="all equal", **base)
    sizes = np.array(x.shape, np.int32)
    for asked, gradient in ((sizes[:4], y), (sizes, y[:1]), (sizes, y[0]), (-sizes, y)):
        yield op_case("AvgPool3DGrad", asked, gradient, **base)
