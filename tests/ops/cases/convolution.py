"""Cases of convolutions, poolings and normalisations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, Case, bf16, op_case
from tests.ops.values import values

ONE = np.float32
# image, filter, strides, padding, dilations, explicit paddings
CONVOLUTIONS: tuple[tuple[Any, ...], ...] = (
    ((2, 5, 6, 3), (3, 2, 3, 4), (1, 1), "SAME", (1, 1), ()),
    ((2, 5, 6, 3), (3, 2, 3, 4), (1, 1), "VALID", (1, 1), ()),
    ((2, 7, 8, 3), (3, 3, 3, 4), (2, 3), "SAME", (1, 1), ()),
    ((2, 7, 8, 3), (3, 3, 3, 4), (2, 3), "VALID", (1, 1), ()),
    ((1, 9, 9, 2), (3, 3, 2, 3), (1, 1), "SAME", (2, 3), ()),
    ((1, 9, 9, 2), (3, 3, 2, 3), (1, 1), "VALID", (2, 2), ()),
    ((1, 4, 5, 2), (2, 3, 2, 3), (1, 2), "EXPLICIT", (1, 1), (0, 0, 1, 0, 2, 1, 0, 0)),
    ((2, 4, 4, 5), (1, 1, 5, 3), (1, 1), "VALID", (1, 1), ()),
    ((2, 4, 4, 5), (1, 1, 5, 3), (2, 2), "SAME", (1, 1), ()),
    ((2, 4, 4, 1), (4, 4, 1, 3), (1, 1), "VALID", (1, 1), ()),
    ((0, 4, 4, 3), (2, 2, 3, 1), (1, 1), "SAME", (1, 1), ()),
    ((3, 28, 28, 1), (5, 5, 1, 8), (1, 1), "SAME", (1, 1), ()),
    ((1, 3, 2, 2), (5, 4, 2, 3), (2, 2), "SAME", (1, 1), ()),
)
GROUPED = (((2, 5, 5, 4), (3, 3, 2, 6), (1, 1), "SAME", (1, 1), ()),
           ((2, 5, 5, 6), (2, 2, 1, 6), (2, 1), "VALID", (1, 1), ()))
# image, window, strides, padding, explicit paddings
POOLINGS: tuple[tuple[Any, ...], ...] = (
    ((2, 4, 6, 3), (2, 2), (2, 2), "VALID", ()), ((2, 5, 5, 3), (2, 2), (2, 2), "SAME", ()),
    ((2, 5, 7, 3), (3, 2), (1, 2), "SAME", ()), ((2, 5, 7, 3), (3, 3), (2, 1), "VALID", ()),
    ((1, 3, 3, 2), (3, 3), (3, 3), "SAME", ()), ((0, 4, 4, 2), (2, 2), (2, 2), "VALID", ()),
    ((1, 4, 4, 1), (1, 1), (2, 2), "SAME", ()),
)
INF, NAN = np.inf, np.nan


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in FLOATS:
        for geometry in CONVOLUTIONS[:4] if kind is not ONE else CONVOLUTIONS:
            yield from _convolution(kind, *geometry)
    for geometry in GROUPED:
        yield from _convolution(ONE, *geometry, only_forward=True)
    yield op_case("Conv2D", values(np.int32, (1, 4, 4, 2)), values(np.int32, (2, 2, 2, 3)), strides=[1, 1, 1, 1],
                  padding=b"SAME")
    yield from _convolution_rules()
    yield from _poolings()
    yield from _pooling_rules()
    yield from _batch_norms()
    yield from _local_response()


def tolerance(kind: Any) -> dict[str, Any]:
    """Return a tolerance for sums of many products."""
    absolute = {np.float16: 4e-3, bf16: 3e-2, np.float32: 2e-6}.get(kind, 1e-13)
    return {"relative": {np.float16: 1e-2, bf16: 4e-2, np.float32: 1e-5}.get(kind, 1e-11), "absolute": absolute}


def output_size(size: int, window: int, stride: int, padding: str, dilation: int, explicit: int) -> int:
    extent = (window - 1) * dilation + 1
    return -(-size // stride) if padding == "SAME" else (size + explicit - extent) // stride + 1


def _convolution(kind: Any, image: tuple[int, ...], weights: tuple[int, ...], strides: tuple[int, int], padding: str,
                 dilations: tuple[int, int], explicit: tuple[int, ...], only_forward: bool = False) -> Iterator[Case]:
    attrs: dict[str, Any] = {"strides": [1, *strides, 1], "padding": padding.encode(),
                             "dilations": [1, *dilations, 1], **tolerance(kind)}
    if explicit:
        attrs["explicit_paddings"] = list(explicit)
    x, w = values(kind, image, 1), values(kind, weights, 2)
    yield op_case("Conv2D", x, w, **attrs)
    if only_forward:
        return
    around = explicit or (0,) * 8
    sizes = [output_size(image[axis], weights[axis - 1], strides[axis - 1], padding, dilations[axis - 1],
                          around[2 * axis] + around[2 * axis + 1]) for axis in (1, 2)]
    gradient = values(kind, (image[0], *sizes, weights[3]), 3)
    if dilations == (1, 1):
        yield op_case("Conv2DBackpropInput", np.array(image, np.int32), w, gradient, **attrs)
        yield op_case("Conv2DBackpropFilter", x, np.array(weights, np.int32), gradient, **attrs)


def _convolution_rules() -> Iterator[Case]:
    base: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": b"VALID"}
    image, weights = values(ONE, (1, 4, 4, 3)), values(ONE, (2, 2, 3, 2))
    yield op_case("Conv2D", image, values(ONE, (2, 2, 2, 1)), **base)
    yield op_case("Conv2D", values(ONE, (1, 4, 4, 4)), values(ONE, (2, 2, 2, 3)), **base)
    yield op_case("Conv2D", values(ONE, (1, 1, 4, 3)), values(ONE, (3, 3, 3, 1)), **base)
    yield op_case("Conv2D", image, values(ONE, (2, 2, 3, 0)), **base)
    yield op_case("Conv2D", image, weights, **{**base, "strides": [2, 1, 1, 1]})
    yield op_case("Conv2D", image, weights, dilations=[2, 1, 1, 1], **base)
    gradient = values(ONE, (1, 3, 3, 2))
    sizes = np.array([1, 4, 4, 3], np.int32)
    yield op_case("Conv2DBackpropInput", np.array([4, 4], np.int32), weights, gradient, **{**base, **tolerance(ONE)})
    yield op_case("Conv2DBackpropInput", np.array([1, 5, 4, 3], np.int32), weights, gradient, **base)
    yield op_case("Conv2DBackpropInput", np.array([2, 4, 4, 3], np.int32), weights, gradient, **base)
    yield op_case("Conv2DBackpropInput", sizes, values(ONE, (2, 2, 3, 1)), gradient, **base)
    yield op_case("Conv2DBackpropFilter", image, np.array([2, 2, 3, 2], np.int32), gradient[:, :2], **base)
    yield op_case("Conv2DBackpropFilter", image, np.array([2, 2, 3, 1], np.int32), gradient, **base)
    yield op_case("Conv2DBackpropFilter", image, np.array([2, 2, 3], np.int32), gradient, **base)


def _poolings() -> Iterator[Case]:
    kinds = (*FLOATS, np.int32, np.int64, np.uint8, np.int8, np.int16, np.uint16)
    for kind in kinds:
        for image, window, strides, padding, explicit in POOLINGS if kind is ONE else POOLINGS[:3]:
            attrs: dict[str, Any] = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding.encode()}
            assert not explicit
            x = values(kind, image, 1)
            sizes = [output_size(image[axis], window[axis - 1], strides[axis - 1], padding, 1, 0) for axis in (1, 2)]
            gradient = values(kind, (image[0], *sizes, image[3]), 3)
            yield op_case("MaxPool", x, **attrs)
            # Overlapping windows add up, in another order.
            options = tolerance(kind) if kind in FLOATS else {}
            yield op_case("MaxPoolGrad", x, gradient, gradient, **attrs, **options)
            if kind in FLOATS:
                yield op_case("AvgPool", x, **attrs, **tolerance(kind))
                yield op_case("AvgPoolGrad", np.array(image, np.int32), gradient, **attrs, **tolerance(kind))
    flat = np.ones((1, 4, 4, 2), ONE)
    attrs = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": b"VALID"}
    yield op_case("MaxPoolGrad", flat, flat[:, ::2, ::2], flat[:, ::2, ::2], name="all equal", **attrs)
    overlap = {**attrs, "strides": [1, 1, 1, 1], "padding": b"SAME"}
    yield op_case("MaxPoolGrad", flat, flat, flat, name="all equal", **overlap)


def _pooling_rules() -> Iterator[Case]:
    base: dict[str, Any] = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": b"VALID"}
    image = values(ONE, (1, 2, 4, 4))
    edges = np.array([[-INF, -INF, 1], [-INF, -INF, 2]], ONE).reshape(1, 2, 3, 1)
    yield op_case("MaxPool", edges, name="infinite", **{**base, "padding": b"SAME"})
    explicit = {**base, "padding": b"EXPLICIT", "explicit_paddings": [0, 0, 1, 1, 0, 1, 0, 0]}
    yield op_case("MaxPool", image, **explicit)
    yield op_case("MaxPool", image, **{**explicit, "explicit_paddings": [0, 0, 2, 1, 1, 1, 0, 0]})
    depth = {**base, "ksize": [1, 1, 1, 2], "strides": [1, 1, 1, 2]}
    yield op_case("MaxPool", image, **depth)
    yield op_case("MaxPool", image[..., :3], **depth)
    yield op_case("MaxPool", image, **{**base, "ksize": [1, 2, 1, 2], "strides": [1, 1, 1, 2]})
    yield op_case("MaxPool", image, **{**base, "ksize": [2, 1, 1, 1], "strides": [1, 1, 1, 1]})
    yield op_case("MaxPool", values(ONE, (1, 2, 2)), **base)
    yield op_case("MaxPool", values(ONE, (1, 1, 1, 1)), **base)
    small = values(ONE, (1, 2, 2, 1))
    one = values(ONE, (1, 1, 1, 1))
    for row in ([1, NAN, 2, 3], [NAN, 1, 2, 3]):
        yield op_case("MaxPoolGrad", np.array(row, ONE).reshape(1, 2, 2, 1), one, one, name=str(row), **base)
    yield op_case("MaxPoolGrad", small, one, values(ONE, (1, 2, 1, 1)), **base)
    yield op_case("MaxPoolGrad", small, values(ONE, (1, 2, 1, 1)), one, **base)
    yield op_case("AvgPool", image, **{**base, "ksize": [2, 1, 1, 1]})
    yield op_case("AvgPool", values(ONE, (1, 2, 2)), **base)
    yield op_case("AvgPoolGrad", np.array([1, -3, 3, 1], np.int32), values(ONE, (1, 2, 2, 1)), **base)


def _batch_norms() -> Iterator[Case]:
    for kind in (np.float16, bf16, ONE):
        for shape in ((2, 3, 3, 4), (1, 1, 1, 2), (8, 5, 5, 3), (0, 2, 2, 3)):
            yield from _batch_norm(kind, shape, {})
    yield from _batch_norm(ONE, (2, 3, 4, 2, 2), {"data_format": b"NDHWC"})
    yield from _batch_norm(ONE, (2, 3, 3, 4), {"epsilon": 0.5})
    vector, image = values(ONE, (2,)), values(ONE, (2, 3, 3, 2))
    nothing = values(ONE, (0,))
    yield op_case("FusedBatchNormV3", image, values(ONE, (3,)), vector, nothing, nothing)
    yield op_case("FusedBatchNormV3", image, vector, vector, nothing, nothing, is_training=False)
    yield op_case("FusedBatchNormV3", image, vector, vector, nothing, nothing, exponential_avg_factor=0.5)
    yield op_case("FusedBatchNormV3", values(ONE, (2, 3, 2)), vector, vector, nothing, nothing)
    yield op_case("FusedBatchNormGradV3", image, values(ONE, (2, 3, 1, 2)), vector, vector, vector, nothing)
    yield op_case("FusedBatchNormGradV3", image, image, values(ONE, (3,)), vector, vector, nothing)


def _batch_norm(kind: Any, shape: tuple[int, ...], attrs: dict[str, Any]) -> Iterator[Case]:
    channels = shape[-1:]
    x, scale, offset = values(kind, shape, 1), values(ONE, channels, 2), values(ONE, channels, 3)
    mean, variance = values(ONE, channels, 4), np.abs(values(ONE, channels, 5)) + ONE(1)
    nothing = values(ONE, (0,))
    options = {**tolerance(kind), **attrs}
    if kind is ONE:
        options["relative"] = 3e-5
    def defined(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
        """Compare the outputs that TensorFlow fills; the first reserve space of an inference is whatever was there."""
        for slot in (0, 1, 2):
            if not np.allclose(ours[slot].astype(float), theirs[slot].astype(float), options["relative"],
                               options["absolute"], equal_nan=True):
                return f"output {slot}: {ours[slot]}, TensorFlow's {theirs[slot]}"
        return ""

    training: dict[str, Any] = {"compare": defined if x.size == 0 else None, **options}
    yield op_case("FusedBatchNormV3", x, scale, offset, nothing, nothing, **training)
    yield op_case("FusedBatchNormV3", x, scale, offset, mean, variance, is_training=False, compare=defined, **options)
    yield op_case("FusedBatchNormV3", x, scale, offset, mean, variance, exponential_avg_factor=0.25, **training)
    if "epsilon" not in attrs and kind is ONE and len(shape) == 4:
        for version in ("", "V2"):
            yield op_case(f"FusedBatchNorm{version}", x, scale, offset, nothing, nothing, **training)
            yield op_case(f"FusedBatchNormGrad{version}", values(kind, shape, 6), x, scale, mean, variance, **options)
    for is_training in (True, False):
        yield op_case("FusedBatchNormGradV3", values(kind, shape, 6), x, scale, mean, variance, nothing,
                      is_training=is_training, **options)


def _local_response() -> Iterator[Case]:
    for kind in (np.float16, ONE):
        for radius, alpha, beta in ((5, 1.0, 0.5), (1, 0.25, 0.75), (2, 0.5, 1.0)):
            attrs = {"depth_radius": radius, "alpha": alpha, "beta": beta, "bias": 2.0, **tolerance(kind)}
            x = values(kind, (2, 3, 2, 7), 1)
            yield op_case("LRN", x, **attrs)
            yield op_case("LRNGrad", values(kind, x.shape, 2), x, values(kind, x.shape, 3), **attrs)
    image = values(ONE, (1, 2, 5))
    yield op_case("LRN", image)
    image = values(ONE, (1, 1, 2, 5))
    yield op_case("LRNGrad", image, image, image[..., :4])
