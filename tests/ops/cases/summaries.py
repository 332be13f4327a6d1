"""Cases of summaries: the serialised messages must be TensorFlow's, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.checkpoint.fields import read_fields
from runtime.images import png
from tests.ops.case import COMPLEX, FLOATS, INTEGERS, Case, op_case
from tests.ops.values import values

ONE = np.float32


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for kind in (*FLOATS, *INTEGERS):
        yield op_case("ScalarSummary", b"loss", np.array(3, kind))
        yield op_case("HistogramSummary", b"weights", values(kind, (40,)))
    for number in (0.0, -0.0, 1.5, np.nan, np.inf, 0.1):
        yield op_case("ScalarSummary", b"a", np.array(number), name=str(number))
    yield op_case("ScalarSummary", _texts(b"a", b"b", b""), np.array([1, 2, 3], ONE))
    yield op_case("ScalarSummary", _texts(), np.array([], ONE))
    yield op_case("ScalarSummary", _texts(b"a"), np.array(1, ONE))
    yield op_case("ScalarSummary", _texts(b"a", b"b"), np.zeros((1, 2), ONE))
    for data in ([1, 2, 3.5, -4, 0, 0], [], [1e-13, 1e21, -1e30, 1e-12, -1e-12], [1.0, 1.1, 1.21], [-0.0], [0.0],
                 [np.nan, np.inf], [np.inf, np.nan], [1e20, 1e22, 1.7e308], [-1.7e308]):
        yield op_case("HistogramSummary", b"h", np.array(data, np.float64), name=str(data))
    yield op_case("HistogramSummary", b"h", np.random.default_rng(0).normal(size=(30, 20)).astype(ONE))
    yield op_case("HistogramSummary", b"", np.array(7, ONE))
    yield op_case("HistogramSummary", _texts(b"a"), np.array(7, ONE))
    yield from _merges()
    yield from _tensors()
    yield from _images()
    yield from _sounds()


def _texts(*items: bytes) -> np.ndarray[Any, Any]:
    result = np.empty(len(items), object)
    result[:] = items
    return result


def _merges() -> Iterator[Case]:
    first, second = b"\n\x08\n\x01x\x15\x00\x00\x80?", b"\n\x08\n\x01y\x15\x00\x00\x00@"
    yield op_case("MergeSummary", first)
    yield op_case("MergeSummary", first, second)
    yield op_case("MergeSummary", _texts(first, second), _texts(b""))
    yield op_case("MergeSummary", first, first)
    yield op_case("MergeSummary", first, b"\xff\xff")
    yield op_case("MergeSummary", b"\n\x05\x15\x00\x00\x80?", b"\n\x05\x15\x00\x00\x80?", name="no tags")


def _tensors() -> Iterator[Case]:
    metadata = b"\n\x06\n\x04text"
    for kind in (*FLOATS, *INTEGERS, *COMPLEX, np.bool_, object):
        yield op_case("TensorSummaryV2", b"t", values(kind, (2, 3)), metadata)
        yield op_case("TensorSummary", values(kind, (2, 3)), description="d", labels=["a"], display_name="n")
    yield op_case("TensorSummaryV2", b"", values(object, ()), b"")
    yield op_case("TensorSummaryV2", _texts(b"t"), values(ONE, ()), metadata, text=False)
    yield op_case("TensorSummaryV2", b"t", values(ONE, ()), _texts(metadata), text=False)


def _images() -> Iterator[Case]:
    for kind in (np.uint8, np.float16, np.float32, np.float64):
        for channels in (1, 3, 4):
            images = values(kind, (2, 5, 7, channels)) * (kind(30) if kind is np.uint8 else kind(1))
            yield op_case("ImageSummary", b"i", images, compare=_same_images)
            yield op_case("ImageSummary", b"i", np.abs(images), max_images=1, compare=_same_images)
    spoilt = values(ONE, (4, 3, 3, 3))
    spoilt[0, 1, 1, 0], spoilt[1, 0, 0, 2], spoilt[2], spoilt[3] = np.nan, np.inf, np.nan, 0
    yield op_case("ImageSummary", b"i", spoilt, max_images=4, compare=_same_images)
    yield op_case("ImageSummary", b"i", spoilt, max_images=2, bad_color=np.array([1, 2, 3, 4], np.uint8),
                  compare=_same_images)
    yield op_case("ImageSummary", b"i", spoilt, bad_color=np.array([1, 2], np.uint8))
    yield op_case("ImageSummary", b"i", values(np.uint8, (1, 90, 120, 3)), compare=_same_images)
    for shape in ((5, 7, 1), (2, 5, 7, 2), (2, 5, 7, 5), (0, 5, 7, 1)):
        yield op_case("ImageSummary", b"i", values(ONE, shape), compare=_same_images)
    yield op_case("ImageSummary", _texts(b"i"), spoilt)


def _same_images(ours: list[Any], theirs: list[Any]) -> str:
    """Compare what is in the files: the ways to pack them differ."""
    sides = [[_image(value) for number, value in read_fields(side[0].item()) if number == 1] for side in (ours, theirs)]
    if len(sides[0]) != len(sides[1]):
        return f"there are {len(sides[0])} images, TensorFlow has {len(sides[1])}"
    for mine, other in zip(*sides):
        if mine[0] != other[0]:
            return f"the image is {mine[0]}, TensorFlow's {other[0]}"
        if not np.array_equal(mine[1], other[1]):
            return f"the pixels of {mine[0]} are {mine[1].tolist()}, TensorFlow's {other[1].tolist()}"
    return ""


def _image(value: Any) -> tuple[Any, np.ndarray]:
    fields = dict(read_fields(value))
    image: Any = dict(read_fields(fields[4]))
    return (fields[1], *(image.get(number) for number in (1, 2, 3))), png.decode(bytes(image[4]), 0, False)


def _sounds() -> Iterator[Case]:
    rate = np.array(44100, ONE)
    sound = np.clip(values(ONE, (2, 20, 2)), -1.5, 1.5)
    yield op_case("AudioSummaryV2", b"a", sound, rate)
    yield op_case("AudioSummaryV2", b"a", sound[:, :, 0].copy(), rate, max_outputs=1)
    yield op_case("AudioSummaryV2", b"a", np.array([[0.5 / 32768, -0.5 / 32768, 1, -1, 0]], ONE), np.array(0.3, ONE))
    yield op_case("AudioSummaryV2", b"a", sound[:0], rate)
    yield op_case("AudioSummaryV2", b"a", sound[:, :0], rate)
    yield op_case("AudioSummaryV2", b"a", sound[:, :, :0], rate)
    yield op_case("AudioSummaryV2", b"a", sound[0, 0], rate)
    yield op_case("AudioSummaryV2", b"a", sound, np.array(0, ONE))
    yield op_case("AudioSummaryV2", _texts(b"a"), sound, rate)
