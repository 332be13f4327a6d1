"""Pooling over windows of two sizes, in an order drawn at random, so that an image shrinks by a fraction."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime._ext.philox import Philox
from runtime.ops.pooling import lowest
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["pooling_sequence"]

Run = Callable[..., Any]


def pooling_sequence(input_length: int, output_length: int, generator: Philox,
                     pseudo_random: bool) -> np.ndarray[Any, Any]:
    """Return where the windows along a dimension begin, and where the last one ends, int64 (output_length + 1,).

    Windows have ``input_length // output_length`` cells or one more. Both ways draw from the generator even where all
    windows are of one size, as TensorFlow does.
    """
    size, larger = divmod(input_length, output_length)
    if pseudo_random:
        ratio = input_length / output_length
        limit = min((size + 2) / ratio - 1, (input_length + 1 - size) / ratio - (output_length - 1))
        start = float(generator.reserve(1).uniform_double(1)[0]) * limit
        ends = [1, *(math.ceil(ratio * (place + start)) for place in range(1, output_length)), input_length + 1]
        sizes = np.diff(np.array(ends, np.int64))
    else:
        sizes = np.full(output_length, size, np.int64)
        sizes[:larger] += 1
        sizes = sizes[generator.reserve((output_length + 3) // 4).permutation(output_length)]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None or len(shape) != 4:
        return [(None,) * 4, (None,), (None,)]
    pooled = tuple(None if size is None else _pooled(size, ratio) for size, ratio in
                   zip(shape, node.attr("pooling_ratio"), strict=True))
    return [pooled, *((None if size is None else size + 1,) for size in pooled[1:3])]


def _pooled(size: int, ratio: float) -> int:
    """Return the output size; divided in float32."""
    return int(np.float32(size) / np.float32(ratio))


def _ratios(node: Node, kind: str) -> list[float]:
    """Return the checked attr ``pooling_ratio``."""
    ratios: list[float] = node.attr("pooling_ratio")
    if len(ratios) != 4:
        raise InvalidArgument("pooling_ratio field must specify 4 dimensions")
    for ratio in ratios:
        if not ratio >= 1:
            raise InvalidArgument(f"pooling_ratio cannot be smaller than 1, got: {ratio:g}")
    if ratios[0] != 1 or ratios[3] != 1:
        raise Unimplemented(f"Fractional {kind} pooling is not yet supported on the batch nor channel dimension.")
    return ratios


def _seeds(node: Node) -> tuple[int, int]:
    """Return the seeds; zeros when each run is to draw its own."""
    seed, seed2 = node.attr("seed"), node.attr("seed2")
    if node.attr("deterministic"):
        return (seed, seed2) if seed or seed2 else (secrets.randbits(63) | 1, secrets.randbits(63))
    if seed or seed2:
        raise InvalidArgument("Both seed and seed2 should be 0 if deterministic is false.")
    return 0, 0


@kernel("FractionalMaxPool", "FractionalAvgPool", shape=_shape)
def fractional_pool(node: Node, env: KernelEnv) -> Run:
    is_average = node.op == "FractionalAvgPool"
    ratios, xp = _ratios(node, "average" if is_average else "max"), env.xp
    seeds = _seeds(node)
    pseudo_random, overlapping = node.attr("pseudo_random"), node.attr("overlapping")

    def run(image: Any) -> Any:
        if image.ndim != 4:
            raise InvalidArgument("tensor_in must be 4-dimensional")
        for axis, (size, ratio) in enumerate(zip(image.shape, ratios, strict=True)):
            if size < ratio:
                raise InvalidArgument(f"Pooling ratio is higher than input dimension size for dimension {axis}. Input "
                                      f"dim size: {size} pooling ratio: {ratio:g}")
        drawn = seeds if any(seeds) else (secrets.randbits(64), secrets.randbits(64))
        generator = Philox(*drawn)
        rows, columns = (pooling_sequence(size, _pooled(size, ratio), generator, pseudo_random)
                         for size, ratio in zip(image.shape[1:3], ratios[1:3], strict=True))
        reduce = _mean if is_average else _maximum
        result = reduce(xp, reduce(xp, image, rows, 1, overlapping), columns, 2, overlapping)
        if is_average:
            result = _divided(xp, result, rows, columns, image.shape, overlapping)
        return result.astype(image.dtype, copy=False), xp.asarray(rows), xp.asarray(columns)

    return run


def _ends(sequence: np.ndarray[Any, Any], overlapping: bool) -> np.ndarray[Any, Any]:
    """Return the end of each window; overlapping ones reach one cell into the next."""
    return np.minimum(sequence[1:] + 1, sequence[-1]) if overlapping else sequence[1:]


def _reduced(function: Any, image: Any, sequence: np.ndarray[Any, Any], axis: int, overlapping: bool) -> Any:
    """Return a dimension reduced over its windows."""
    starts = sequence[:-1]
    result = function.reduceat(image, starts, axis=axis)
    if overlapping and len(starts) > 1:
        inner = (slice(None),) * axis
        head = result[(*inner, slice(0, -1))]
        function(head, image.take(starts[1:], axis=axis), out=head)
    return result


def _maximum(xp: Any, image: Any, sequence: np.ndarray[Any, Any], axis: int, overlapping: bool) -> Any:
    """Return the maxima over windows; NaN never wins."""
    if image.dtype.kind != "f":
        return _reduced(xp.maximum, image, sequence, axis, overlapping)
    return xp.fmax(_reduced(xp.fmax, image, sequence, axis, overlapping), lowest(image.dtype))


def _mean(xp: Any, image: Any, sequence: np.ndarray[Any, Any], axis: int, overlapping: bool) -> Any:
    return _reduced(xp.add, image, sequence, axis, overlapping)


def _divided(xp: Any, sums: Any, rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any], shape: Sequence[int],
             overlapping: bool) -> Any:
    down, across = (_ends(sequence, overlapping) - sequence[:-1] for sequence in (rows, columns))
    counts = xp.asarray(down[:, None, None] * across[:, None]).astype(sums.dtype)
    if sums.dtype.kind == "i":
        return (xp.sign(sums) * (xp.abs(sums) // counts)).astype(sums.dtype)
    return sums / counts


# Gradients


def _check_sequences(rows: Any, columns: Any, sizes: Sequence[int], pooled: Sequence[int]) -> None:
    """Check that two sequences cut an image of some height and width into so many windows.

    TensorFlow reads and writes beyond its memory where they do not.
    """
    for name, sequence, size, count in (("row", rows, sizes[0], pooled[0]), ("col", columns, sizes[1], pooled[1])):
        if sequence.ndim != 1:
            raise InvalidArgument(f"{name}_pooling_sequence must be a vector, received shape "
                                  f"{format_shape(sequence.shape)}")
        if sequence.size != count + 1:
            raise InvalidArgument(f"{name}_pooling_sequence must have {count + 1} entries for {count} windows, got "
                                  f"{sequence.size}")
        if sequence[0] != 0 or sequence[-1] != size or (np.diff(sequence) <= 0).any():
            raise InvalidArgument(f"{name}_pooling_sequence must rise from 0 to {size}, got {sequence.tolist()}")


@kernel("FractionalMaxPoolGrad", shape=like_input(), host=(3, 4))
def fractional_max_pool_grad(node: Node, env: KernelEnv) -> Run:
    xp, overlapping = env.xp, node.attr("overlapping")

    def run(image: Any, output: Any, gradient: Any, rows: Any, columns: Any) -> Any:
        for name, array in (("orig_input", image), ("orig_output", output), ("out_backprop", gradient)):
            if array.ndim != 4:
                raise InvalidArgument(f"{name} should be a tensor of rank 4, got shape {format_shape(array.shape)}")
            if not array.size:
                raise InvalidArgument(f"{name} must not be empty, got shape {format_shape(array.shape)}")
        if gradient.shape != output.shape or (output.shape[0], output.shape[3]) != (image.shape[0], image.shape[3]):
            raise InvalidArgument(f"orig_input {format_shape(image.shape)}, orig_output {format_shape(output.shape)} "
                                  f"and out_backprop {format_shape(gradient.shape)} do not belong together")
        _check_sequences(rows, columns, image.shape[1:3], output.shape[1:3])
        result = xp.zeros(image.shape, gradient.dtype)
        batch, channel = xp.arange(image.shape[0])[:, None], xp.arange(image.shape[3])
        row_ends, column_ends = _ends(rows, overlapping), _ends(columns, overlapping)
        for i, j in np.ndindex(*output.shape[1:3]):
            cells = image[:, rows[i]:row_ends[i], columns[j]:column_ends[j]]
            width = cells.shape[2]
            cells = cells.reshape(image.shape[0], -1, image.shape[3])
            first = xp.argmax(cells, axis=1)
            if (xp.take_along_axis(cells, first[:, None], axis=1)[:, 0] != output[:, i, j]).any():
                raise InvalidArgument("tensor_out_dup is not the same as tensor_out")
            result[batch, rows[i] + first // width, columns[j] + first % width, channel] += gradient[:, i, j]
        return result

    return run


def _average_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) * 4]


@kernel("FractionalAvgPoolGrad", shape=_average_shape, host=(0, 2, 3))
def fractional_avg_pool_grad(node: Node, env: KernelEnv) -> Run:
    xp, overlapping = env.xp, node.attr("overlapping")

    def run(input_shape: Any, gradient: Any, rows: Any, columns: Any) -> Any:
        if input_shape.shape != (4,):
            raise InvalidArgument("original input tensor shape must be1-dimensional and 4 elements")
        if gradient.ndim != 4:
            raise InvalidArgument("out_backprop must be 4-dimensional")
        for size in gradient.shape:
            if size <= 0:
                raise InvalidArgument(f"out_backprop must be positive for all dimension, got:{size}")
        shape = tuple(input_shape.tolist())
        if (shape[0], shape[3]) != (gradient.shape[0], gradient.shape[3]):
            raise InvalidArgument(f"orig_input_tensor_shape {format_shape(shape)} and out_backprop "
                                  f"{format_shape(gradient.shape)} do not belong together")
        rows, columns = rows.reshape(-1), columns.reshape(-1)
        _check_sequences(rows, columns, shape[1:3], gradient.shape[1:3])
        down, across = (_shares(xp, sequence, overlapping) for sequence in (rows, columns))
        wide = gradient.astype(xp.float64)
        return xp.einsum("nhwc,hi,wj->nijc", wide, down, across, optimize=True).astype(gradient.dtype)

    return run


def _shares(xp: Any, sequence: np.ndarray[Any, Any], overlapping: bool) -> Any:
    """Return what each cell gets of a window's gradient, (windows, cells)."""
    starts, ends = sequence[:-1, None], _ends(sequence, overlapping)[:, None]
    cells = np.arange(sequence[-1])
    return xp.asarray(((cells >= starts) & (cells < ends)) / (ends - starts))
