"""Cases of the random ops: for given seeds the values must be TensorFlow's, bit for bit, run after run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, INDEX, Case, op_case
from tests.ops.values import values

SEEDS = ((87654321, 3), (1, 0), (0, 5), (-7, 12345678901234), (2**40 + 3, -1))
SHAPES = ([2], [7], [3, 5], [0, 4], [], [1000])
RUNS = 3


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for op in ("RandomUniform", "RandomStandardNormal", "TruncatedNormal"):
        for kind in FLOATS:
            for seed, seed2 in SEEDS[:2] if kind is not np.float32 else SEEDS:
                for shape in SHAPES:
                    yield op_case(op, np.array(shape, np.int32), dtype=kind, seed=seed, seed2=seed2, repeat=RUNS,
                                  relative=0.0)
        yield op_case(op, np.array([200_003]), dtype=np.float32, seed=1, relative=0.0)
        yield op_case(op, np.array(3, np.int32), dtype=np.float32, seed=1)
        yield op_case(op, np.array([[3]], np.int32), dtype=np.float32, seed=1)
        yield op_case(op, np.array([-1, 2], np.int32), dtype=np.float32, seed=1)
    yield from _integers()
    yield from _shuffles()
    yield from _stateless()


def _integers() -> Iterator[Case]:
    for kind in INDEX:
        info = np.iinfo(kind)
        for low, high in ((0, 10), (-5, 1000), (info.min, info.max), (7, 8)):
            for seed, seed2 in SEEDS:
                yield op_case("RandomUniformInt", np.array([9]), np.array(low, kind), np.array(high, kind), seed=seed,
                              seed2=seed2, repeat=RUNS)
        two, bound = np.array([2]), np.array(5, kind)
        yield op_case("RandomUniformInt", two, bound, np.array(3, kind), seed=1)
        yield op_case("RandomUniformInt", two, bound, bound, seed=1)
        yield op_case("RandomUniformInt", np.array([0]), bound, bound, seed=1)
        yield op_case("RandomUniformInt", two, np.array([5], kind), bound, seed=1)
        yield op_case("RandomUniformInt", two, bound, np.array([7, 9], kind), seed=1)


def _shuffles() -> Iterator[Case]:
    for seed, seed2 in SEEDS:
        for length in (0, 1, 2, 3, 5, 7, 16, 1000):
            yield op_case("RandomShuffle", np.arange(length), seed=seed, seed2=seed2, repeat=RUNS)
        yield op_case("RandomShuffle", values(object, (6,)), seed=seed, seed2=seed2, repeat=RUNS)
        yield op_case("RandomShuffle", values(np.float32, (6, 2, 3)), seed=seed, seed2=seed2, repeat=RUNS)
    yield op_case("RandomShuffle", np.array(3.0), seed=1)
    yield op_case("RandomShuffle", values(np.float32, (3, 0)), seed=1)


def _stateless() -> Iterator[Case]:
    shape = np.array([3, 7], np.int32)
    pairs = (np.array([1, 2]), np.array([-1, 7], np.int32), np.array([2**40, -2**50]))
    algorithm = np.array(1, np.int32)
    for seed in pairs:
        yield op_case("StatelessRandomGetKeyCounter", seed)
        yield op_case("StatelessRandomGetKeyCounterAlg", seed)
        for op in ("StatelessRandomUniform", "StatelessRandomNormal", "StatelessTruncatedNormal"):
            for kind in FLOATS:
                yield op_case(op, shape, seed, dtype=kind, relative=0.0)
        yield op_case("StatelessRandomUniformInt", shape, seed, np.array(-3), np.array(300), dtype=np.int64)
    yield op_case("StatelessRandomGetAlg")
    for key, counter in ((5, [0, 0]), (2**63 + 11, [2**64 - 2, 2**64 - 1]), (7, [9, 2**33])):
        start: tuple[Any, ...] = (shape, np.array([key], np.uint64), np.array(counter, np.uint64), algorithm)
        for op in ("StatelessRandomUniformV2", "StatelessRandomNormalV2", "StatelessTruncatedNormalV2"):
            for kind in FLOATS:
                yield op_case(op, *start, dtype=kind, relative=0.0)
        for kind in (np.int32, np.int64, np.uint32, np.uint64):
            yield op_case("StatelessRandomUniformFullIntV2", *start, dtype=kind)
        for kind in INDEX:  # TensorFlow has kernels of these types alone
            high = np.iinfo(kind).max
            yield op_case("StatelessRandomUniformIntV2", *start, np.array(2, kind), np.array(high, kind), dtype=kind)
    good = (np.array([1], np.uint64), np.array([0, 0], np.uint64), algorithm)
    yield op_case("StatelessRandomUniformV2", shape, np.array([1, 2], np.uint64), *good[1:], dtype=np.float32)
    yield op_case("StatelessRandomUniformV2", shape, *good[:2], np.array([1], np.int32), dtype=np.float32)
    yield op_case("StatelessRandomUniform", shape, np.array([1, 2, 3]), dtype=np.float32)
