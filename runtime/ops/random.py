"""Random ops: for given seeds the very values that TensorFlow draws.

The stream of a stateful op belongs to its node in a session and goes on from step to step. Every run reserves 256
blocks for each value it returns, whatever it uses, so that runs never overlap.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime._ext.philox import Philox, scrambled
from runtime._ext.running_step import claim
from runtime.dtypes import DataType, to_numpy
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input, scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["Stream", "draw", "seeds", "shape_from", "static_shape", "stream_of"]

Run = Callable[..., Any]

_BLOCKS_PER_VALUE = 256
_MAX_ELEMENTS = 2**63 - 1
_ALG_PHILOX, _ALG_AUTO = 1, 3


class Stream:
    """The generator of one node; several steps may reserve from it at once."""

    def __init__(self, seed: int, seed2: int) -> None:
        if not seed and not seed2:
            seed, seed2 = secrets.randbits(64), secrets.randbits(64)
        self._generator = Philox(seed, seed2)
        self._lock = threading.Lock()

    def reserve_values(self, count: int) -> Philox:
        """Return a generator for `count` values."""
        return self.reserve(count * _BLOCKS_PER_VALUE)

    def reserve(self, blocks: int) -> Philox:
        """Return a generator for so many blocks of four words."""
        with self._lock:
            return self._generator.reserve(blocks % 2**64)  # no memory holds the values that would need more


def stream_of(node: Node, env: KernelEnv) -> Stream:
    """Return the session's stream for a node with the attrs ``seed`` and ``seed2``."""
    return env.session.kernel_state(env.path + node.name, node.op,
                                    lambda: Stream(node.attr("seed"), node.attr("seed2")))


def draw(distribution: str, generator: Philox, size: int, datatype: DataType) -> np.ndarray[Any, Any]:
    """Return `size` values of ``uniform``, ``normal`` or ``truncated`` (normal) as an array of a floating type."""
    if datatype == DataType.DOUBLE:
        values: np.ndarray[Any, Any] = getattr(generator, f"{distribution}_double")(size)
        return values
    if distribution == "uniform":
        bits = {DataType.HALF: 10, DataType.BFLOAT16: 7}.get(datatype, 23)
        values = generator.uniform_float(size, bits)
    else:
        values = getattr(generator, f"{distribution}_float")(size)
    return values.astype(to_numpy(datatype), copy=False)


def shape_from(value: Any) -> tuple[int, ...]:
    """Return the shape that a shape input asks for."""
    if value.ndim != 1:
        raise InvalidArgument("shape must be a vector of {int32,int64}, got shape " + format_shape(value.shape))
    shape = tuple(value.tolist())
    total = 1
    for dim in shape:
        if dim < 0:
            raise InvalidArgument(f"Dimension {dim} must be >= 0")
        total *= dim
    if total > _MAX_ELEMENTS:
        raise InvalidArgument(f"Shape {format_shape(shape)} would have more than 2**63 - 1 elements")
    claim(2 * total)  # at least; before the stream moves on
    return shape


def static_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """The output has the shape that the first input asks for: its rank is that vector's length."""
    length = shapes[0][0] if shapes[0] else None
    return [None if length is None else (None,) * length]


_DISTRIBUTIONS = {"RandomUniform": "uniform", "RandomStandardNormal": "normal", "TruncatedNormal": "truncated"}


@kernel(*_DISTRIBUTIONS, shape=static_shape, host=(0,))
def random_values(node: Node, env: KernelEnv) -> Run:
    distribution, datatype = _DISTRIBUTIONS[node.op], node.attr("dtype")
    stream, xp = stream_of(node, env), env.xp

    def run(shape: Any) -> Any:
        dims = shape_from(shape)
        size = int(np.prod(dims, dtype=np.int64))
        return xp.asarray(draw(distribution, stream.reserve_values(size), size, datatype).reshape(dims))

    return run


