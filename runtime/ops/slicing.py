"""Slice and StridedSlice, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.arrays import same_rank
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["SliceMasks", "StridedSpec", "check_strided", "strided_spec"]


@kernel("Slice", shape=same_rank, host=(1, 2))
def _slice(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(tensor: Any, begin: Any, size: Any) -> Any:
        rank = tensor.ndim
        if begin.ndim != 1 or size.ndim != 1 or begin.size != rank or size.size != rank:
            raise InvalidArgument("Expected begin and size arguments to be 1-D tensors of size "
                                  f"{rank}, but got shapes {format_shape(begin.shape)} and "
                                  f"{format_shape(size.shape)} instead.")
        index = []
        for axis, (start, count) in enumerate(zip(begin.tolist(), size.tolist())):
            dim = tensor.shape[axis]
            if count == -1:
                count = dim - start
            if dim == 0:
                if start != 0 or count != 0:
                    raise InvalidArgument(f"Expected begin[{axis}] == 0 (got {start}) and size[{axis}] == 0 (got "
                                          f"{count}) when input.dim_size({axis}) == 0")
            else:
                if not 0 <= start <= dim:
                    raise InvalidArgument(f"Expected begin[{axis}] in [0, {dim}], but got {start}")
                if count < 0 or start + count > dim:
                    raise InvalidArgument(f"Expected size[{axis}] in [0, {dim - start}], but got {count}")
            index.append(slice(start, start + count))
        return tensor[(*index, ...)]

    return run


class StridedSpec:
    """What a strided slice takes from an array of one shape.

    Attributes
    ----------
    index : tuple
        For indexing the array: slices, and integers where an axis goes away. With negative strides the slices are
        what Python takes.
    shape : tuple of int
        Shape of the result, new axes included.
    """

    __slots__ = ("index", "shape")

    def __init__(self, index: tuple[Any, ...], shape: tuple[int, ...]) -> None:
        self.index = index
        self.shape = shape


class SliceMasks:
    """The five masks of a strided slice, from the attrs of its node; bit i is about index i.

    Raises
    ------
    InvalidArgument
        If there is more than one ellipsis.
    """

    __slots__ = ("begin", "ellipsis", "end", "new_axis", "shrink")

    def __init__(self, node: Node) -> None:
        self.begin = int(node.attr("begin_mask"))
        self.end = int(node.attr("end_mask"))
        self.ellipsis = int(node.attr("ellipsis_mask"))
        self.new_axis = int(node.attr("new_axis_mask"))
        self.shrink = int(node.attr("shrink_axis_mask"))
        if self.ellipsis & (self.ellipsis - 1):
            raise InvalidArgument("Multiple ellipses in slice spec not allowed")


def _clamp(value: int, low: int, high: int) -> int:
    return low if value < low else high if value > high else value


def strided_spec(shape: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int], *,
                 masks: SliceMasks) -> StridedSpec:
    """Resolve masks, negative numbers and bounds of a strided slice against a shape.

    Raises
    ------
    InvalidArgument
        If there are more indices than dimensions, a stride is 0, or an index that drops its axis is out of bounds.
    """
    count = len(begin)
    after_ellipsis = 0  # axes made new after the ellipsis take nothing from the array
    seen = False
    for position in range(count):
        bit = 1 << position
        if masks.ellipsis & bit:
            seen = True
        elif seen and masks.new_axis & bit:
            after_ellipsis += 1
    rank = len(shape)
    index: list[Any] = []
    result: list[int] = []
    axis = 0
    for position in range(count):
        bit = 1 << position
        if masks.ellipsis & bit:
            stop = min(rank - (count - position) + 1 + after_ellipsis, rank)
            while axis < stop:
                index.append(slice(None))
                result.append(shape[axis])
                axis += 1
            continue
        if masks.new_axis & bit:
            result.append(1)
            continue
        if axis >= rank:
            wanted = sum(1 for i in range(count) if not (masks.new_axis | masks.ellipsis) & (1 << i))
            raise InvalidArgument(f"Index out of range using input dim {axis}; input has only {rank} dims"
                                  if wanted > rank else f"Index out of range using input dim {axis}")
        taken, length = _one_axis(int(shape[axis]), position, axis, begin, end, strides, masks, bit)
        index.append(taken)
        if length is not None:
            result.append(length)
        axis += 1
    result.extend(shape[axis:])
    return StridedSpec((*index, ...), tuple(result))


def _one_axis(dim: int, position: int, axis: int, begin: Sequence[int], end: Sequence[int], strides: Sequence[int],
              masks: SliceMasks, bit: int) -> tuple[Any, int | None]:
    """Return what to index one axis with, and the length that is left (None when the axis goes away)."""
    stride = strides[position]
    if stride == 0:
        raise InvalidArgument(f"strides[{axis}] must be non-zero")
    if masks.shrink & bit:
        if stride < 0:
            raise InvalidArgument("only stride 1 allowed on non-range indexing.")
        # The begin mask has no say over an axis that goes away.
        start = begin[position]
        resolved = start + dim if start < 0 else start
        if not 0 <= resolved < dim:
            raise InvalidArgument(f"slice index {resolved if start < 0 else start} of dimension {axis} out of bounds.")
        return resolved, None
    low, high = (0, dim) if stride > 0 else (-1, dim - 1)
    if masks.begin & bit:
        start = low if stride > 0 else high
    else:
        value = begin[position]
        start = _clamp(value + dim if value < 0 else value, low, high)
    if masks.end & bit:
        stop = high if stride > 0 else low
    else:
        value = end[position]
        stop = _clamp(value + dim if value < 0 else value, low, high)
    span = stop - start
    length = 0 if span == 0 or (span < 0) != (stride < 0) else -(-abs(span) // abs(stride))
    if length == 0:
        return slice(0, 0), 0
    return slice(start, None if stop < 0 else stop, stride), length


def check_strided(begin: Any, end: Any, strides: Any) -> None:
    """Check that the indices of a strided slice are vectors of one size.

    Raises
    ------
    InvalidArgument
        In TensorFlow's words.
    """
    if not (begin.ndim == end.ndim == strides.ndim == 1 and begin.size == end.size == strides.size):
        raise InvalidArgument("Expected begin, end, and strides to be 1D equal size tensors, but got shapes "
                              f"{format_shape(begin.shape)}, {format_shape(end.shape)}, and "
                              f"{format_shape(strides.shape)} instead.")


@kernel("StridedSlice", host=(1, 2, 3))
def _strided_slice(node: Node, env: KernelEnv) -> Callable[..., Any]:
    masks = SliceMasks(node)
    constants = [env.constants.get(index) for index in (1, 2, 3)]
    # The indices rarely change, nor does the shape: what they come to is kept for the last shape.
    fixed: list[list[int]] | None = None
    if all(value is not None for value in constants):
        check_strided(*constants)
        fixed = [value.tolist() for value in constants if value is not None]
    last: tuple[tuple[int, ...], StridedSpec] | None = None

    def run(tensor: Any, begin: Any, end: Any, strides: Any) -> Any:
        nonlocal last
        if tensor.ndim == 0 and begin.size and not masks.new_axis | masks.ellipsis:
            raise InvalidArgument("Attempting to slice scalar input.")
        if fixed is not None:
            found = last
            if found is None or found[0] != tensor.shape:
                found = last = (tensor.shape, strided_spec(tensor.shape, *fixed, masks=masks))
            spec = found[1]
        else:
            check_strided(begin, end, strides)
            spec = strided_spec(tensor.shape, begin.tolist(), end.tolist(), strides.tolist(), masks=masks)
        result = tensor[spec.index]
        return result if result.shape == spec.shape else result.reshape(spec.shape)

    return run


@kernel("StridedSliceGrad", host=(0, 1, 2, 3))
def _strided_slice_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    masks = SliceMasks(node)
    dtype = to_numpy(node.output_types[0])
    is_text = base(node.output_types[0]) is DataType.STRING

    def run(shape: Any, begin: Any, end: Any, strides: Any, dy: Any) -> Any:
        if shape.ndim != 1:
            raise InvalidArgument(f"shape must be 1-D, got shape.shape = {format_shape(shape.shape)}")
        check_strided(begin, end, strides)
        dims = shape.tolist()
        spec = strided_spec(dims, begin.tolist(), end.tolist(), strides.tolist(), masks=masks)
        if dy.shape != spec.shape:
            raise InvalidArgument(f"shape of dy was {format_shape(dy.shape)} instead of {format_shape(spec.shape)}")
        result = xp.full(dims, b"", object) if is_text else xp.zeros(dims, dtype)
        part = result[spec.index]
        part[...] = dy.reshape(part.shape)
        return result

    return run
