"""Cases of images: sizes, colours, boxes, parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.ops.resampling import KERNELS
from tests.ops.case import Case, bf16, op_case
from tests.ops.cases.arrays import ints
from tests.ops.values import values

PIXELS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64, bf16)
SIZES = ((3, 5), (8, 9), (4, 6), (1, 1), (2, 12))
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"align_corners": True}, {"half_pixel_centers": True})
CLOSE = {"relative": 1e-5, "absolute": 2e-6}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _sizes()
    yield from _wrong_sizes()
    yield from _size_gradients()
    yield from _scaled()
    yield from _crops()


def _sizes() -> Iterator[Case]:
    for op in ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"):
        for options in OPTIONS if op != "ResizeArea" else OPTIONS[:2]:
            for size in SIZES:
                yield op_case(op, values(np.float32, (2, 4, 6, 3)), ints(*size), name=str(size), **options, **CLOSE)
            yield op_case(op, values(np.float32, (1, 37, 23, 1)), ints(11, 50), **options, **CLOSE)
        for kind in PIXELS:
            yield op_case(op, values(kind, (1, 3, 4, 2)), ints(5, 3), **CLOSE)
        yield op_case(op, values(np.float32, (0, 4, 6, 3)), ints(2, 2))


def _wrong_sizes() -> Iterator[Case]:
    x = values(np.float32, (1, 4, 6, 3))
    for op in ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"):
        for image, size in ((x, (0, 3)), (x, (-1, 3)), (x[:, :0], (3, 3))):
            yield op_case(op, image, ints(*size), name=str(size))
        yield op_case(op, x, ints(3), text=False)
        yield op_case(op, x[0], ints(3, 3), text=False)
        if op != "ResizeArea":
            yield op_case(op, x, ints(3, 3), align_corners=True, half_pixel_centers=True)


def _size_gradients() -> Iterator[Case]:
    for options in OPTIONS:
        for size in SIZES:
            grads = values(np.float32, (2, *size, 3))
            yield op_case("ResizeBilinearGrad", grads, values(np.float32, (2, 4, 6, 3)), name=str(size), **options,
                          **CLOSE)
            yield op_case("ResizeNearestNeighborGrad", grads, ints(4, 6), **options, **CLOSE)
    for kind in (np.float64, np.float16, bf16):
        yield op_case("ResizeBilinearGrad", values(np.float32, (1, 3, 5, 2)), values(kind, (1, 4, 6, 2)),
                      absolute={np.float64: 1e-6, np.float16: 4e-3, bf16: 3e-2}[kind])
    for kind in (np.uint8, np.int8, np.int32, np.float16, np.float64):
        yield op_case("ResizeNearestNeighborGrad", values(kind, (1, 7, 5, 2)), ints(3, 4), absolute=4e-3)
    yield op_case("ResizeNearestNeighborGrad", values(np.float32, (1, 7, 5, 2)), ints(0, 4), text=False)


def _scaled() -> Iterator[Case]:
    x = values(np.float32, (2, 7, 9, 2))
    for name in KERNELS:
        for antialias in (False, True):
            for scale, move, size in (((1.5, 0.4), (0.0, 0.5), (8, 5)), ((0.3, 2.0), (1.0, -3.0), (4, 12))):
                factor, shift = np.array(scale, np.float32), np.array(move, np.float32)
                options: dict[str, Any] = {"kernel_type": name, "antialias": antialias}
                label = f"{scale} {move}"
                yield op_case("ScaleAndTranslate", x, ints(*size), factor, shift, name=label, **options,
                              relative=1e-4, absolute=1e-5)
                yield op_case("ScaleAndTranslateGrad", values(np.float32, (2, *size, 2)), x, factor, shift, name=label,
                              **options, relative=1e-4, absolute=1e-5)
    one, none = np.ones(2, np.float32), np.zeros(2, np.float32)
    for kind in PIXELS:
        yield op_case("ScaleAndTranslate", values(kind, (1, 3, 4, 2)), ints(4, 4), one * 1.3, none, absolute=1e-5)
    yield op_case("ScaleAndTranslate", x, ints(3, 3), none, none)
    yield op_case("ScaleAndTranslate", x, ints(3, 3), one, none, kernel_type="unknown")
    yield op_case("ScaleAndTranslate", x, ints(3, 3), np.ones(3, np.float32), none, text=False)
    yield op_case("ScaleAndTranslate", x, ints(3, 3), one, none + 50)


def _crops() -> Iterator[Case]:
    boxes = np.array([[0, 0, 1, 1], [0.2, 0.1, 0.7, 0.9], [0.9, 1, 0, 0], [-0.3, 0.2, 1.4, 0.6], [0.5, 0.5, 0.5, 0.5]],
                     np.float32)
    index = ints(0, 1, 1, 0, 1)
    for method in ("bilinear", "nearest"):
        for size in ((3, 4), (1, 1), (9, 2)):
            yield op_case("CropAndResize", values(np.float32, (2, 5, 6, 3)), boxes, index, ints(*size), name=str(size),
                          method=method, **CLOSE)
        for kind in PIXELS[:9]:
            yield op_case("CropAndResize", values(kind, (2, 5, 6, 1)), boxes, index, ints(3, 4), method=method,
                          extrapolation_value=2.5, **CLOSE)
    x = values(np.float32, (2, 5, 6, 3))
    yield op_case("CropAndResize", x, boxes, index + 1, ints(3, 3))
    yield op_case("CropAndResize", x, boxes, index[:3], ints(3, 3))
    yield op_case("CropAndResize", x, boxes, index, ints(0, 3))
    yield op_case("CropAndResize", x, boxes[:, :3], index, ints(3, 3), text=False)
    yield op_case("CropAndResize", x, boxes[:0], index[:0], ints(3, 3))