@kernel("RandomUniformInt", shape=static_shape, host=(0, 1, 2))
def random_uniform_int(node: Node, env: KernelEnv) -> Run:
    wide = node.attr("Tout") == DataType.INT64
    stream, xp = stream_of(node, env), env.xp

    def run(shape: Any, minval: Any, maxval: Any) -> Any:
        dims = shape_from(shape)
        _check_bounds(minval, maxval)
        size = int(np.prod(dims, dtype=np.int64))
        if size == 0:
            return xp.empty(dims, minval.dtype)
        low, high = int(minval), int(maxval)
        if low >= high:
            raise InvalidArgument(f"Need minval < maxval, got {low} >= {high}")
        generator = stream.reserve_values(size)
        drawn = generator.uniform_int64(size, low, high) if wide else generator.uniform_int32(size, low, high)
        return xp.asarray(drawn.reshape(dims))

    return run


def _check_bounds(minval: Any, maxval: Any) -> None:
    for name, value in (("minval", minval), ("maxval", maxval)):
        if value.ndim:
            raise InvalidArgument(f"{name} must be 0-D, got shape {format_shape(value.shape)}")


@kernel("RandomShuffle", shape=like_input())
def random_shuffle(node: Node, env: KernelEnv) -> Run:
    stream, xp = stream_of(node, env), env.xp

    def run(value: Any) -> Any:
        if value.size <= 1 or value.shape[0] <= 1:
            return value
        size = value.shape[0]
        order = stream.reserve((size + 2) // 4).permutation(size)  # the last place has nothing to swap with
        return xp.take(value, xp.asarray(order), axis=0)

    return run


# Stateless ops: the stream follows from the inputs.


def seeds(seed: Any) -> tuple[int, int]:
    """Return the two numbers of a seed of a stateless op."""
    if seed.shape != (2,):
        raise InvalidArgument(f"seed must have shape [2], not {format_shape(seed.shape)}")
    return int(seed[0]), int(seed[1])


def _algorithm(value: Any) -> None:
    if value.ndim:
        raise InvalidArgument(f"input 3 (0-based) must have shape [], not {format_shape(value.shape)}")
    if int(value) not in (_ALG_PHILOX, _ALG_AUTO):
        raise Unimplemented(f"random number algorithm {int(value)} does not run here; use 1 (Philox) or 3 (automatic)")


def _generator(key: Any, counter: Any, alg: Any) -> Philox:
    _algorithm(alg)
    if key.shape != (1,):
        raise InvalidArgument(f"key must have shape [1], not {format_shape(key.shape)}. (Note that batched keys are "
                              "not supported yet.)")
    if counter.ndim != 1 or counter.shape[0] < 2:
        raise InvalidArgument(f"counter must be a vector of at least 2 elements, not {format_shape(counter.shape)}")
    return Philox(int(key[0]), int(counter[1]), int(counter[0]))


_STATELESS = {"StatelessRandomUniform": "uniform", "StatelessRandomNormal": "normal",
              "StatelessTruncatedNormal": "truncated"}


@kernel(*_STATELESS, shape=static_shape, host=(0, 1))
def stateless_values(node: Node, env: KernelEnv) -> Run:
    distribution, datatype, xp = _STATELESS[node.op], node.attr("dtype"), env.xp

    def run(shape: Any, seed: Any) -> Any:
        dims = shape_from(shape)
        key, counter = scrambled(*seeds(seed))
        size = int(np.prod(dims, dtype=np.int64))
        return xp.asarray(draw(distribution, Philox(key, counter), size, datatype).reshape(dims))

    return run


@kernel(*(f"{op}V2" for op in _STATELESS), shape=static_shape, host=(0, 1, 2, 3))
def stateless_values_v2(node: Node, env: KernelEnv) -> Run:
    distribution, datatype, xp = _STATELESS[node.op.removesuffix("V2")], node.attr("dtype"), env.xp

    def run(shape: Any, key: Any, counter: Any, alg: Any) -> Any:
        dims = shape_from(shape)
        size = int(np.prod(dims, dtype=np.int64))
        return xp.asarray(draw(distribution, _generator(key, counter, alg), size, datatype).reshape(dims))

    return run


def _integers(generator: Philox, dims: tuple[int, ...], datatype: DataType, low: int, high: int) -> Any:
    """Return integers in [low, high) of a 32-bit or 64-bit type."""
    dtype = to_numpy(datatype)
    size = int(np.prod(dims, dtype=np.int64))
    signed = np.iinfo(np.dtype(f"i{dtype.itemsize}"))
    # The arithmetic is modulo the width of the type, so unsigned bounds may be given as signed ones.
    wrapped = [value - (signed.max + 1) * 2 if value > signed.max else value for value in (low, high)]
    method = generator.uniform_int32 if dtype.itemsize == 4 else generator.uniform_int64
    return method(size, *wrapped).view(dtype).reshape(dims)


def _checked_range(minval: Any, maxval: Any, dims: tuple[int, ...]) -> tuple[int, int]:
    _check_bounds(minval, maxval)
    low, high = int(minval), int(maxval)
    if low >= high and 0 not in dims:
        raise InvalidArgument(f"Need minval < maxval, got {low} >= {high}")
    return low, high


@kernel("StatelessRandomUniformInt", shape=static_shape, host=(0, 1, 2, 3))
def stateless_uniform_int(node: Node, env: KernelEnv) -> Run:
    datatype, xp = node.attr("dtype"), env.xp

    def run(shape: Any, seed: Any, minval: Any, maxval: Any) -> Any:
        dims = shape_from(shape)
        low, high = _checked_range(minval, maxval, dims)
        key, counter = scrambled(*seeds(seed))
        return xp.asarray(_integers(Philox(key, counter), dims, datatype, low, high))

    return run


@kernel("StatelessRandomUniformIntV2", shape=static_shape, host=(0, 1, 2, 3, 4, 5))
def stateless_uniform_int_v2(node: Node, env: KernelEnv) -> Run:
    datatype, xp = node.attr("dtype"), env.xp

    def run(shape: Any, key: Any, counter: Any, alg: Any, minval: Any, maxval: Any) -> Any:
        dims = shape_from(shape)
        low, high = _checked_range(minval, maxval, dims)
        return xp.asarray(_integers(_generator(key, counter, alg), dims, datatype, low, high))

    return run


@kernel("StatelessRandomUniformFullIntV2", shape=static_shape, host=(0, 1, 2, 3))
def stateless_uniform_full_int(node: Node, env: KernelEnv) -> Run:
    dtype, xp = to_numpy(node.attr("dtype")), env.xp

    def run(shape: Any, key: Any, counter: Any, alg: Any) -> Any:
        dims = shape_from(shape)
        size = int(np.prod(dims, dtype=np.int64))
        words = _generator(key, counter, alg).words(size * dtype.itemsize // 4)
        return xp.asarray(words.view(dtype).reshape(dims))

    return run


def _key_counter_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(1,), (2,), ()][:len(node.output_types)]


@kernel("StatelessRandomGetKeyCounter", "StatelessRandomGetKeyCounterAlg", shape=_key_counter_shape, host=(0,))
def key_counter(node: Node, env: KernelEnv) -> Run:
    with_algorithm = node.op.endswith("Alg")

    def run(seed: Any) -> tuple[Any, ...]:
        key, counter = scrambled(*seeds(seed))
        pair = np.array([key], np.uint64), np.array([0, counter], np.uint64)
        return (*pair, np.int32(_ALG_PHILOX)) if with_algorithm else pair

    return run


@kernel("StatelessRandomGetAlg", shape=scalar)
def get_algorithm(node: Node, env: KernelEnv) -> Run:
    return lambda: np.int32(_ALG_PHILOX)
