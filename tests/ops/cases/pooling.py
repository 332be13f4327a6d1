"""Cases of poolings: with sizes as inputs, with positions of maxima, second gradients, fractional windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, Case, op_case
from tests.ops.cases.convolution import POOLINGS, output_size, tolerance
from tests.ops.values import values

ONE, INF, NAN = np.float32, np.inf, np.nan
KINDS = (*FLOATS, np.int32, np.int64, np.uint8, np.int8, np.int16, np.uint16)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in KINDS:
        for image, window, strides, padding, _ in POOLINGS if kind is ONE else POOLINGS[1:3]:
            attrs: dict[str, Any] = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding.encode()}
            options = tolerance(kind) if kind in FLOATS else {}
            x = values(kind, image, 1)
            sizes = [output_size(image[axis], window[axis - 1], strides[axis - 1], padding, 1, 0) for axis in (1, 2)]
            y = values(kind, (image[0], *sizes, image[3]), 3)
            ksize, steps = (np.array(attrs[name], np.int32) for name in ("ksize", "strides"))
            yield op_case("MaxPoolV2", x, ksize, steps, padding=padding.encode())
            yield op_case("MaxPoolGradV2", x, y, y, ksize, steps, padding=padding.encode(), **options)
            yield op_case("MaxPoolGradGrad", x, y, values(kind, image, 4), **attrs)
            yield op_case("MaxPoolGradGradV2", x, y, values(kind, image, 4), ksize, steps, padding=padding.encode())
            for with_batch in (False, True) if kind is ONE else (False,):
                more = {"Targmax": np.int64, "include_batch_in_index": with_batch}
                yield op_case("MaxPoolWithArgmax", x, **attrs, **more)
                cells = x.size if with_batch else x[:1].size
                places = np.random.default_rng(5).integers(0, max(cells // max(image[0], 1), 1), y.shape)
                if with_batch:
                    places += (np.arange(image[0]) * x[:1].size)[:, None, None, None]
                yield op_case("MaxPoolGradWithArgmax", x, y, places, **attrs, **options,
                              include_batch_in_index=with_batch)
    yield from _rules()
    yield from _positions()
    yield from _fractional()


def _rules() -> Iterator[Case]:
    x, y = values(ONE, (2, 5, 5, 4)), values(ONE, (2, 3, 3, 4))
    two = np.array([1, 2, 2, 1], np.int32)
    for image, ksize, strides in ((x, two[:3], two), (x, two, two[:3]), (x, [2, 2, 2, 1], two), (x, [1, 2, 2, 2], two),
                                  (x, [1, 1, 1, 2], [1, 1, 1, 2]), (x, [1, 1, 1, 3], [1, 1, 1, 3]), (x, two * 0, two),
                                  (x, two, [1, 0, 2, 1]), (x[0], two, two), (x, two.reshape(2, 2), two)):
        yield op_case("MaxPoolV2", image, np.array(ksize, np.int32), np.array(strides, np.int32), padding=b"SAME",
                      name=f"{ksize}, {strides}")
    for image, output, gradient, ksize, strides in ((x, y[:1], y, two, two), (x, y, y[:1], two, two),
                                                    (x, y, y, two[:3], two), (x, y, y, two, two[:3]),
                                                    (x, y, y, [2, 2, 2, 1], two), (x, y, y, [1, 2, 2, 2], two),
                                                    (x[0], y, y, two, two), (x, y[0], y, two, two),
                                                    (x, y, y[0], two, two)):
        yield op_case("MaxPoolGradV2", image, output, gradient, np.array(ksize, np.int32), np.array(strides, np.int32),
                      padding=b"SAME", name=f"{ksize}, {strides}")
        if gradient is y:
            yield op_case("MaxPoolGradGradV2", image, output, x, np.array(ksize, np.int32), np.array(strides, np.int32),
                          padding=b"SAME", name=f"{ksize}, {strides}")
    base: dict[str, Any] = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": b"SAME"}
    for op in ("MaxPoolGradGrad", "MaxPoolGrad"):
        gradient = x if op == "MaxPoolGradGrad" else y
        for args in ((x, y[:1], gradient), (x, y, gradient[:1]), (x[0], y, gradient), (x, y[0], gradient),
                     (x, y, gradient[0])):
            yield op_case(op, *args, **base)
        yield op_case(op, x, y, gradient, **{**base, "ksize": [1, 2, 2, 2]})
        yield op_case(op, x, y, gradient, **{**base, "ksize": [2, 2, 2, 1]})
    flat = np.ones((1, 4, 4, 2), ONE)
    yield op_case("MaxPoolGradGrad", flat, flat[:, ::2, ::2], values(ONE, flat.shape), name="all equal", **base)
    overlap = {**base, "strides": [1, 1, 1, 1]}
    yield op_case("MaxPoolGradGrad", flat * 0, flat * 0, values(ONE, flat.shape), name="zeros", **overlap)
    nan = np.array([NAN, 1, INF, NAN], ONE).reshape(1, 2, 2, 1)
    for output in (NAN, INF, 1):
        yield op_case("MaxPoolGradGrad", nan, np.array(output, ONE).reshape(1, 1, 1, 1), nan, name=str(output), **base)


def _positions() -> Iterator[Case]:
    base: dict[str, Any] = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": b"SAME"}
    x, y = values(ONE, (2, 5, 5, 4)), values(ONE, (2, 3, 3, 4))
    for kind in (np.int32, np.int64):
        yield op_case("MaxPoolWithArgmax", x, Targmax=kind, **base)
    rows = [[1, NAN, 2, 3], [NAN, 1, 2, 3], [NAN] * 4, [-INF] * 4, [2, 2, 2, 2], [-1, 0, INF, INF]]
    edges = np.array(rows, ONE).T.reshape(1, 2, 2, len(rows))
    yield op_case("MaxPoolWithArgmax", edges, Targmax=np.int64, name="edges", **base)
    yield op_case("MaxPoolWithArgmax", edges, Targmax=np.int64, name="edges", **{**base, "strides": [1, 1, 1, 1]})
    for image, more in ((x[0], {}), (x[:0], {}), (x, {"ksize": [2, 2, 2, 1]}), (x, {"ksize": [1, 2, 2, 2]}),
                        (x, {"ksize": [1, 1, 1, 2], "strides": [1, 1, 1, 2]}),
                        (x, {"ksize": [1, 6, 6, 1], "strides": [1, 1, 1, 1], "padding": b"VALID"}),
                        (x, {"ksize": [1, 7, 7, 1], "strides": [1, 1, 1, 1], "padding": b"VALID"})):
        yield op_case("MaxPoolWithArgmax", image, Targmax=np.int64, **{**base, **more})
    places = np.zeros(y.shape, np.int64)
    for image, gradient, argmax in ((x, y, places[:1]), (x, y[:1], places), (x[0], y, places), (x, y[0], places),
                                    (x, y, places[0])):
        yield op_case("MaxPoolGradWithArgmax", image, gradient, argmax, **base)


def _fractional() -> Iterator[Case]:
    for op in ("FractionalMaxPool", "FractionalAvgPool"):
        for kind in (ONE, np.float64, np.int32, np.int64):
            for pseudo_random in (False, True):
                for overlapping in (False, True):
                    options = tolerance(kind) if kind in FLOATS else {}
                    x = values(kind, (2, 17, 23, 3), 1)
                    yield op_case(op, x, pooling_ratio=[1.0, 1.44, 1.73, 1.0], pseudo_random=pseudo_random,
                                  overlapping=overlapping, deterministic=True, seed=87654321, seed2=5, repeat=2,
                                  **options)
        base: dict[str, Any] = {"pooling_ratio": [1.0, 1.5, 1.7, 1.0], "deterministic": True, "seed": 3, "seed2": 5}
        x = values(ONE, (2, 7, 9, 3))
        for image, more in ((x, {"pooling_ratio": [2.0, 1.5, 1.7, 1.0]}), (x, {"pooling_ratio": [1.0, 1.5, 1.7, 2.0]}),
                            (x, {"pooling_ratio": [1.0, 8.5, 1.0, 1.0]}), (x, {"deterministic": False}), (x[0], {}),
                            (x[:0], {}), (x, {"pooling_ratio": [1.0, 2.0, 3.0, 1.0], "pseudo_random": True}),
                            (x, {"pooling_ratio": [1.0, 1.0, 1.4, 1.0], "overlapping": True}),
                            (x, {"pooling_ratio": [1.0, 1.0, 1.4, 1.0], "pseudo_random": True})):
            yield op_case(op, image, **{**base, **more}, **tolerance(ONE))
    edges = np.array([NAN, 1, NAN, NAN, -INF, -INF, INF, 2], ONE).reshape(1, 2, 4, 1)
    yield op_case("FractionalMaxPool", edges, pooling_ratio=[1.0, 1.0, 2.0, 1.0], deterministic=True, seed=1, seed2=1)
    yield from _fractional_gradients()


def _fractional_gradients() -> Iterator[Case]:
    rows, columns = np.array([0, 2, 3, 5]), np.array([0, 1, 3, 6])
    for kind in (ONE, np.float64, np.int32, np.int64):
        x, gradient = values(kind, (2, 5, 6, 3), 1), values(kind, (2, 3, 3, 3), 2)
        options = tolerance(kind) if kind in FLOATS else {}
        for overlapping in (False, True):
            options["overlapping"] = overlapping
            maxima = np.empty(gradient.shape, kind)
            for i, j in np.ndindex(3, 3):
                ends = rows[i + 1] + overlapping, columns[j + 1] + overlapping
                maxima[:, i, j] = x[:, rows[i]:ends[0], columns[j]:ends[1]].max((1, 2))
            yield op_case("FractionalMaxPoolGrad", x, maxima, gradient, rows, columns, **options)
            yield op_case("FractionalAvgPoolGrad", np.array(x.shape), gradient, rows, columns, **options)
    x, y = values(ONE, (2, 5, 6, 3)), values(ONE, (2, 3, 3, 3))
    told = re.compile(r"got .*")  # TensorFlow goes on with the tensor's values
    yield op_case("FractionalMaxPoolGrad", x, y, y, rows, columns)
    yield op_case("FractionalMaxPoolGrad", x, y, y, rows[None], columns)
    for image, output in ((x[0], y), (x, y[0]), (x[:0], y[:0])):
        yield op_case("FractionalMaxPoolGrad", image, output, y, rows, columns, text=told)
    sizes = np.array(x.shape)
    for shape, gradient in ((sizes[:3], y), (sizes, y[0]), (sizes, y[:0])):
        yield op_case("FractionalAvgPoolGrad", shape, gradient, rows, columns)
