"""Summaries as serialised Summary messages.

A Summary is a list of values (field 1); a value has a tag (1) and a number (2) or a histogram (5).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import DataLoss, InvalidArgument
from runtime.checkpoint.fields import bytes_field, double_field, packed_doubles, read_fields
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["histogram"]

Run = Callable[..., Any]

_SMALLEST_BUCKET, _LARGEST_BUCKET, _GROWTH = 1e-12, 1e20, 1.1
_LARGEST = sys.float_info.max


@cache
def _limits() -> npt.NDArray[np.float64]:
    """Return the upper limits of the buckets: growing by a tenth from 1e-12 to 1e20, on both sides of zero."""
    positive = []
    limit = _SMALLEST_BUCKET
    while limit < _LARGEST_BUCKET:
        positive.append(limit)
        limit *= _GROWTH
    positive.append(_LARGEST)
    return np.array([*(-limit for limit in reversed(positive)), 0.0, *positive])


def histogram(values: npt.NDArray[Any]) -> bytes:
    """Return the HistogramProto of finite values: least 1, greatest 2, count 3, sum 4, sum of squares 5, limits 6,
    counts 7; neighbouring empty buckets are one."""
    flat = values.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        totals = [0.0 + np.cumsum(flat)[-1], np.cumsum(flat * flat)[-1]] if flat.size else [0.0, 0.0]
    head = [flat.min() if flat.size else _LARGEST, flat.max() if flat.size else -_LARGEST, float(flat.size), *totals]
    limits = _limits()
    buckets = np.bincount(np.searchsorted(limits, flat, side="right"), minlength=limits.size)
    full = np.flatnonzero(buckets)
    kept = np.zeros(limits.size, bool)
    kept[full] = True
    kept[full[full > 0] - 1] = True  # the last of a run of empty ones stands for it
    kept[-1] = True
    return b"".join((*(double_field(number, value) for number, value in enumerate(head, 1) if _is_set(value)),
                     packed_doubles(6, limits[kept].tolist()), packed_doubles(7, buckets[kept].astype(float).tolist())))


def _is_set(value: float) -> bool:
    """Tell whether a double is written: all but positive zero, the default."""
    return struct.pack("<d", value) != bytes(8)


def _scalar_string(text: bytes) -> npt.NDArray[Any]:
    result = np.empty((), object)
    result[()] = text
    return result


def _value(tag: bytes, content: bytes) -> bytes:
    return bytes_field(1, (bytes_field(1, tag) if tag else b"") + content)


@kernel("ScalarSummary", shape=scalar, host=(0,))
def scalar_summary(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(tags: Any, values: Any) -> Any:
        if tags.shape != values.shape:
            single = f" (tag '{tags.reshape(-1)[0].decode('utf-8', 'replace')}')" if tags.size == 1 else ""
            raise InvalidArgument(f"tags and values are not the same shape: {format_shape(tags.shape)} != "
                                  f"{format_shape(values.shape)}{single}")
        numbers = as_numpy(xp, values).astype(np.float32).reshape(-1).tolist()
        parts = [_value(tag, b"\x15" + struct.pack("<f", number))  # field 2, written even when it is 0
                 for tag, number in zip(tags.reshape(-1).tolist(), numbers, strict=True)]
        return _scalar_string(b"".join(parts))

    return run


@kernel("HistogramSummary", shape=scalar, host=(0,))
def histogram_summary(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(tag: Any, values: Any) -> Any:
        if tag.ndim:
            raise InvalidArgument("tags must be scalar")
        numbers = as_numpy(xp, values)
        if numbers.dtype.kind not in "iu":
            wide = numbers.astype(np.float64)
            bad = ~np.isfinite(wide)
            if bad.any():
                if np.isnan(wide.reshape(-1)[int(bad.reshape(-1).argmax())]):
                    raise InvalidArgument(f"Nan in summary histogram for: {node.name}")
                raise InvalidArgument(f"Infinity in Histogram for: {node.name}")
        return _scalar_string(_value(tag.item(), bytes_field(5, histogram(numbers))))

    return run


@kernel("MergeSummary", shape=scalar)
def merge_summary(node: Node, env: KernelEnv) -> Run:
    def run(*inputs: Any) -> Any:
        seen: set[bytes] = set()
        values: list[bytes] = []
        for array in inputs:
            for summary in array.reshape(-1).tolist():
                values += _values_of(summary, seen)
        return _scalar_string(b"".join(bytes_field(1, value) for value in values))

    return run


def _values_of(summary: bytes, seen: set[bytes]) -> Sequence[bytes]:
    """Return the values of a Summary and note their tags.

    Raises
    ------
    InvalidArgument
        If it is none, or a tag was there before.
    """
    try:
        values = [value for number, value in read_fields(summary) if number == 1 and isinstance(value, bytes)]
        tags = [next((item for number, item in read_fields(value) if number == 1 and isinstance(item, bytes)), b"")
                for value in values]
    except DataLoss:
        raise InvalidArgument("Could not parse one of the summary inputs") from None
    for tag in tags:
        if tag and tag in seen:
            raise InvalidArgument(f"Duplicate tag {tag.decode('utf-8', 'replace')} found in summary inputs ")
        seen.add(tag)
    return values
