"""Compiled softmax and cross entropies beside their Python definitions."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from tests.ext.kernels.harness import Op, bf16, misaligned, scattered, swapped, values

FLOATS = (np.float32, np.float64)
ALL = (*FLOATS, np.float16, bf16)
# rows of one, shorter and longer than a vector, than a block, and more of them than a block holds
SHAPES = [(1, 1), (3, 1), (1, 7), (128, 10), (5, 16), (7, 33), (700, 3), (2, 2048), (3, 2049), (1, 5000), (300, 200)]


def finite(shape: Any, dtype: Any, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype)


def labels_for(shape: Any, dtype: Any, seed: int = 5) -> Any:
    parts = np.abs(finite(shape, dtype, seed)) + dtype(1e-3)
    return (parts / parts.sum(-1, keepdims=True)).astype(dtype)


def near(op: str, *inputs: Any, dying: Any = ()) -> Any:
    """Run both; a logarithm of a probability near one is a difference of numbers of the size of one."""
    made = Op(op, *inputs)
    expected, answer = made.run(compiled=False), made.run(dying=dying)
    assert not answer.declined
    for ours, theirs in zip(answer.outputs, expected.outputs, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), close(theirs.dtype),
                                   close(theirs.dtype))
    return answer


def close(dtype: Any) -> float:
    epsilon = float(ml_dtypes.finfo(dtype).eps)
    return epsilon if epsilon > 1e-4 else 60 * epsilon  # of 16 bits both are rounded once


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_rows(op: str, dtype: Any) -> None:
    for shape in [*SHAPES, (4,), (2, 3, 5), (2, 1, 3, 4)]:
        x = finite(shape, dtype)
        near(op, x)
        near(op, misaligned(x))
        assert near(op, x, dying=(0,)).reused == ((0,) if dtype in FLOATS else ())
    assert Op(op, scattered(finite((3, 4), dtype))).run().declined
    if dtype in FLOATS:
        assert Op(op, swapped(finite((3, 4), dtype))).run().declined
    for shape in ((0, 4), (4, 0)):
        assert Op(op, finite(shape, dtype)).run().outputs[0].shape == shape


@pytest.mark.parametrize("dtype", ALL)
def test_dense_cross_entropy(dtype: Any) -> None:
    for shape in SHAPES:
        x, labels = finite(shape, dtype), labels_for(shape, dtype)
        near("SoftmaxCrossEntropyWithLogits", x, labels)
        near("SoftmaxCrossEntropyWithLogits", x, labels, dying=(0,))
        near("SoftmaxCrossEntropyWithLogits", misaligned(x), misaligned(labels))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("label_type", [np.int32, np.int64])
def test_sparse_cross_entropy(label_type: Any, dtype: Any) -> None:
    for shape in SHAPES:
        x = finite(shape, dtype)
        labels = np.random.default_rng(2).integers(0, shape[1], shape[0]).astype(label_type)
        near("SparseSoftmaxCrossEntropyWithLogits", x, labels)
        near("SparseSoftmaxCrossEntropyWithLogits", x, labels, dying=(0, 1))
        near("SparseSoftmaxCrossEntropyWithLogits", misaligned(x), misaligned(labels))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_special_value_stays_in_its_row(special: float, dtype: Any) -> None:
    for columns in (3, 40):
        x = finite((4, columns), dtype)
        x[1, 1] = special
        x[2] = special
        for op in ("Softmax", "LogSoftmax"):
            near(op, x)
        labels = np.zeros((4, columns), dtype)
        labels[:, 0] = 1
        for op, given in (("SoftmaxCrossEntropyWithLogits", labels),
                          ("SparseSoftmaxCrossEntropyWithLogits", np.zeros(4, np.int32))):
            near(op, x, given)


def test_extreme_logits_do_not_overflow() -> None:
    x = np.array([[1e38, -1e38, 0], [-3e38, -3e38, -3e38], [88, 89, 90]], np.float32)
    for op in ("Softmax", "LogSoftmax"):
        near(op, x)


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    with pytest.raises(InvalidArgument, match=f"label value of {label} which is outside"):
        Op("SparseSoftmaxCrossEntropyWithLogits", finite((2, 3), np.float32), np.array([0, label], np.int32)).run()


def test_other_shapes_go_to_the_definition() -> None:
    x = finite((4, 3), np.float32)
    answer = Op("SoftmaxCrossEntropyWithLogits", x, labels_for((1, 3), np.float32)).run()
    assert answer.declined
    assert answer.outputs[1].shape == (4, 3)
    with pytest.raises(InvalidArgument, match="same first dimension"):
        Op("SparseSoftmaxCrossEntropyWithLogits", x, np.zeros(3, np.int32)).run()
    with pytest.raises(InvalidArgument, match="1 dimension"):
        Op("Softmax", values((), np.float32)).run()


def test_large_arrays() -> None:
    x = finite((4000, 100), np.float32)
    near("Softmax", x)
    near("LogSoftmax", x)
