"""Number sequences, permutations and casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


def _vector(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,)]


@kernel("Range", shape=_vector, host=(0, 1, 2))
def _range(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])
    is_integer = dtype.kind in "iu"

    def run(start: Any, limit: Any, delta: Any) -> Any:
        for value, name in ((start, "start"), (limit, "limit"), (delta, "delta")):
            if value.ndim and value.size != 1:
                raise InvalidArgument(f"{name} must be a scalar, not shape {format_shape(value.shape)}")
        first, last, step = (value.reshape(-1)[0] for value in (start, limit, delta))
        if step == 0:
            raise InvalidArgument(f"Requires delta != 0: {_number(step)}")
        if step > 0 and first > last:
            raise InvalidArgument("Requires start <= limit when delta > 0: "
                                  f"{_number(first)}/{_number(last)}")
        if step < 0 and first < last:
            raise InvalidArgument("Requires start >= limit when delta < 0: "
                                  f"{_number(first)}/{_number(last)}")
        if is_integer:
            count = -(-abs(int(last) - int(first)) // abs(int(step)))
            # Each number is the first plus so many steps, as integers wrap around.
            return (int(first) + xp.arange(count, dtype=xp.int64) * int(step)).astype(dtype)
        count = math.ceil(abs((float(last) - float(first)) / float(step)))
        return xp.add(first, xp.multiply(xp.arange(count).astype(dtype), step))

    return run


def _number(value: Any) -> str:
    return str(int(value)) if np.asarray(value).dtype.kind in "iu" else f"{float(value):g}"


@kernel("LinSpace", shape=_vector, host=(0, 1, 2))
def _lin_space(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[0])

    def run(start: Any, stop: Any, num: Any) -> Any:
        for value, name in ((start, "start"), (stop, "stop"), (num, "num")):
            if value.ndim:
                raise InvalidArgument(f"{name} must be a scalar, not shape {format_shape(value.shape)}")
        count = int(num)
        if count <= 0:
            raise InvalidArgument(f"Requires num > 0: {count}")
        result = xp.empty(count, dtype)
        first, last = start[()], stop[()]
        result[0] = first
        if count > 1:
            step = (last - first) / dtype.type(count - 1)
            result[1:] = first + step * xp.arange(1, count).astype(dtype)
            result[-1] = last
        return result

    return run


@kernel("InvertPermutation", shape=like_input())
def _invert_permutation(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(perm: Any) -> Any:
        if perm.ndim != 1:
            raise InvalidArgument("invert_permutation expects a 1D vector.")
        count = perm.shape[0]
        if count and (int(perm.min()) < 0 or int(perm.max()) >= count):
            bad = next(int(item) for item in perm if not 0 <= item < count)
            raise InvalidArgument(f"{bad} is not between 0 and {count}")
        result = xp.full(count, -1, perm.dtype)
        result[perm] = xp.arange(count, dtype=perm.dtype)
        if count and int(result.min()) < 0:
            seen: set[int] = set()
            for item in perm.tolist():
                if item in seen:
                    raise InvalidArgument(f"{item} is duplicated in the input.")
                seen.add(item)
        return result

    return run


# What TensorFlow sets to zero of a mantissa before it rounds, for those casts that it truncates.
_TRUNCATED_BITS = {
    (DataType.DOUBLE, DataType.FLOAT): 29, (DataType.DOUBLE, DataType.HALF): 42, (DataType.FLOAT, DataType.HALF): 13,
    (DataType.FLOAT, DataType.BFLOAT16): 16, (DataType.COMPLEX128, DataType.FLOAT): 29,
    (DataType.COMPLEX128, DataType.HALF): 42, (DataType.COMPLEX64, DataType.HALF): 13,
    (DataType.COMPLEX128, DataType.COMPLEX64): 29,
}


def _truncating(xp: Any, old: Any, new: Any, bits: int) -> Callable[..., Any]:
    width = old.itemsize // 2 if old.kind == "c" else old.itemsize
    real, whole = np.dtype(f"f{width}"), np.dtype(f"u{width}")
    mask = whole.type((1 << 8 * width) - (1 << bits))

    def run(value: Any) -> Any:
        if old.kind == "c" and new.kind != "c":
            value = value.real
        words = xp.ascontiguousarray(value).view(real).view(whole) & mask
        kept = words.view(value.dtype).reshape(value.shape)
        return xp.where(xp.isnan(value), value, kept).astype(new)

    return run


@kernel("Cast", shape=like_input())
def _cast(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    source, target = base(node.input_types[0]), base(node.output_types[0])
    if source == target:
        return lambda value: value
    if source.is_object or target.is_object:
        raise Unimplemented(f"Cast {source.label} to {target.label} is not supported")
    old, new = to_numpy(source), to_numpy(target)
    if node.attr("Truncate") and (source, target) in _TRUNCATED_BITS:
        return _truncating(xp, old, new, _TRUNCATED_BITS[source, target])
    if old.kind == "c" and new.kind != "c":
        return lambda value: value.real.astype(new)
    if new.kind == "u" and old.kind not in "biu":
        # A negative number becomes the unsigned one with the same low bits, as C compilers on this hardware do it.
        def to_unsigned(value: Any) -> Any:
            return value.astype(xp.int64).astype(new) if new.itemsize < 8 else value.astype(new)

        return to_unsigned
    return lambda value: value.astype(new)
