"""Random numbers of distributions with parameters: for given seeds the very values that TensorFlow draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import random_distributions
from runtime._ext.errors import InvalidArgument
from runtime._ext.philox import Philox, scrambled
from runtime._ext.variable import Variable
from runtime.dtypes import DataType, to_numpy
from runtime.ops.random import draw, seeds, shape_from, stream_of
from runtime.ops.registry import kernel
from runtime.ops.shapes import broadcast, format_shape, unknown
from runtime.ops.transfer import as_numpy
from runtime.ops.variables import existing

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_BLOCKS_PER_VALUE = 256
_ALGORITHM_PHILOX = 1


def _parameterised_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    length = shapes[0][0] if shapes[0] else None
    if length is None or shapes[1] is None:
        return [None]
    return [(*(None,) * length, *shapes[1])]


# Gamma and Poisson


@kernel("RandomGamma", shape=_parameterised_shape, host=(0,))
def _random_gamma(node: Node, env: KernelEnv) -> Run:
    stream, xp = stream_of(node, env), env.xp

    def run(shape: Any, alpha: Any) -> Any:
        dims = shape_from(shape)
        samples = math.prod(dims)
        if samples * alpha.size == 0:
            return xp.zeros((*dims, *alpha.shape), alpha.dtype)
        shapes = np.ascontiguousarray(as_numpy(xp, alpha).reshape(-1), np.float64)
        drawn = random_distributions.gamma(stream.reserve_values(samples * alpha.size), shapes, samples)
        return xp.asarray(drawn.reshape((*dims, *alpha.shape))).astype(alpha.dtype, copy=False)

    return run


@kernel("RandomPoissonV2", shape=_parameterised_shape, host=(0,))
def _random_poisson(node: Node, env: KernelEnv) -> Run:
    stream, xp, dtype = stream_of(node, env), env.xp, to_numpy(node.attr("dtype"))
    highest = float(np.iinfo(dtype).max if dtype.kind == "i" else np.finfo(dtype).max)

    def run(shape: Any, rate: Any) -> Any:
        dims = shape_from(shape)
        samples = math.prod(dims)
        if samples * rate.size == 0:
            return xp.zeros((*dims, *rate.shape), dtype)
        rates = np.ascontiguousarray(as_numpy(xp, rate).reshape(-1), np.float64)
        drawn = random_distributions.poisson(stream.reserve_values(samples * rate.size), rates, samples, highest)
        return xp.asarray(_whole(drawn, dtype).reshape((*dims, *rate.shape)))

    return run


def _whole(drawn: Any, dtype: Any) -> Any:
    """Return counts as another type; what is too large for an integer becomes the largest."""
    if dtype.kind != "i":
        return drawn.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    fits = drawn < float(info.max)
    return np.where(fits, np.where(fits, drawn, 0).astype(dtype), dtype.type(info.max))


@kernel("RandomGammaGrad", shape=broadcast)
def _random_gamma_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(alpha: Any, sample: Any) -> Any:
        try:
            shapes, samples = np.broadcast_arrays(as_numpy(xp, alpha), as_numpy(xp, sample))
        except ValueError:
            raise InvalidArgument(f"Incompatible shapes: {format_shape(alpha.shape)} vs. "
                                  f"{format_shape(sample.shape)}") from None
        slopes = random_distributions.gamma_slope(np.ascontiguousarray(shapes.reshape(-1), np.float64),
                                                  np.ascontiguousarray(samples.reshape(-1), np.float64))
        return xp.asarray(slopes.reshape(shapes.shape)).astype(alpha.dtype, copy=False)

    return run


# Classes by logits


def _multinomial_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None if not shapes[0] else shapes[0][0], None)]


@kernel("Multinomial", shape=_multinomial_shape, host=(1,))
def _multinomial(node: Node, env: KernelEnv) -> Run:
    stream, xp, dtype = stream_of(node, env), env.xp, to_numpy(node.attr("output_dtype"))

    def run(logits: Any, num_samples: Any) -> Any:
        count = _check_multinomial(logits, num_samples)
        # In whole blocks of four, two numbers a sample, as TensorFlow reserves them.
        generator = stream.reserve_values(logits.shape[0] * (-(-count // 4) * 4) * 2)
        return xp.asarray(_classes(as_numpy(xp, logits), count, generator).astype(dtype, copy=False))

    return run


@kernel("StatelessMultinomial", shape=_multinomial_shape, host=(1, 2))
def _stateless_multinomial(node: Node, env: KernelEnv) -> Run:
    xp, dtype = env.xp, to_numpy(node.attr("output_dtype"))

    def run(logits: Any, num_samples: Any, seed: Any) -> Any:
        generator = Philox(*scrambled(*seeds(seed)))
        count = _check_multinomial(logits, num_samples)
        return xp.asarray(_classes(as_numpy(xp, logits), count, generator).astype(dtype, copy=False))

    return run


def _check_multinomial(logits: Any, num_samples: Any) -> int:
    if logits.ndim != 2:
        raise InvalidArgument(f"logits should be a matrix, got shape {format_shape(logits.shape)}")
    if num_samples.ndim:
        raise InvalidArgument(f"num_samples should be a scalar, got shape {format_shape(num_samples.shape)}")
    if int(num_samples) < 0:
        raise InvalidArgument(f"num_samples should be non-negative, got {int(num_samples)}")
    if not logits.shape[1]:
        raise InvalidArgument(f"num_classes should be positive, got {logits.shape[1]}")
    return int(num_samples)


def _classes(logits: Any, count: int, generator: Philox) -> Any:
    """Return classes drawn for each row of logits, int64 (rows, count)."""
    chances = generator.uniform_double(logits.shape[0] * count).reshape(logits.shape[0], count)
    result = np.empty(chances.shape, np.int64)
    for row, values in enumerate(logits):
        wide = values.astype(np.float64)
        finite = np.isfinite(wide)
        highest = wide.max(where=finite, initial=-np.inf)
        if highest == -np.inf:
            highest = 0.0
        totals = np.cumsum(np.where(finite, np.exp(wide - highest), 0.0))
        result[row] = np.searchsorted(totals, chances[row] * totals[-1], side="right")
    return result


# Streams whose state is a variable


_STATEFUL = {"StatefulStandardNormalV2": "normal", "StatefulUniform": "uniform"}


@kernel(*_STATEFUL, shape=unknown, host=(1, 2))
def _stateful_values(node: Node, env: KernelEnv) -> Run:
    distribution, datatype, xp = _STATEFUL[node.op], node.attr("dtype"), env.xp

    def run(resource: Any, algorithm: Any, shape: Any) -> Any:
        if algorithm.ndim:
            raise InvalidArgument(f"input 1 (0-based) must have shape [], not {format_shape(algorithm.shape)}")
        dims = shape_from(shape)
        size = math.prod(dims)
        generator = _advance(xp, existing(resource), int(algorithm), size * _BLOCKS_PER_VALUE)
        return xp.asarray(draw(distribution, generator, size, datatype).reshape(dims))

    return run


def _advance(xp: Any, variable: Variable, algorithm: int, blocks: int) -> Philox:
    """Return a generator that stands where a variable says, and move the variable on."""
    with variable.lock:
        state = variable.read()
        if variable.datatype != DataType.INT64:
            raise InvalidArgument(f"dtype of RNG state variable must be int64, not {DataType(variable.datatype).label}")
        if state.ndim != 1:
            raise InvalidArgument(f"RNG state must have one and only one dimension, not {state.ndim}")
        if algorithm != _ALGORITHM_PHILOX:
            raise InvalidArgument(f"Unsupported algorithm id: {algorithm}")
        if state.size < 3:
            raise InvalidArgument(f"For the Philox algorithm, the size of state must be at least 3; got {state.size}")
        low, high, key = (int(word) % 2**64 for word in as_numpy(xp, state)[:3])
        del state  # a second name would make it look shared
        after = (high << 64 | low) + blocks
        words = np.array([after % 2**64, (after >> 64) % 2**64], np.uint64).view(np.int64)
        variable.writable()[:2] = xp.asarray(words)
        return Philox(key, high, low)
