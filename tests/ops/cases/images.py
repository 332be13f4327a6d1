"""Cases of images: sizes, colours, boxes, parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.dtypes import DataType
from runtime.ops.resampling import KERNELS
from tests.ops.case import Case, bf16, op_case
from tests.ops.cases.arrays import ints
from tests.ops.values import values

PIXELS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64, bf16)
SIZES = ((3, 5), (8, 9), (4, 6), (1, 1), (2, 12))
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"align_corners": True}, {"half_pixel_centers": True})
BEFORE_REMOVAL = 7
"""The last version of a GraphDef that may hold RandomCrop."""

CLOSE = {"relative": 1e-5, "absolute": 2e-6}


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _sizes()
    yield from _wrong_sizes()
    yield from _size_gradients()
    yield from _scaled()
    yield from _crops()
    yield from _colours()
    yield from _suppressed()
    yield from _wrong_boxes()
    yield from _drawn()
    yield from _glimpses()
    yield from _random_parts()


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
            yield op_case("ResizeBicubicGrad", grads, values(np.float32, (2, 4, 6, 3)), name=str(size), **options,
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
    for size in ((3, 4), (1, 1), (9, 2)):
        grads = values(np.float32, (len(boxes), *size, 3), 5)
        for method in ("bilinear", "nearest"):
            yield op_case("CropAndResizeGradImage", grads, boxes, index, ints(2, 5, 6, 3), method=method,
                          T=DataType.FLOAT, name=str(size), **CLOSE)
        yield op_case("CropAndResizeGradBoxes", grads, x, boxes, index, name=str(size), **CLOSE)
    grads = values(np.float32, (len(boxes), 3, 4, 3), 5)
    for kind in (DataType.DOUBLE, DataType.HALF):
        yield op_case("CropAndResizeGradImage", grads, boxes, index, ints(2, 5, 6, 3), T=kind, absolute=1e-2)
    for kind in PIXELS[:9]:
        yield op_case("CropAndResizeGradBoxes", grads, values(kind, (2, 5, 6, 3)), boxes, index, **CLOSE)
    for sizes in (ints(2, 5, 6), ints(2, 5, 6, 2), ints(1, 5, 6, 3)):
        yield op_case("CropAndResizeGradImage", grads, boxes, index, sizes, T=DataType.FLOAT, text=False,
                      name=str(sizes))
    yield op_case("CropAndResizeGradBoxes", grads[:2], x, boxes, index, text=False)
    yield op_case("CropAndResizeGradBoxes", grads[..., :2], x, boxes, index, text=False)


def _colours() -> Iterator[Case]:
    grey = np.linspace(0, 1, 4)
    palette = np.stack(np.meshgrid(grey, grey, grey), axis=-1).reshape(1, 8, 8, 3)
    for kind, slack in ((np.float32, 1e-5), (np.float64, 1e-12), (np.float16, 4e-3), (bf16, 3e-2)):
        for op in ("RGBToHSV", "HSVToRGB"):
            yield op_case(op, palette.astype(kind), absolute=slack)
            yield op_case(op, np.abs(values(kind, (5, 3))), absolute=slack)
            yield op_case(op, values(kind, (0, 3)))
    for amount in (0.0, 0.3, -0.7, 1.0, 1.6):
        factor = np.array(amount, np.float32)
        for op in ("AdjustHue", "AdjustSaturation", "AdjustContrastv2"):
            yield op_case(op, palette.astype(np.float32), factor, name=f"{amount}", absolute=1e-5)
    one = np.array(1, np.float32)
    for op in ("AdjustHue", "AdjustSaturation", "AdjustContrastv2"):
        yield op_case(op, values(np.float32, (4, 5, 2)), one, **CLOSE)
        yield op_case(op, values(np.float32, (4, 3)), one)
        yield op_case(op, values(np.float32, (4, 0, 3)), one)
        yield op_case(op, values(np.float32, (4, 2, 3)), np.ones(1, np.float32), text=False)
    for op in ("RGBToHSV", "HSVToRGB"):
        yield op_case(op, values(np.float32, (4, 2)))
        yield op_case(op, values(np.float32, ()), text=False)


def _boxes(count: int, kind: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    boxes = random.uniform(0, 1, (count, 2)).repeat(2, axis=0).reshape(count, 4)[:, [0, 2, 1, 3]]
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + random.uniform(0.05, 0.5, (count, 2))], axis=1)
    boxes[::3] = boxes[::3, [2, 3, 0, 1]]  # corners in another order
    return boxes.astype(kind), random.permutation(count).astype(kind) / kind(count)


def _suppressed() -> Iterator[Case]:
    zero = np.array(0.2, np.float32)
    for count in (1, 7, 40):
        boxes, scores = _boxes(count)
        for limit in (0, 3, 100):
            most = np.array(limit, np.int32)
            for overlap in (0.0, 0.3, 1.0):
                threshold = np.array(overlap, np.float32)
                label = f"{count} {limit} {overlap}"
                yield op_case("NonMaxSuppressionV2", boxes, scores, most, threshold, name=label)
                yield op_case("NonMaxSuppressionV3", boxes, scores, most, threshold, zero, name=label)
                for pad in (False, True):
                    yield op_case("NonMaxSuppressionV4", boxes, scores, most, threshold, zero, name=label,
                                  pad_to_max_output_size=pad)
                for sigma in (0.0, 0.5):
                    yield op_case("NonMaxSuppressionV5", boxes, scores, most, threshold, zero,
                                  np.array(sigma, np.float32), name=f"{label} {sigma}", **CLOSE)
                overlaps = np.random.default_rng(limit).uniform(0, 1, (count, count)).astype(np.float32)
                yield op_case("NonMaxSuppressionWithOverlaps", overlaps, scores, most, threshold, zero, name=label)
    boxes, scores = _boxes(7)
    most, half = np.array(5, np.int32), np.array(0.5, np.float32)
    yield op_case("NonMaxSuppressionV3", boxes, scores * 0 + 1, most, half, half, name="equal scores")
    yield op_case("NonMaxSuppressionV3", boxes[:0], scores[:0], most, half, half)
    small, marks = _boxes(9, np.float16)
    yield op_case("NonMaxSuppressionV3", small, marks, most, half.astype(np.float16), half.astype(np.float16))
    yield op_case("NonMaxSuppressionV5", boxes, scores, most, half, half, half, pad_to_max_output_size=True, **CLOSE)


def _wrong_boxes() -> Iterator[Case]:
    boxes, scores = _boxes(7)
    most, half = np.array(5, np.int32), np.array(0.5, np.float32)
    for given in ((boxes, scores[:3], most, half, half), (boxes[:, :3], scores, most, half, half),
                  (boxes, scores, most - 9, half, half), (boxes, scores, most, half + 1, half),
                  (boxes, scores, most, half - 1, half)):
        yield op_case("NonMaxSuppressionV3", *given, name=f"{given[2]} {given[3]}")
    for given in ((boxes[0], scores, most, half, half), (boxes, scores, most.reshape(1), half, half)):
        yield op_case("NonMaxSuppressionV3", *given, text=False)
    yield op_case("NonMaxSuppressionWithOverlaps", boxes, scores, most, half, half)


def _drawn() -> Iterator[Case]:
    boxes = np.array([[[0.1, 0.1, 0.9, 0.8], [0.3, -0.5, 1.5, 0.5], [0.9, 0.9, 0.1, 0.1], [-2, -2, -1, -1],
                       [0.5, 0.5, 0.5, 0.5]]] * 2, np.float32)
    for kind in (np.float32, np.float16):
        for depth in (1, 3, 4):
            yield op_case("DrawBoundingBoxes", values(kind, (2, 9, 11, depth)), boxes)
    many = np.linspace(0, 0.4, 12 * 4).reshape(1, 12, 4).astype(np.float32) + np.array([0, 0, 0.5, 0.5], np.float32)
    yield op_case("DrawBoundingBoxes", np.zeros((1, 20, 20, 3), np.float32), many)
    x = values(np.float32, (2, 9, 11, 3))
    yield op_case("DrawBoundingBoxes", x[..., :2], boxes)
    yield op_case("DrawBoundingBoxes", x[:1], boxes)
    yield op_case("DrawBoundingBoxes", x[0], boxes)
    yield op_case("DrawBoundingBoxes", x, boxes[0])


def _inside(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Return how glimpses differ where they show the image, whose values are whole; around it is noise."""
    mine, other = ours[0], theirs[0]
    shown = other == np.rint(other)
    if not (shown == (mine == np.rint(mine))).all() or not (mine[shown] == other[shown]).all():
        return f"another part is shown: {mine}, TensorFlow's {other}"
    low, high = other[shown].min(), other[shown].max()
    return "" if ((mine >= low) & (mine <= high)).all() else "the noise is not as large as the image"


