"""Initial values of variables: callables of graph, shape and dtype.

>>> from runtime.graph.builder import Graph
>>> graph = Graph(seed=1)
>>> graph.variable(glorot_uniform, "w", shape=[64, 32])
<Variable 'w' shape=[64,32] dtype=float>
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime.dtypes import DataType

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.graph.tensor import Tensor

__all__ = ["Initializer", "constant", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "ones",
           "random_normal", "random_uniform", "truncated_normal", "variance_scaling", "zeros"]

Initializer = Callable[["Graph", Sequence[int], DataType], "Tensor"]

# Standard deviation of a standard normal distribution cut at two deviations: dividing by it restores the variance.
_TRUNCATED_STDDEV = 0.87962566103423978


def zeros(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Return zeros."""
    return graph.zeros(shape, dtype)


def ones(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Return ones."""
    return graph.ones(shape, dtype)


def constant(value: Any) -> Initializer:
    """Return an initializer of one repeated number, or of an array of the variable's shape."""
    return lambda graph, shape, dtype: graph.constant(value, dtype, shape=shape)


def random_uniform(minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> Initializer:
    """Return an initializer that draws evenly."""
    return lambda graph, shape, dtype: graph.random_uniform(shape, minval, maxval, dtype, seed)


def random_normal(mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> Initializer:
    """Return an initializer that draws from a normal distribution."""
    return lambda graph, shape, dtype: graph.random_normal(shape, mean, stddev, dtype, seed)


def truncated_normal(mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> Initializer:
    """Return an initializer that draws from a normal distribution cut at two deviations."""
    return lambda graph, shape, dtype: graph.truncated_normal(shape, mean, stddev, dtype, seed)


def variance_scaling(scale: float, mode: str, distribution: str, seed: int | None = None) -> Initializer:
    """Return an initializer whose variance follows the number of connections.

    Parameters
    ----------
    scale : float
        Variance is ``scale / n``.
    mode : str
        n is ``fan_in``, ``fan_out`` or ``fan_avg``.
    distribution : str
        ``uniform`` or ``truncated_normal``.
    """
    if mode not in ("fan_in", "fan_out", "fan_avg") or distribution not in ("uniform", "truncated_normal"):
        raise ValueError(f"mode {mode!r} must be fan_in, fan_out or fan_avg, and distribution {distribution!r} "
                         "uniform or truncated_normal")

    def initializer(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
        fan_in, fan_out = _fans(shape)
        count = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance = scale / max(1.0, count)
        if distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return graph.random_uniform(shape, -limit, limit, dtype, seed)
        return graph.truncated_normal(shape, 0.0, math.sqrt(variance) / _TRUNCATED_STDDEV, dtype, seed)

    return initializer


def _fans(shape: Sequence[int]) -> tuple[float, float]:
    """Return the number of inputs and outputs of one unit; filters are (..., in, out)."""
    if len(shape) < 2:
        size = float(shape[0]) if shape else 1.0
        return size, size
    field = math.prod(shape[:-2])
    return float(shape[-2] * field), float(shape[-1] * field)


def glorot_uniform(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Draw evenly from +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return variance_scaling(1.0, "fan_avg", "uniform")(graph, shape, dtype)


def glorot_normal(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Draw normally with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return variance_scaling(1.0, "fan_avg", "truncated_normal")(graph, shape, dtype)


def he_uniform(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Draw evenly from +-sqrt(6 / fan_in) (He et al., 2015)."""
    return variance_scaling(2.0, "fan_in", "uniform")(graph, shape, dtype)


def he_normal(graph: Graph, shape: Sequence[int], dtype: DataType) -> Tensor:
    """Draw normally with variance 2 / fan_in (He et al., 2015)."""
    return variance_scaling(2.0, "fan_in", "truncated_normal")(graph, shape, dtype)
