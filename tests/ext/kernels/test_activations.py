"""Compiled activations, gradients and biases beside their Python definitions, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime._ext.errors import InvalidArgument
from runtime._ext.kernels import activations
from tests.ext.kernels.harness import Op, bf16, check, misaligned, scattered, swapped, values

FLOATS = (np.float32, np.float64, np.float16, bf16)
UNARY = ("Relu", "Relu6", "Softsign")
GRADIENTS = ("ReluGrad", "Relu6Grad", "SoftsignGrad", "TanhGrad", "SigmoidGrad", "SqrtGrad", "RsqrtGrad",
             "ReciprocalGrad", "InvGrad")
SHAPES = [(), (1,), (4,), (17,), (3, 5), (0,), (2, 0, 3), (1000,)]
SLOPES = (0.2, 0.0, -0.5, 1.0, 1.5, 1 / 3)


def test_every_op_of_the_module_is_in_these_tables() -> None:
    others = {"BiasAdd", "BiasAddV1", "LeakyRelu", "LeakyReluGrad"}
    assert set(UNARY) | set(GRADIENTS) | others == activations.OPS


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", UNARY)
def test_one_array(op: str, dtype: Any) -> None:
    for shape in SHAPES:
        x = values(shape, dtype)
        check(op, x)
        check(op, misaligned(x))
        assert check(op, x, dying=(0,)).reused == ((0,) if x.size else ())
    assert Op(op, scattered(values((3, 4), dtype))).run().declined
    assert Op(op, swapped(values((3, 4), dtype))).run().declined


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", GRADIENTS)
def test_gradients(op: str, dtype: Any) -> None:
    for shape in SHAPES:
        x, y = values(shape, dtype), values(shape, dtype, 1)
        check(op, x, y)
        check(op, misaligned(x), misaligned(y))
        for dying in ((0,), (1,), (0, 1)):
            assert check(op, x, y, dying=dying).reused == (dying[:1] if x.size else ())
    some = np.unique(values((400,), dtype))
    check(op, np.repeat(some, len(some)), np.tile(some, len(some)))


@pytest.mark.parametrize("op", [*GRADIENTS, "LeakyReluGrad"])
def test_gradients_do_not_broadcast(op: str) -> None:
    with pytest.raises(InvalidArgument):
        Op(op, values((3, 4), np.float32), values((4,), np.float32)).run()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("alpha", SLOPES)
def test_leaky_relu(alpha: float, dtype: Any) -> None:
    for shape in SHAPES:
        x, y = values(shape, dtype), values(shape, dtype, 1)
        check("LeakyRelu", x, alpha=alpha)
        check("LeakyRelu", misaligned(x), alpha=alpha, dying=(0,))
        check("LeakyReluGrad", x, y, alpha=alpha)
        check("LeakyReluGrad", misaligned(x), misaligned(y), alpha=alpha)
        check("LeakyReluGrad", x, y, alpha=alpha, dying=(1,))
    assert Op("LeakyRelu", scattered(values((3, 4), dtype)), alpha=alpha).run().declined
    assert Op("LeakyReluGrad", swapped(x), y, alpha=alpha).run().declined


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_bias(data_format: str, dtype: Any) -> None:
    axis = 1 if data_format == "NCHW" else -1
    for shape in [(3, 5), (128, 10), (1, 1), (2, 3, 4), (2, 3, 4, 5), (2, 3, 1, 2, 4), (0, 3), (3, 0), (2, 0, 3),
                  (1, 7)]:
        x, bias = values(shape, dtype), values((shape[axis],), dtype, 1)
        check("BiasAdd", x, bias, data_format=data_format)
        check("BiasAdd", misaligned(x), misaligned(bias), data_format=data_format)
        answer = check("BiasAdd", x, bias, data_format=data_format, dying=(0, 1))
        assert answer.reused == ((0,) if x.size else ())
        if axis == -1:
            check("BiasAddV1", x, bias)


@pytest.mark.parametrize(("value", "bias", "text"), [
    ((5,), (5,), "must be at least 2D"),
    ((3, 5), (3,), "as many biases"),
    ((3, 5), (1, 5), "Biases must be 1D"),
    ((3, 5), (1,), "as many biases"),
])
def test_bias_of_another_shape_is_refused(value: Any, bias: Any, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Op("BiasAdd", values(value, np.float32), values(bias, np.float32)).run()


def test_large_arrays() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 500)).astype(np.float32)
    y = rng.standard_normal((600, 500)).astype(np.float32)
    check("Relu", x, dying=(0,))
    check("ReluGrad", x, y, dying=(0,))
    check("LeakyRelu", x, alpha=0.1)
    check("LeakyReluGrad", x, y, alpha=0.1)
    check("BiasAdd", x, y[0])