def _glimpses() -> Iterator[Case]:
    x = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6, 1) + 1
    for centred in (False, True):
        for normalised in (False, True):
            for offset in ((0.0, 0.0), (0.3, -0.6), (1.0, 1.0), (2.3, 0.9), (-1.0, 40.0)):
                offsets = np.array([offset, offset[::-1]], np.float32)
                yield op_case("ExtractGlimpse", x, ints(2, 3), offsets, name=str(offset), centered=centred,
                              normalized=normalised, noise="zero", uniform_noise=False)
    offsets = np.zeros((2, 2), np.float32)
    yield op_case("ExtractGlimpse", x, ints(7, 9), offsets, noise="uniform", compare=_inside)
    yield op_case("ExtractGlimpse", x, ints(2, 3), offsets, noise="unknown", uniform_noise=False)
    yield op_case("ExtractGlimpse", x, ints(2, 3), offsets[:1], text=False)
    yield op_case("ExtractGlimpse", x, ints(0, 3), offsets, noise="zero", uniform_noise=False)


def _random_parts() -> Iterator[Case]:
    for kind in (np.uint8, np.int64, np.float32):
        for seed in (1, 2):
            yield op_case("RandomCrop", values(kind, (9, 7, 3)), ints(4, 5, kind=np.int64), seed=seed, seed2=5,
                          repeat=3, producer=BEFORE_REMOVAL)
    x = values(np.float32, (9, 7, 3))
    for size in ((9, 7), (9, 2), (10, 7), (9, 8)):
        yield op_case("RandomCrop", x, ints(*size, kind=np.int64), name=str(size), seed=1, producer=BEFORE_REMOVAL)
    yield op_case("RandomCrop", x[0], ints(1, 1, kind=np.int64), producer=BEFORE_REMOVAL, text=False)
    box = np.array([[[0.1, 0.2, 0.7, 0.9], [0.5, 0.5, 0.6, 0.6]]], np.float32)
    for kind in (np.uint8, np.int32, np.int64):
        for covered in (0.0, 0.4, 1.0):
            for seed in (1, 2):
                yield op_case("SampleDistortedBoundingBoxV2", np.array([100, 90, 3], kind), box,
                              np.array(covered, np.float32), name=f"{covered}", seed=seed, seed2=7, repeat=3)
    size, half = np.array([60, 200, 3], np.int32), np.array(0.5, np.float32)
    options: dict[str, Any] = {"seed": 3, "seed2": 4}
    for low, high in ((0.2, 0.3), (3.0, 9.0)):
        yield op_case("SampleDistortedBoundingBoxV2", size, box, half, aspect_ratio_range=[low, high], repeat=3,
                      **options)
    yield op_case("SampleDistortedBoundingBoxV2", size, box, half, area_range=[0.9, 1.0], repeat=3, **options)
    yield op_case("SampleDistortedBoundingBoxV2", size, box, half, max_attempts=1, repeat=3, **options)
    yield op_case("SampleDistortedBoundingBoxV2", size, box[:, :0], half, use_image_if_no_bounding_boxes=True,
                  **options)
    yield op_case("SampleDistortedBoundingBoxV2", size, box[:, :0], half, **options)
    for given in ((size[:2], box, half), (size, box[0], half), (size, box * 2, half), (size, box, -half)):
        yield op_case("SampleDistortedBoundingBoxV2", *given, **options, text=False)
    for wrong in ({"area_range": [0.5, 1.5]}, {"area_range": [-0.5, 1.0]}, {"aspect_ratio_range": [0.0, 1.0]},
                  {"max_attempts": 0}):
        yield op_case("SampleDistortedBoundingBoxV2", size, box, half, **options, **wrong)
