"""Places in sorted values: bounds, buckets, histograms, and the n-th element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


_MANY_VALUES = 32
"""From so many values a row on, one search a row is faster than one for all rows."""


def _bounds_of_rows(rows: Any, values: Any, lower: bool) -> Any:
    result = np.empty(values.shape, np.int64)
    for found, row, wanted in zip(result, rows, values, strict=True):
        found[:] = np.searchsorted(row, wanted, "left" if lower else "right")
    if lower and values.dtype.kind == "f":
        result[values != values] = 0  # nothing is below NaN
    return result


@kernel("LowerBound", "UpperBound", shape=like_input(1))
def _bound(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    lower = node.op == "LowerBound"
    dtype = to_numpy(node.output_types[0])

    def run(rows: Any, values: Any) -> Any:
        for name, value in (("sorted_inputs", rows), ("values", values)):
            if value.ndim != 2:
                raise InvalidArgument(f"Shape must be rank 2 but is rank {value.ndim} for `{name}` argument")
        if rows.shape[0] != values.shape[0]:
            raise InvalidArgument("Leading dim_size of both tensors must match.")
        if rows.shape[1] > np.iinfo(dtype).max:
            raise InvalidArgument(f"sorted_inputs has {rows.shape[1]} columns, more than {dtype} can number")
        if xp is np and values.shape[1] >= _MANY_VALUES and values.dtype.kind in "iuf":
            return _bounds_of_rows(rows, values, lower).astype(dtype)
        # Halve the interval of every value at once: what is below `low` stands before the value, what is from `high`
        # on does not.
        low = xp.zeros(values.shape, xp.int64)
        high = xp.full(values.shape, rows.shape[1], xp.int64)
        for _ in range(rows.shape[1].bit_length()):
            middle = (low + high) // 2
            open_ = low < high
            found = xp.take_along_axis(rows, xp.minimum(middle, rows.shape[1] - 1), 1)
            goes_before = (found < values if lower else ~(values < found)) & open_
            low = xp.where(goes_before, middle + 1, low)
            high = xp.where(open_ & ~goes_before, middle, high)
        return low.astype(dtype)

    return run


@kernel("Bucketize", shape=like_input())
def _bucketize(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    boundaries = [float(np.float32(value)) for value in node.attr("boundaries")]
    if boundaries != sorted(boundaries):
        raise InvalidArgument("Expected sorted boundaries")
    # A number is compared with a boundary in the wider of its type and float.
    dtype = xp.float64 if to_numpy(base(node.input_types[0])) == np.float64 else xp.float32
    edges = xp.asarray(boundaries, dtype)
    return lambda value: xp.searchsorted(edges, value.astype(dtype), side="right").astype(xp.int32)


def _histogram_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,)]


@kernel("HistogramFixedWidth", shape=_histogram_shape, host=(1, 2))
def _histogram(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def run(values: Any, value_range: Any, nbins: Any) -> Any:
        if value_range.shape != (2,):
            raise InvalidArgument("value_range should be a vector of 2 elements.")
        if nbins.ndim:
            raise InvalidArgument("nbins should be a scalar.")
        low, high = value_range
        if not low < high:
            raise InvalidArgument("value_range should satisfy value_range[0] < value_range[1], but got "
                                  f"'[{_number(low)}, {_number(high)}]'")
        bins = int(nbins)
        if bins <= 0:
            raise InvalidArgument(f"nbins should be a positive number, but got '{bins}'")
        flat = values.reshape(-1)
        if flat.dtype.kind == "f" and bool(xp.isnan(flat).any()):
            raise InvalidArgument("Histogram values must not contain NaN")
        width = (float(high) - float(low)) / bins
        place = (xp.maximum(flat, low) - low).astype(xp.float64) / width
        index = xp.minimum(place, bins - 1).astype(xp.int64)
        return xp.bincount(index, minlength=bins).astype(dtype)

    return run


def _number(value: Any) -> str:
    return str(int(value)) if value.dtype.kind in "iu" else f"{float(value):g}"


def _nth_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0][:-1] if shapes[0] else None]


@kernel("NthElement", shape=_nth_shape, host=(1,))
def _nth_element(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    reverse = bool(node.attr("reverse"))

    def run(value: Any, n_value: Any) -> Any:
        if n_value.ndim:
            raise InvalidArgument(f"N must be scalar but has rank {n_value.ndim}")
        n = int(n_value)
        if n < 0:
            raise InvalidArgument(f"n must be non-negative but is {n}")
        if value.ndim < 1:
            raise InvalidArgument(f"Input must be at least rank 1 but is rank {value.ndim}")
        columns = value.shape[-1]
        if columns <= n:
            raise InvalidArgument(f"Input must have last dimension > n = {n}")
        if math.prod(value.shape[:-1]) == 0:
            return xp.empty(value.shape[:-1], value.dtype)
        place = columns - 1 - n if reverse else n
        return xp.partition(value, place, -1)[..., place]

    return run
