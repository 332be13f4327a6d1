"""Cases of depthwise convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, Case, op_case
from tests.ops.cases.convolution import output_size, tolerance
from tests.ops.values import values

ONE = np.float32
FORWARD, INPUT, FILTER = (f"DepthwiseConv2dNative{suffix}" for suffix in ("", "BackpropInput", "BackpropFilter"))
# image, filter, stride, padding, explicit paddings
GEOMETRIES: tuple[tuple[Any, ...], ...] = (
    ((2, 5, 6, 3), (3, 2, 3, 2), 1, "SAME", ()), ((2, 7, 8, 3), (3, 3, 3, 1), 2, "VALID", ()),
    ((2, 7, 8, 1), (2, 3, 1, 4), 2, "SAME", ()), ((1, 4, 5, 2), (2, 3, 2, 3), 1, "EXPLICIT", (0, 0, 1, 0, 2, 1, 0, 0)),
    ((0, 4, 4, 3), (2, 2, 3, 2), 1, "SAME", ()), ((1, 9, 9, 40), (3, 3, 40, 1), 1, "SAME", ()),
    ((2, 3, 3, 2), (4, 4, 2, 3), 1, "VALID", ()), ((1, 10, 11, 5), (2, 1, 5, 7), 3, "SAME", ()),
)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in FLOATS:
        for image, weights, stride, padding, explicit in GEOMETRIES if kind is ONE else GEOMETRIES[:3]:
            attrs: dict[str, Any] = {"strides": [1, stride, stride, 1], "padding": padding.encode(), **tolerance(kind)}
            if explicit:
                attrs["explicit_paddings"] = list(explicit)
            around = explicit or (0,) * 8
            sizes = [output_size(image[axis], weights[axis - 1], stride, padding, 1,
                                 around[2 * axis] + around[2 * axis + 1]) for axis in (1, 2)]
            x, w = values(kind, image, 1), values(kind, weights, 2)
            gradient = values(kind, (image[0], *sizes, weights[2] * weights[3]), 3)
            yield op_case(FORWARD, x, w, **attrs)
            yield op_case(INPUT, np.array(image, np.int32), w, gradient, **attrs)
            if gradient.size:  # TensorFlow leaves the gradient of an empty one as its memory was
                yield op_case(FILTER, x, np.array(weights, np.int32), gradient, **attrs)
    yield from _rules()


def _rules() -> Iterator[Case]:
    base: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": b"SAME"}
    x, w, g = values(ONE, (2, 5, 5, 3)), values(ONE, (2, 2, 3, 2)), values(ONE, (2, 5, 5, 6))
    yield op_case(FORWARD, x, w, **{**base, "strides": [2, 1, 1, 1]})
    yield op_case(FORWARD, x, values(ONE, (2, 2, 2, 2)), **base)
    yield op_case(FORWARD, x[0], w, **base)
    yield op_case(FORWARD, x, w[0], **base)
    yield op_case(FORWARD, x, values(ONE, (2, 2, 3, 0)), **base)
    yield op_case(FORWARD, x, values(ONE, (7, 7, 3, 1)), **{**base, "padding": b"VALID"})
    sizes = np.array([2, 5, 5, 3], np.int32)
    for asked, weights, gradient in ((sizes[:2], w, g), (-sizes, w, g), (sizes.reshape(2, 2), w, g), (sizes, w[0], g),
                                     (sizes, w, g[0]), (sizes, w, g[..., :5]), (sizes, w, g[:, :4]),
                                     (sizes, w, g[:, :, :4]), (sizes, w, g[:1]), (sizes, values(ONE, (2, 2, 2, 3)), g)):
        yield op_case(INPUT, asked, weights, gradient, **base)
    sizes = np.array([2, 2, 3, 2], np.int32)
    for image, asked, gradient in ((x, sizes[:3], g), (x, -sizes, g), (x, sizes.reshape(2, 2), g), (x[0], sizes, g),
                                   (x, sizes, g[..., :5]), (x, sizes, g[:, :4]), (x, sizes, g[:1]), (x, sizes, g[0])):
        yield op_case(FILTER, image, asked, gradient, **base)
