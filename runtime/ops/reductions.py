"""Reductions over axes, cumulative sums and products, arg reductions, top-k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import top_k
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["reduction_axes"]

_SMALL_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16})


def reduction_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return reduction axes as a tuple of axes that are not negative.

    Raises
    ------
    InvalidArgument
        If one is out of range or named twice.
    """
    result: list[int] = []
    for axis in axes:
        if not -rank <= axis < rank:
            raise InvalidArgument(f"Invalid reduction dimension ({axis} for input with {rank} dimension(s)")
        real = axis + rank if axis < 0 else axis
        if real in result:
            raise InvalidArgument(f"Invalid reduction arguments: Axes contains duplicate dimension: {real}")
        result.append(real)
    return tuple(result)


def _reduced_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if node.attr("keep_dims") and shapes[0] is not None:
        return [(None,) * len(shapes[0])]
    return [None]


Reduce = Callable[[Any, tuple[int, ...], bool], Any]


def _reducer(node: Node, env: KernelEnv) -> Reduce:
    """Return ``reduce(array, axes, keep_dims)`` of an op and type."""
    xp = env.xp
    kind = base(node.input_types[0])
    dtype = to_numpy(kind)
    wide = xp.float32 if kind in _SMALL_FLOATS else dtype

    def ufunc(function: Any, accumulate: Any) -> Reduce:
        if accumulate == dtype:
            return lambda x, axes, keep: function.reduce(x, axes, accumulate, None, keep)
        return lambda x, axes, keep: xp.asarray(function.reduce(x, axes, accumulate, None, keep)).astype(dtype)

    match node.op:
        case "Sum":
            return ufunc(xp.add, wide)
        case "Prod":
            return ufunc(xp.multiply, wide)
        case "All":
            return ufunc(xp.logical_and, dtype)
        case "Any":
            return ufunc(xp.logical_or, dtype)
        case "Max" | "Min":
            return _extremum(node.op, xp, dtype)
        case "Mean":
            return _mean(xp, dtype, wide)
    return _euclidean_norm(xp, dtype, wide)


