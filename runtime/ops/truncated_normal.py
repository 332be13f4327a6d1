"""Normal values between bounds: for given seeds the very values that TensorFlow draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Internal, InvalidArgument
from runtime._ext.philox import Philox
from runtime._ext.random_distributions import normal_between
from runtime._ext.running_step import stopped
from runtime.dtypes import to_numpy
from runtime.ops.random import shape_from, static_shape, stream_of
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_BATCH = 100
_TRIES = 1000
_NARROWEST = np.float16(1.3)


@kernel("ParameterizedTruncatedNormal", shape=static_shape, host=(0,))
def _truncated_normal(node: Node, env: KernelEnv) -> Run:
    stream, xp = stream_of(node, env), env.xp
    dtype = to_numpy(node.attr("dtype"))

    def run(shape: Any, *parameters: Any) -> Any:
        dims = _truncated_shape(shape)
        batches, batch = dims[0], math.prod(dims[1:])
        given = []
        for name, value in zip(("means", "stdevs", "minvals", "maxvals"), parameters, strict=True):
            if value.ndim > 1:
                raise InvalidArgument(f"Input {name} should be a scalar or vector, got shape: "
                                      f"{format_shape(value.shape)}")
            given.append(as_numpy(xp, value).reshape(-1))
        size = batches * batch
        if all(value.size == 1 for value in given):
            batches, batch = -(-size // _BATCH), _BATCH
        else:
            for name, value in zip(("means", "stdevs", "minvals", "maxvals"), given, strict=True):
                if value.size not in (1, batches):
                    raise InvalidArgument(f"Input {name} should have length 1 or shape[0], got shape: "
                                          f"{format_shape(value.shape)}")
        generator = stream.reserve(batches * 2 * _TRIES * (batch + 3) // 4)
        drawn_as = dtype if dtype.kind == "f" else np.dtype(np.float32)
        out = np.empty(size, drawn_as)
        if size:
            draw = _halves_between if dtype == np.float16 else normal_between
            status = draw(generator, out, batch, *(np.ascontiguousarray(value, drawn_as) for value in given))
            if status == -1:
                raise InvalidArgument("Invalid parameters")
            if status:
                raise Internal("TruncatedNormal randn rejection sampler failed to accept a sample.")
        return xp.asarray(out.astype(dtype, copy=False).reshape(dims))

    return run


def _truncated_shape(shape: Any) -> tuple[int, ...]:
    if shape.ndim != 1:
        raise InvalidArgument(f"Input shape should be a vector, got shape: {format_shape(shape.shape)}")
    if not shape.size:
        raise InvalidArgument("Shape tensor must not be empty, got an empty vector")
    return shape_from(shape)


# float16: every operation rounds, which numpy does as TensorFlow does


def _halves_between(generator: Philox, out: Any, batch: int, *parameters: Any) -> int:
    """Fill a float16 array; see `normal_between`."""
    for number, start in enumerate(range(0, out.size, batch)):
        if stopped():
            break
        mean, deviation, low, high = (value[number if value.size > 1 else 0] for value in parameters)
        status = _fill(generator, out[start:start + batch], mean, deviation, low, high)
        if status:
            return status
    return 0


def _fill(generator: Philox, out: Any, mean: Any, deviation: Any, low: Any, high: Any) -> int:
    if low == -np.inf or high < mean:  # mirrored, so that the lower bound is the near one
        low, high, deviation = high, low, -deviation
    first, last = (low - mean) / deviation, (high - mean) / deviation
    if not (first < last and (np.isfinite(first) or np.isfinite(last))):
        return -1
    half = np.float16
    root = np.sqrt(first * first + half(4))
    width = last - first
    cutoff = half(2) * np.exp(half(0.5) + first * (first - root) / half(4)) / (first + root)
    if (first < -_NARROWEST and last >= 0) or (last > _NARROWEST and first <= 0):
        propose, each = _propose_normal, 1
    elif width < cutoff:
        propose, each = _propose_uniform, 2
    else:
        propose, each = _propose_exponential, 1
    done = rejected = 0
    while done < out.size:
        blocks = max(8, (out.size - done) // 2)
        found, accepted = propose(generator.reserve(0), blocks, first, last, root)
        places = np.flatnonzero(accepted)
        rejected = 0 if places.size else rejected + accepted.size
        if rejected >= _TRIES:
            if propose is _propose_normal:
                return -2
            places, rejected = np.array([accepted.size - 1]), 0  # next to nothing lies between: take what is there
        places = places[:out.size - done]
        out[done:done + places.size] = found[places] * deviation + mean
        done += places.size
        used = blocks if done < out.size else int(places[-1]) // (found.size // blocks) + 1
        generator.reserve(used * each)
    return 0


def _propose_normal(stream: Philox, blocks: int, first: Any, last: Any, root: Any) -> tuple[Any, Any]:
    drawn = stream.normal_float(4 * blocks).astype(np.float16)
    return drawn, (drawn >= first) & (drawn <= last)


def _propose_uniform(stream: Philox, blocks: int, first: Any, last: Any, root: Any) -> tuple[Any, Any]:
    drawn = stream.uniform_float(8 * blocks, 10).astype(np.float16).reshape(blocks, 2, 4)
    found = (drawn[:, 0] * (last - first) + first).reshape(-1)
    peak = np.float16(0) if first < 0 else first * first
    return found, drawn[:, 1].reshape(-1) <= np.exp((peak - found * found) / np.float16(2))


def _propose_exponential(stream: Philox, blocks: int, first: Any, last: Any, root: Any) -> tuple[Any, Any]:
    drawn = stream.uniform_float(4 * blocks, 10).astype(np.float16).reshape(-1, 2)
    alpha = (first + root) / np.float16(2)
    found = -np.log(drawn[:, 0]) / alpha + first
    apart = alpha - found if first < alpha else first - alpha
    return found, (drawn[:, 1] <= np.exp(-apart * apart / np.float16(2))) & (found < last)
