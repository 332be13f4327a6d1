"""Cases of distributions with parameters and of candidate samplers: the values must be TensorFlow's for given seeds.

Values that pass through C's `exp`, `log` or `pow` may differ from TensorFlow's in the last places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.ops.case import FLOATS, Case, Run, graph_case, node, op_case
from tests.ops.cases.variables import fed, feeds, resource, set_up
from tests.ops.values import values

ONE = np.float32
SEEDS = ((87654321, 3), (1, 0), (-7, 12345678901234))


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _gamma()
    yield from _poisson()
    yield from _multinomial()
    yield from _truncated()
    yield from _stateful()
    yield from _candidates()
    yield from _hits()


def _gamma() -> Iterator[Case]:
    alphas = np.array([[0.1, 0.5, 1.0], [1.5, 3.0, 100.0]])
    for kind in (np.float16, np.float32, np.float64):
        close = {"relative": 1e-3 if kind is np.float16 else 1e-6 if kind is ONE else 1e-13}
        for seed, seed2 in SEEDS:
            yield op_case("RandomGamma", np.array([40]), alphas.astype(kind), seed=seed, seed2=seed2, repeat=2,
                          **close)
        yield op_case("RandomGamma", np.array([2, 3]), np.array(2, kind), seed=1, **close)
        yield op_case("RandomGamma", np.array([], np.int32), alphas.astype(kind), seed=1, **close)
    yield op_case("RandomGamma", np.array([0, 2], np.int32), alphas, seed=1)
    yield op_case("RandomGamma", np.array([2], np.int32), alphas[:0], seed=1)
    yield op_case("RandomGamma", np.array(2, np.int32), alphas, seed=1, text=False)
    yield op_case("RandomGamma", np.array([-2], np.int32), alphas, seed=1, text=False)
    for kind in (np.float32, np.float64):
        grid = np.array([0.01, 0.3, 1.0, 1.7, 5.0, 8.0], kind)
        shapes, samples = np.meshgrid(grid, np.array([0.0, 0.001, 0.2, 1.0, 1.5, 6.0, 30.0, 60.0], kind))
        yield op_case("RandomGammaGrad", shapes, samples, relative=2e-3 if kind is ONE else 1e-8, absolute=1e-6)
        yield op_case("RandomGammaGrad", np.array([2, -1, 0, 2, np.nan], kind), np.array([-1, 1, 1, np.nan, 1], kind))
        yield op_case("RandomGammaGrad", np.array([[0.5], [2]], kind), np.array([0.5, 2, 3], kind), relative=1e-4)
    yield op_case("RandomGammaGrad", np.ones(2), np.ones(3))


def _poisson() -> Iterator[Case]:
    rates = np.array([[0, 1, 3], [9, 10, 60]])
    for rate_kind in (np.float16, np.float32, np.float64, np.int32, np.int64):
        for kind in (np.float16, np.float32, np.float64, np.int32, np.int64):
            yield op_case("RandomPoissonV2", np.array([30], np.int32), rates.astype(rate_kind), seed=3, seed2=5,
                          dtype=kind)
    for seed, seed2 in SEEDS:
        yield op_case("RandomPoissonV2", np.array([5, 4]), np.array([0.3, 15, 1e6]), seed=seed, seed2=seed2, repeat=2,
                      dtype=np.int64)
    yield op_case("RandomPoissonV2", np.array([3]), np.array([np.inf, -1, -np.inf]), seed=1, dtype=np.float64)
    yield op_case("RandomPoissonV2", np.array([0]), rates, seed=1, dtype=np.int64)
    yield op_case("RandomPoissonV2", np.array([2]), rates[:0], seed=1, dtype=np.int64)
    yield op_case("RandomPoissonV2", np.array(2), rates, seed=1, dtype=np.int64, text=False)


def _multinomial() -> Iterator[Case]:
    for kind in FLOATS:
        yield op_case("Multinomial", values(kind, (4, 7)), np.array(9, np.int32), seed=3, seed2=5, repeat=2,
                      output_dtype=np.int64)
        yield op_case("StatelessMultinomial", values(kind, (4, 7)), np.array(9, np.int32), np.array([3, 7]),
                      output_dtype=np.int32)
    logits = values(ONE, (3, 5))
    logits[0, 1], logits[1, 2], logits[2] = -np.inf, np.inf, [np.nan, 0, 1, -np.inf, 5]
    for seed, seed2 in SEEDS:
        yield op_case("Multinomial", logits, np.array(20, np.int32), seed=seed, seed2=seed2, repeat=3,
                      output_dtype=np.int32)
    for seed in (np.array([1, 2], np.int32), np.array([2**40, -3])):
        yield op_case("StatelessMultinomial", logits, np.array(20, np.int32), seed, output_dtype=np.int64)
    for shape, count in (((5,), 3), ((3, 0), 3), ((0, 3), 3), ((3, 5), -1), ((3, 5), 0), ((3, 5), [3])):
        yield op_case("Multinomial", values(ONE, shape), np.array(count, np.int32), seed=1, output_dtype=np.int64)
        yield op_case("StatelessMultinomial", values(ONE, shape), np.array(count, np.int32), np.array([1, 2]),
                      output_dtype=np.int64)
    yield op_case("StatelessMultinomial", logits, np.array(20, np.int32), np.array([1, 2, 3]), output_dtype=np.int64)
    yield op_case("Multinomial", np.full((2, 3), -np.inf, ONE), np.array(5, np.int32), seed=1, output_dtype=np.int64)


def _truncated() -> Iterator[Case]:
    shape = np.array([250], np.int32)
    for kind in (np.float16, np.float32, np.float64):
        close = {"relative": 1e-3 if kind is np.float16 else 1e-6, "absolute": 1e-6}
        for mean, deviation, low, high in ((0, 1, -2, 2), (1, 2, 0.5, 9), (0, 1, 3, 4), (0, 1, 5, np.inf),
                                           (2, 3, -np.inf, -4), (0, 1, 0, 0.1), (5, 1, -1, 1), (0, 1, 0.5, 20)):
            parameters = [np.array(item, kind) for item in (mean, deviation, low, high)]
            yield op_case("ParameterizedTruncatedNormal", shape, *parameters, seed=3, seed2=5, repeat=2,
                          **close, name=f"{mean} {deviation} {low} {high}")
        several = [np.array(item, kind) for item in ([0, 1, 2], [1, 2, 3], [-1], [3, 4, np.inf])]
        yield op_case("ParameterizedTruncatedNormal", np.array([3, 5, 2]), *several, seed=3, **close)
    one = [np.array(item, ONE) for item in (0, 1, -1, 1)]
    yield op_case("ParameterizedTruncatedNormal", np.array([0, 5]), *one, seed=3)
    yield op_case("ParameterizedTruncatedNormal", np.array([], np.int32), *one, seed=3, text=False)
    yield op_case("ParameterizedTruncatedNormal", np.array(3, np.int32), *one, seed=3)
    yield op_case("ParameterizedTruncatedNormal", shape, np.zeros(2, ONE), *one[1:], seed=3)
    yield op_case("ParameterizedTruncatedNormal", shape, np.zeros((1, 1), ONE), *one[1:], seed=3)
    yield op_case("ParameterizedTruncatedNormal", shape, one[0], one[1], one[3], one[2], seed=3)
    yield op_case("ParameterizedTruncatedNormal", shape, one[0], np.array(np.nan, ONE), *one[2:], seed=3)


def _stateful() -> Iterator[Case]:
    for op in ("StatefulUniform", "StatefulStandardNormalV2"):
        for kind in FLOATS:
            yield _from_state(op, np.array([5, -7, 2**62 + 11]), [3, 7], kind)
        for start, shape, algorithm in (([-3, -1, 5], [2], 1), ([1, 2, 3, 4], [], 1), ([1, 2], [2], 1),
                                        ([[1, 2, 3]], [2], 1), ([1, 2, 3], [2], 7), ([1, 2, 3], 2, 1),
                                        ([1, 2, 3], [0], 1), ([1, 2, 3], [2], [1])):
            yield _from_state(op, np.array(start), shape, ONE, algorithm)


def _from_state(op: str, start: np.ndarray, shape: Any, kind: Any, algorithm: Any = 1) -> Case:
    inputs = {"a": np.array(algorithm), "s": np.array(shape, np.int64)}
    nodes = [*resource("v", start), *fed(**inputs),
             node(op, "op", ["v", "a", "s"], dtype=kind, shape_dtype=np.int64)]
    run = Run(feeds(**inputs), ["op:0"])
    return graph_case(op, f"{np.dtype(kind).name} {start.tolist()} {shape} {algorithm}", nodes, set_up(v=start), run,
                      Run({}, ["v_read:0"]), run, relative=0.0)


def _candidates() -> Iterator[Case]:
    true = np.array([[3, 0], [1, 49], [3, 17]])
    weights = [float(number) for number in np.arange(50) % 7 + 0.5]
    for unique in (False, True):
        for seed, seed2 in SEEDS:
            for count in (1, 7, 40):
                common = {"num_true": 2, "num_sampled": count, "unique": unique, "seed": seed, "seed2": seed2,
                          "repeat": 3, "relative": 1e-5}
                for op in ("Uniform", "LogUniform", "LearnedUnigram"):
                    yield op_case(f"{op}CandidateSampler", true, range_max=50, **common)
                yield op_case("FixedUnigramCandidateSampler", true, range_max=50, unigrams=weights, **common)
        common = {"num_true": 2, "num_sampled": 9, "unique": unique, "seed": 1, "relative": 1e-5}
        yield op_case("FixedUnigramCandidateSampler", true, range_max=52, unigrams=weights, num_reserved_ids=2,
                      distortion=0.75, **common)
        yield op_case("FixedUnigramCandidateSampler", true % 17, range_max=17, unigrams=weights, num_shards=3, shard=1,
                      num_reserved_ids=1, **common)
        yield op_case("LogUniformCandidateSampler", true * 20000, range_max=1_000_000, **common)
        yield op_case("UniformCandidateSampler", true, range_max=64, **common)
        yield op_case("UniformCandidateSampler", true, range_max=2**40 + 1, **common)
        yield op_case("LearnedUnigramCandidateSampler", true * 50, range_max=5000, **common)
        yield op_case("AllCandidateSampler", true % 9, num_true=2, num_sampled=9, unique=unique, seed=1)
    common = {"num_sampled": 5, "unique": True, "seed": 1}
    for op in ("Uniform", "LogUniform", "LearnedUnigram"):
        yield op_case(f"{op}CandidateSampler", true % 5, range_max=5, num_true=2, **common)
        yield op_case(f"{op}CandidateSampler", true % 4, range_max=4, num_true=2, **common)
        yield op_case(f"{op}CandidateSampler", true, range_max=50, num_true=3, **common)
        yield op_case(f"{op}CandidateSampler", true[0], range_max=50, num_true=1, **common)
        yield op_case(f"{op}CandidateSampler", true, range_max=49, num_true=2, **common)
        yield op_case(f"{op}CandidateSampler", -true, range_max=50, num_true=2, **common)
        yield op_case(f"{op}CandidateSampler", true[:0], range_max=50, num_true=2, **common)
    yield op_case("AllCandidateSampler", true, num_true=1, **common)
    yield op_case("AllCandidateSampler", true, num_true=2, **common)
    yield op_case("FixedUnigramCandidateSampler", true + 1, range_max=50, unigrams=weights, num_true=2, **common)
    yield op_case("FixedUnigramCandidateSampler", true, range_max=50, num_true=2, **common)
    yield op_case("FixedUnigramCandidateSampler", true, range_max=49, unigrams=weights, num_true=2, **common)


def _hits() -> Iterator[Case]:
    true = np.array([[3, 0], [1, 49], [3, 17], [5, 5]])
    for sampled in ([3, 5, 9, 0], [5, 3, 5, 3], [2], []):
        yield op_case("ComputeAccidentalHits", true, np.array(sampled, np.int64), num_true=2, name=str(sampled))
    yield op_case("ComputeAccidentalHits", true, np.array([3]), num_true=1)
    yield op_case("ComputeAccidentalHits", true[:, 0], np.array([3]), num_true=1)
    yield op_case("ComputeAccidentalHits", true, np.array([[3]]), num_true=2)
    yield op_case("ComputeAccidentalHits", true[:0], np.array([3]), num_true=2)
