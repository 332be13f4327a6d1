"""Compiled batch normalisation and its gradients beside their Python definitions."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import batch_norm
from tests.ext.kernels.harness import Answer, Array, Op, bf16, misaligned, scattered

FORWARD = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
BACKWARD = ("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
# one value per channel, rows shorter and longer than a vector, more channels than are done together, several parts
SHAPES = [(1, 1, 1, 1), (2, 3, 4, 5), (5, 7, 3, 16), (3, 2, 2, 130), (1, 1, 9, 300), (8, 40, 40, 33), (2, 100, 90, 3)]


def image(shape: tuple[int, ...], layout: str, seed: int = 0) -> Array:
    """Return an image of a shape with channels last, in a layout; its channels differ in place and spread."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    values = rng.standard_normal(shape) * np.linspace(0.5, 3, channels) + np.linspace(-1, 1, channels)
    if layout.startswith("NC"):
        values = np.moveaxis(values, -1, 1)
    return np.ascontiguousarray(values, np.float32)


def vectors(channels: int, count: int, seed: int = 7) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [(rng.random(channels) + 0.5).astype(np.float32) for _ in range(count)]


def near(op: str, *inputs: Array, dying: tuple[int, ...] = (), **attrs: Any) -> Answer:
    made = Op(op, *inputs, **attrs)
    before = [value.tobytes() for value in inputs]
    expected, answer = made.run(compiled=False), made.run(dying=dying)
    assert not answer.declined
    assert [value.tobytes() for value in inputs] == before
    for ours, theirs in zip(answer.outputs, expected.outputs, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        place = 0.0 if theirs.dtype == np.float32 else float(ml_dtypes.finfo(theirs.dtype).eps)
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
        largest = float(np.abs(theirs).max()) if theirs.size else 0.0
        np.testing.assert_allclose(ours, theirs, 1e-4 + place, 2e-5 * largest + 1e-6)
    return answer


def test_every_op_of_the_module_is_in_these_tables() -> None:
    assert {*FORWARD, *BACKWARD} == batch_norm.OPS


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("op", FORWARD)
def test_images(op: str, training: bool, layout: str) -> None:
    for shape in SHAPES:
        scale, offset, mean, variance = vectors(shape[-1], 4)
        if training and op == "FusedBatchNorm":
            mean = variance = np.zeros(0, np.float32)
        x = image(shape, layout)
        attrs = {"is_training": training, "data_format": layout, "epsilon": 1e-3}
        near(op, x, scale, offset, mean, variance, **attrs)
        near(op, misaligned(x), *map(misaligned, (scale, offset, mean, variance)), **attrs)
        assert near(op, x, scale, offset, mean, variance, dying=(0,), **attrs).reused == (0,)
    assert Op(op, scattered(image((2, 3, 4, 5), "NHWC")), *vectors(5, 4), is_training=training).run().declined


@pytest.mark.parametrize("dtype", [np.float16, bf16])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("training", [True, False])
def test_images_of_16_bits(training: bool, layout: str, dtype: Any) -> None:
    for shape in SHAPES[1:6]:
        x, dy = image(shape, layout).astype(dtype), image(shape, layout, 1).astype(dtype)
        scale, offset, mean, variance = vectors(shape[-1], 4)
        attrs = {"is_training": training, "data_format": layout, "epsilon": 1e-3}
        near("FusedBatchNormV3", x, scale, offset, mean, variance, **attrs)
        near("FusedBatchNormV2", misaligned(x), scale, offset, mean, variance, **attrs)
        near("FusedBatchNormGradV3", dy, x, scale, mean, variance, np.zeros((), np.float32), dying=(0, 1), **attrs)
        near("FusedBatchNormGradV2", dy, misaligned(x), scale, mean, variance, **attrs)


@pytest.mark.parametrize("factor", [0.1, 0.9, 1.0])
def test_moving_averages(factor: float) -> None:
    for shape, layout in itertools.product(SHAPES[:4], ("NHWC", "NCHW")):
        near("FusedBatchNormV3", image(shape, layout), *vectors(shape[-1], 4), is_training=True, data_format=layout,
             exponential_avg_factor=factor)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("op", BACKWARD)
def test_gradients_of_images(op: str, training: bool, layout: str) -> None:
    for shape in SHAPES:
        x, dy = image(shape, layout), image(shape, layout, 1)
        axes = (0, 2, 3) if layout == "NCHW" else (0, 1, 2)
        scale, mean, variance = vectors(shape[-1], 1)[0], x.mean(axes), x.var(axes)
        more = [np.zeros((), np.float32)] if op.endswith("V3") else []
        attrs = {"is_training": training, "data_format": layout, "epsilon": 1e-3}
        near(op, dy, x, scale, mean, variance, *more, **attrs)
        near(op, misaligned(dy), misaligned(x), scale, mean, variance, *more, **attrs)
        for dying in ((0,), (1,), (0, 1)):
            assert near(op, dy, x, scale, mean, variance, *more, dying=dying, **attrs).reused == dying[:1]


@pytest.mark.parametrize("layout", ["NDHWC", "NCDHW"])
def test_volumes(layout: str) -> None:
    x, dy = image((2, 3, 4, 5, 6), layout), image((2, 3, 4, 5, 6), layout, 1)
    near("FusedBatchNormV3", x, *vectors(6, 4), is_training=True, data_format=layout)
    near("FusedBatchNormGradV3", dy, x, *vectors(6, 3), np.zeros((), np.float32), is_training=True,
         data_format=layout)


def test_moments_of_numbers_far_from_zero() -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((40, 30, 30, 4)) + 1e4).astype(np.float32)
    x[0, 0, 0] = -1e6  # the first one far from all the others
    answer = Op("FusedBatchNormV3", x, *vectors(4, 4), is_training=True).run()
    np.testing.assert_allclose(answer.outputs[3], x.mean((0, 1, 2), np.float64), 1e-6)
    np.testing.assert_allclose(answer.outputs[4], x.var((0, 1, 2), np.float64), 1e-4)


def test_special_values_stay_in_their_channel() -> None:
    x = image((2, 3, 4, 5), "NHWC")
    x[0, 0, 0, 1], x[1, 1, 1, 3] = np.nan, np.inf
    made = Op("FusedBatchNormV3", x, *vectors(5, 4), is_training=True)
    for ours, theirs in zip(made.run().outputs, made.run(compiled=False).outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)


def test_other_shapes_and_types_go_to_the_definition() -> None:
    x = image((2, 3, 4, 5), "NHWC")
    with pytest.raises(InvalidArgument, match="same number of elements"):
        Op("FusedBatchNormV3", x, vectors(4, 1)[0], *vectors(5, 3), is_training=True).run()
    with pytest.raises(InvalidArgument):
        Op("FusedBatchNormV3", x[0], *vectors(5, 4), is_training=True).run()
    assert Op("FusedBatchNormV3", x[:0], *vectors(5, 4), is_training=True).run().declined
    assert Op("FusedBatchNormV3", x.astype(np.float16)[:0], *vectors(5, 4), is_training=True).run().declined
