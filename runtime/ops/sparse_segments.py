"""Reductions over segments of rows that indices pick, and their gradients: what embeddings are looked up with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.row_sums import sum_rows, wide_type
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_NAMES = ("Sum", "Mean", "SqrtN")


def _column(array: Any, ndim: int) -> Any:
    """Return a vector of one number for each row, to be combined with rows."""
    return array.reshape((-1,) + (1,) * (ndim - 1))


def _scales(xp: Any, name: str, counts: Any, dtype: Any) -> Any:
    """Return what the sums of segments with so many rows are divided by."""
    counts = xp.maximum(counts, 1).astype(dtype)
    return xp.sqrt(counts) if name == "SqrtN" else counts


def _forward_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None, *shapes[0][1:])]


def _register(name: str) -> None:
    @kernel(f"SparseSegment{name}", f"SparseSegment{name}WithNumSegments", shape=_forward_shape, host=(3,))
    def bind(node: Node, env: KernelEnv) -> Run:
        xp = env.xp

        def run(data: Any, indices: Any, ids: Any, num_segments: Any = None) -> Any:
            segments = _check(xp, data, indices, ids, num_segments)
            result = sum_rows(xp, segments, ids, data, indices)
            if name != "Sum" and result.size:
                counts = xp.bincount(ids, minlength=segments)
                result /= _column(_scales(xp, name, counts, result.dtype), data.ndim)
            return result.astype(data.dtype, copy=False)

        return run

    @kernel(f"SparseSegment{name}Grad", shape=_forward_shape, host=(3,))
    def grad(node: Node, env: KernelEnv) -> Run:
        xp = env.xp

        def run(gradient: Any, indices: Any, ids: Any, output_dim0: Any) -> Any:
            height = _check_grad(xp, gradient, indices, ids, "output_dim0", output_dim0)
            result = sum_rows(xp, height, indices, _divided(xp, name, gradient, ids), ids)
            return result.astype(gradient.dtype, copy=False)

        return run

    @kernel(f"SparseSegment{name}GradV2", shape=lambda node, shapes: [*_forward_shape(node, shapes), (None,)],
            host=(3,))
    def grad_v2(node: Node, env: KernelEnv) -> Run:
        xp = env.xp

        def run(gradient: Any, indices: Any, ids: Any, dense_output_dim0: Any) -> tuple[Any, Any]:
            _check_grad(xp, gradient, indices, ids, "dense_output_dim0", dense_output_dim0)
            found, which = xp.unique(indices, return_inverse=True)
            result = sum_rows(xp, found.size, which.reshape(-1), _divided(xp, name, gradient, ids), ids)
            return result.astype(gradient.dtype, copy=False), found

        return run


def _divided(xp: Any, name: str, gradient: Any, ids: Any) -> Any:
    """Return the gradients of segments divided as the segments were."""
    rows = gradient.astype(wide_type(xp, gradient.dtype), copy=False)
    if name == "Sum" or not rows.size:
        return rows
    counts = xp.bincount(ids, minlength=gradient.shape[0])
    return rows / _column(_scales(xp, name, counts, rows.dtype), gradient.ndim)


def _check_vectors(indices: Any, ids: Any) -> None:
    if indices.ndim != 1:
        raise InvalidArgument("indices should be a vector.")
    if ids.ndim != 1:
        raise InvalidArgument("segment_ids should be a vector.")
    if indices.size != ids.size:
        raise InvalidArgument("segment_ids and indices should have same size.")


def _check_range(xp: Any, array: Any, limit: int, text: Callable[[int], str]) -> None:
    if array.size and (int(array.min()) < 0 or int(array.max()) >= limit):
        place = int(xp.argmax((array < 0) | (array >= limit)))
        raise InvalidArgument(text(int(array[place])))


def _check(xp: Any, data: Any, indices: Any, ids: Any, num_segments: Any) -> int:
    """Check the inputs of a reduction; return how many segments there are."""
    wanted = None
    if num_segments is not None:
        if num_segments.ndim:
            raise InvalidArgument(f"num_segments should be a scalar, not shape {format_shape(num_segments.shape)}")
        wanted = int(num_segments)
    _check_vectors(indices, ids)
    if not data.ndim:
        raise InvalidArgument("Shape must be at least rank 1")
    segments = int(ids[-1]) + 1 if ids.size else 0
    if wanted is not None:
        if wanted < 0:
            raise InvalidArgument("segment ids must be >= 0")
        if wanted < segments:
            raise InvalidArgument("segment ids must be < num_segments")
        segments = wanted
    if segments < 0:
        raise InvalidArgument("segment ids must be >= 0")
    if ids.size:
        if (ids[1:] < ids[:-1]).any():
            raise InvalidArgument("segment ids are not increasing")
        if int(ids[0]) < 0 or int(ids.max()) >= segments:
            bad = int(ids[int(xp.argmax((ids < 0) | (ids >= segments)))])
            raise InvalidArgument(f"Segment id {bad} out of range [0, {segments}), possibly because 'segment_ids' "
                                  "input is not sorted.")
        height = data.shape[0]
        if int(indices.min()) < 0 or int(indices.max()) >= height:
            place = int(xp.argmax((indices < 0) | (indices >= height)))
            raise InvalidArgument(f"Bad: indices[{place}] == {int(indices[place])} out of range [0, {height})")
    return segments


def _check_grad(xp: Any, gradient: Any, indices: Any, ids: Any, name: str, height: Any) -> int:
    """Check the inputs of a gradient; return how many rows the reduced tensor had."""
    _check_vectors(indices, ids)
    if height.ndim:
        raise InvalidArgument(f"{name} should be a scalar.")
    if not gradient.ndim:
        raise InvalidArgument("Shape must be at least rank 1")
    if int(height) < 0:
        raise InvalidArgument(f"Expected a non-negative size, got {int(height)}")
    segments = gradient.shape[0]
    if ids.size and not segments:
        raise InvalidArgument("Invalid number of segments")
    _check_range(xp, ids, segments, lambda value: f"Segment id {value} out of range [0, {segments}).")
    _check_range(xp, indices, int(height), lambda value: f"Index {value} out of range [0, {int(height)}).")
    return int(height)


for _name in _NAMES:
    _register(_name)
