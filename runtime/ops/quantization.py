"""Quantization: numbers on a grid, as integers and as floating-point values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.dtypes import base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_finfo: Callable[[Any], Any] = ml_dtypes.finfo


def _along(value: Any, rank: int, axis: int) -> Any:
    """Return one number per slice in a shape that broadcasts with a tensor; a single one as a scalar."""
    return value.reshape(()) if axis < 0 else value.reshape([-1 if i == axis else 1 for i in range(rank)])


def _half_away(xp: Any, value: Any) -> Any:
    """Round halves away from zero, as C's round does: with the number below one half no sum rounds up by itself."""
    half = xp.nextafter(value.dtype.type(0.5), value.dtype.type(0))
    return xp.trunc(value + xp.copysign(half, value))


# --- to integers -----------------------------------------------------------------------------------------------------


def _quantize_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    axis = int(node.attr("axis"))
    if axis < 0:
        return [shapes[0], (), ()]
    limits: Shape = (None,) if shapes[0] is None or axis >= len(shapes[0]) else (shapes[0][axis],)
    return [shapes[0], limits, limits]


@kernel("QuantizeV2", shape=_quantize_shape)
def _quantize(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(base(node.output_types[0]))
    mode, rounding = node.attr("mode").decode(), node.attr("round_mode").decode()
    narrow, axis = bool(node.attr("narrow_range")), int(node.attr("axis"))
    least_range = np.float32(node.attr("ensure_minimum_range"))
    if rounding == "HALF_TO_EVEN" and mode != "SCALED":
        raise InvalidArgument(f"Round mode 'HALF_TO_EVEN' only supported for mode 'SCALED', but mode is '{mode}'.")
    if axis < -1:
        raise InvalidArgument(f"Axis must be at least -1. Found {axis}")
    if axis >= 0 and mode == "MIN_FIRST":
        raise Unimplemented("MIN_FIRST mode is not implemented for Quantize with axis != -1.")
    info = np.iinfo(dtype)
    even = rounding == "HALF_TO_EVEN"

    def scaled(value: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
        least, most = np.float32(info.min + narrow), np.float32(info.max)
        largest = np.finfo(np.float32).max
        from_low = xp.where(least * low > 0, least / low, largest)
        from_high = xp.where(most * high > 0, most / high, largest)
        scale = xp.minimum(from_low, from_high)
        low, high = least / scale, most / scale
        grid = xp.clip(value, _along(low, value.ndim, axis), _along(high, value.ndim, axis))
        grid = grid * _along(scale, value.ndim, axis)
        return xp.rint(grid) if even else _half_away(xp, grid), low, high

    def combined(value: Any, low: Any, high: Any) -> Any:
        scale = ((float(info.max) - float(info.min)) / (high - low).astype(xp.float64)).astype(xp.float32)
        least, most = _along(low, value.ndim, axis), _along(high, value.ndim, axis)
        steps = (xp.clip(value, least, most) - least) * _along(scale, value.ndim, axis)
        if info.min:
            return _half_away(xp, steps - np.float32((float(info.max) - float(info.min) + 1) / 2))
        return xp.floor(steps + np.float32(0.5))

    def from_first(value: Any, low: Any, high: Any) -> Any:
        count = float(2**info.bits)
        scale = (count / ((high - low).astype(xp.float64) * (count / (count - 1)))).astype(xp.float32)
        start = _half_away(xp, low * scale)
        steps = _half_away(xp, value * _along(scale, value.ndim, axis)) - (
            _along(start, value.ndim, axis) - np.float32(info.min))
        return xp.clip(steps, np.float32(info.min), _largest_float(info.max))

    def run(value: Any, min_range: Any, max_range: Any) -> Any:
        _check_limits(value, axis, min_range, max_range)
        least, most = min_range.reshape(-1), max_range.reshape(-1)
        if axis < 0:
            least, most = least[0], most[0]
        if bool((least > most).any()):
            raise InvalidArgument("input_max_range must be larger than input_min_range.")
        zero, one = np.float32(0), np.float32(1)
        low = xp.minimum(zero, least)
        span = xp.maximum(one, xp.maximum(xp.absolute(least), xp.absolute(most))) * least_range
        high = xp.maximum(zero, xp.maximum(most, low + span))
        if mode == "SCALED":
            grid, low, high = scaled(value, low, high)
        else:
            grid = (combined if mode == "MIN_COMBINED" else from_first)(value, low, high)
        return _as_integer(grid, dtype), xp.asarray(low, xp.float32), xp.asarray(high, xp.float32)

    return run


def _largest_float(limit: int) -> np.float32:
    """Return the largest float that is not above an integer."""
    found = np.float32(limit)
    return found if int(found) <= limit else np.nextafter(found, np.float32(0))


def _as_integer(grid: Any, dtype: Any) -> Any:
    """Return whole numbers as integers: what int32 cannot hold becomes its smallest, as on this hardware."""
    return grid.astype(dtype) if dtype.itemsize == 4 else grid.astype(np.int32).astype(dtype)


def _check_limits(value: Any, axis: int, *limits: Any) -> None:
    if axis >= value.ndim:
        raise InvalidArgument("Axis must be less than input dimension(" f"{value.ndim}" ") but got " f"{axis}")
    for name, limit in zip(("min_range", "max_range"), limits, strict=True):
        if axis < 0:
            if limit.size != 1:
                raise InvalidArgument(f"If axis is not specified, {name} must contain a single float element, but it "
                                      f"contains {limit.size} elements")
        elif limit.ndim != 1:
            raise InvalidArgument(f"If axis is specified, {name} must be a 1-D tensor whose size matches the axis "
                                  f"dimension of the input and output tensors, but {name} has shape "
                                  f"{format_shape(limit.shape)}")
        elif limit.shape[0] != value.shape[axis]:
            raise InvalidArgument(f"If axis is specified, {name} must be a 1-D tensor whose size matches the axis "
                                  f"dimension of the input and output tensors, but {name} is a 1-D tensor of size "
                                  f"{limit.shape[0]} and input's axis dimension is of size {value.shape[axis]}")


# --- there and back --------------------------------------------------------------------------------------------------


@kernel("QuantizeAndDequantizeV2", shape=like_input())
def _quantize_and_dequantize(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(base(node.output_types[0]))
    signed, bits, axis = bool(node.attr("signed_input")), int(node.attr("num_bits")), int(node.attr("axis"))
    given, narrow = bool(node.attr("range_given")), bool(node.attr("narrow_range"))
    even = node.attr("round_mode") == b"HALF_TO_EVEN"
    if not 0 < bits < (62 if signed else 63):
        raise InvalidArgument(f"num_bits is out of range: {bits} with signed_input_ {int(signed)}")
    if axis < -1:
        raise InvalidArgument(f"Axis must be at least -1. Found {axis}")
    least = dtype.type((-(2 ** (bits - 1)) + narrow) if signed else 0)
    most = dtype.type(2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    largest = dtype.type(_finfo(dtype).max)

    def limits(value: Any, input_min: Any, input_max: Any) -> tuple[Any, Any]:
        if not given:
            axes = None if axis < 0 else tuple(i for i in range(value.ndim) if i != axis)
            return value.min(axis=axes), value.max(axis=axes)
        for name, limit in (("min", input_min), ("max", input_max)):
            if limit.ndim:
                raise InvalidArgument(f"input_{name} must be a scalar.")
        if bool((input_min > input_max).any()):
            raise InvalidArgument(f"Invalid range: input_min {float(input_min):g} > input_max {float(input_max):g}")
        return input_min, input_max

    def run(value: Any, input_min: Any, input_max: Any) -> Any:
        if axis >= value.ndim:
            raise InvalidArgument(f"Axis requested is larger than input dimensions. Axis: {axis} Input Dimensions: "
                                  f"{value.ndim}")
        if value.size == 0:
            return value
        low, high = limits(value, input_min, input_max)
        from_low = xp.where(least * low > 0, least / low, largest)
        from_high = xp.where(most * high > 0, most / high, largest)
        by_low = from_low < from_high
        # The side that determines the scale keeps its limit.
        scale = xp.where(by_low, from_low, from_high)
        inverse = xp.where(by_low, low / least, high / most)
        low, high = xp.where(by_low, low, least * inverse), xp.where(by_low, most * inverse, high)
        if not given:
            scale, inverse = (_along(part, value.ndim, axis) for part in (scale, inverse))
        grid = (xp.clip(value, low, high) if given else value) * scale
        grid = xp.rint(grid) if even else xp.floor(grid + dtype.type(0.5))
        return (grid * inverse).astype(dtype, copy=False)

    return run