def _extremum(op: str, xp: Any, dtype: Any) -> Reduce:
    function = xp.maximum if op == "Max" else xp.minimum
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        identity = dtype.type(limits.min if op == "Max" else limits.max)
    else:
        identity = dtype.type(-np.inf if op == "Max" else np.inf)

    def run(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        if x.size == 0:
            return function.reduce(x, axes, None, None, keep, initial=identity)
        return function.reduce(x, axes, None, None, keep)

    return run


def _count(x: Any, axes: tuple[int, ...]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def _mean(xp: Any, dtype: Any, wide: Any) -> Reduce:
    if dtype.kind in "iu":

        def integer_mean(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
            total = xp.asarray(xp.add.reduce(x, axes, dtype, None, keep))
            count = _count(x, axes)
            if not count:
                return xp.zeros(total.shape, dtype)
            count = dtype.type(count % (1 << 8 * dtype.itemsize) if dtype.kind == "u" else count)
            return xp.floor_divide(xp.subtract(total, xp.fmod(total, count)), count)  # toward zero

        return integer_mean

    def mean(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        count = _count(x, axes)
        total = xp.add.reduce(x, axes, wide, None, keep)
        if dtype.kind == "c" and not count:
            return total  # TensorFlow's mean of no complex numbers is 0, of no real ones NaN
        total = xp.true_divide(total, xp.asarray(count, wide))
        return total if wide == dtype else xp.asarray(total).astype(dtype)

    return mean


def _euclidean_norm(xp: Any, dtype: Any, wide: Any) -> Reduce:

    def run(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        value = x if wide == dtype else x.astype(wide)
        square = xp.multiply(value, xp.conjugate(value)) if dtype.kind == "c" else xp.square(value)
        total = xp.add.reduce(square, axes, wide, None, keep)
        return xp.asarray(xp.sqrt(total)).astype(dtype)

    return run


@kernel("Sum", "Mean", "Prod", "Max", "Min", "All", "Any", "EuclideanNorm", shape=_reduced_shape, host=(1,))
def _reduce(node: Node, env: KernelEnv) -> Callable[..., Any]:
    keep = bool(node.attr("keep_dims"))
    reduce = _reducer(node, env)
    constant = env.constants.get(1)
    fixed = None if constant is None else constant.reshape(-1).tolist()
    resolved: dict[int, tuple[int, ...]] = {}

    def run(x: Any, axes_value: Any) -> Any:
        rank = x.ndim
        if fixed is None:
            axes = reduction_axes(axes_value.reshape(-1).tolist(), rank)
        else:
            found = resolved.get(rank)
            axes = resolved.setdefault(rank, reduction_axes(fixed, rank)) if found is None else found
        if not axes:
            return x if node.op != "EuclideanNorm" else reduce(x[None], (0,), False)
        return reduce(x, axes, keep)

    return run


@kernel("L2Loss", shape=lambda node, shapes: [()])
def _l2_loss(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    kind = base(node.input_types[0])
    dtype = to_numpy(kind)
    if kind in _SMALL_FLOATS:
        return lambda t: (xp.add.reduce(xp.square(t.astype(xp.float32)), None) / xp.float32(2)).astype(dtype)

    def run(t: Any) -> Any:
        flat = t.reshape(-1)
        return xp.dot(flat, flat) * dtype.type(0.5)

    return run


# --- arg reductions --------------------------------------------------------------------------------------------------


def _arg_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None,) * max(len(shapes[0]) - 1, 0)]


@kernel("ArgMax", "ArgMin", shape=_arg_shape, host=(1,))
def _arg_extremum(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    function = xp.argmax if node.op == "ArgMax" else xp.argmin
    dtype = to_numpy(node.output_types[0])
    floating = to_numpy(base(node.input_types[0])).kind not in "biu"
    lowest = -np.inf if node.op == "ArgMax" else np.inf

    def run(x: Any, dimension: Any) -> Any:
        if dimension.ndim:
            raise InvalidArgument(f"dim must be a scalar, but received tensor of shape: "
                                  f"{format_shape(dimension.shape)}")
        axis, rank = int(dimension), x.ndim
        if not -rank <= axis < rank:
            raise InvalidArgument(f"Expected dimension in the range [{-rank}, {rank}), but got {axis}")
        axis = axis + rank if axis < 0 else axis
        if x.shape[axis] == 0:
            raise InvalidArgument(f"Reduction axis {axis} is empty in shape {format_shape(x.shape)}")
        if floating:
            missing = xp.isnan(x)
            if missing.any():  # NaN never wins; numpy says it always does
                x = xp.where(missing, x.dtype.type(lowest), x)
        return xp.asarray(function(x, axis)).astype(dtype)

    return run


# --- cumulative ------------------------------------------------------------------------------------------------------


_CUMULATIVE = {"Cumsum": ("add", 0.0), "Cumprod": ("multiply", 1.0), "CumulativeLogsumexp": ("logaddexp", -np.inf)}
"""Op to function of the array namespace, and its neutral element."""


@kernel(*_CUMULATIVE, shape=like_input(), host=(1,))
def _cumulative(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    exclusive, reverse = bool(node.attr("exclusive")), bool(node.attr("reverse"))
    name, identity = _CUMULATIVE[node.op]
    function = getattr(xp, name)

    def run(x: Any, axis_value: Any) -> Any:
        if axis_value.ndim:
            raise InvalidArgument(f"ScanOp: axis must be a scalar, not {format_shape(axis_value.shape)}")
        axis, rank = int(axis_value), x.ndim
        axis = axis + rank if axis < 0 else axis
        if not 0 <= axis < rank:
            raise InvalidArgument(f"ScanOp: Expected scan axis in the range [{-rank}, {rank}), but got {axis}")
        if x.size == 0:
            return x
        lead = (slice(None),) * axis
        backwards = (*lead, slice(None, None, -1))
        value = x[backwards] if reverse else x
        if exclusive:
            result = xp.empty(x.shape, x.dtype)
            result[(*lead, slice(0, 1))] = identity
            head = value[(*lead, slice(0, -1))]
            if head.size:
                result[(*lead, slice(1, None))] = function.accumulate(head, axis, x.dtype)
        else:
            result = function.accumulate(value, axis, x.dtype)
        return result[backwards] if reverse else result

    return run


# --- top k -----------------------------------------------------------------------------------------------------------


_COMPARED = {"bfloat16": np.float32, "float16": np.float32, "int8": np.int32, "int16": np.int32, "uint8": np.int32,
             "uint16": np.int32, "uint32": np.int64}
"""Types that are compared in a wider one."""


def _top_k_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape: Shape = None if not shapes[0] else (*shapes[0][:-1], int(node.attr("k")) if node.op == "TopK" else None)
    return [shape, shape]


@kernel("TopKV2", "TopK", shape=_top_k_shape, host=(1,))
def _top_k(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(node.output_types[1])
    attr = int(node.attr("k")) if node.op == "TopK" else None

    def run(x: Any, k_value: Any = None) -> Any:
        if attr is None and k_value.ndim:
            raise InvalidArgument(f"k must be scalar, got shape {format_shape(k_value.shape)}")
        k = int(k_value) if attr is None else attr
        if k < 0:
            raise InvalidArgument(f"Need k >= 0, got {k}")
        if x.ndim < 1:
            raise InvalidArgument(f"input must be >= 1-D, got shape {format_shape(x.shape)}")
        columns = x.shape[-1]
        if columns < k:
            raise InvalidArgument(f"input must have at least k columns. Had {columns}, needed {k}")
        if k == 1:
            index = xp.expand_dims(xp.argmax(x, -1), -1)
        elif xp is np:
            rows = x.reshape(-1, columns) if columns else x.reshape(0, 0)
            values, index = top_k.largest(rows.astype(_COMPARED.get(x.dtype.name, x.dtype), copy=False), k)
            shape = (*x.shape[:-1], k)
            return values.astype(x.dtype, copy=False).reshape(shape), index.astype(dtype, copy=False).reshape(shape)
        else:
            # Sorted stably backwards and turned round: descending, and the lower index first among equals.
            index = (columns - 1 - xp.argsort(x[..., ::-1], -1, kind="stable"))[..., ::-1][..., :k]
        return xp.take_along_axis(x, index, -1), index.astype(dtype)

    return run


def _in_top_k_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[1]]


@kernel("InTopKV2", "InTopK", shape=_in_top_k_shape, host=(2,))
def _in_top_k(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    attr = int(node.attr("k")) if node.op == "InTopK" else None

    def run(predictions: Any, targets: Any, k_value: Any = None) -> Any:
        if predictions.ndim != 2:
            raise InvalidArgument("predictions must be 2-dimensional")
        if targets.ndim != 1:
            raise InvalidArgument("targets must be 1-dimensional")
        if predictions.shape[0] != targets.shape[0]:
            raise InvalidArgument(f"First dimension of predictions {predictions.shape[0]} must match length of targets "
                                  f"{targets.shape[0]}")
        if attr is None and k_value.ndim:
            raise InvalidArgument("k must be 0-D, got shape " f"{format_shape(k_value.shape)}")
        k = int(k_value) if attr is None else attr
        classes = predictions.shape[1]
        inside = (targets >= 0) & (targets < classes)
        if not classes:
            return inside
        chosen = xp.take_along_axis(predictions, xp.where(inside, targets, 0)[:, None], 1)
        finite = xp.isfinite(predictions).all(axis=1)
        return inside & finite & ((predictions > chosen).sum(axis=1) < k)

    return run
