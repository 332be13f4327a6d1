"""Padding and reversing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.arrays import same_rank
from runtime.ops.indexing import zeros
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


# --- padding ---------------------------------------------------------------------------------------------------------


def _paddings(tensor: Any, paddings: Any) -> list[tuple[int, int]]:
    if paddings.ndim != 2 or paddings.shape[1] != 2:
        raise InvalidArgument(f"paddings must be a matrix with 2 columns: {format_shape(paddings.shape)}")
    if paddings.shape[0] != tensor.ndim:
        raise InvalidArgument("The first dimension of paddings must be the rank of inputs"
                              f"{format_shape(paddings.shape)} {format_shape(tensor.shape)}")
    pairs = [(int(before), int(after)) for before, after in paddings]
    for before, after in pairs:
        if before < 0 or after < 0:
            raise InvalidArgument(f"Paddings must be non-negative: {before} {after}")
    return pairs


@kernel("Pad", "PadV2", shape=same_rank, host=(1,))
def _pad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    datatype = node.output_types[0]

    def run(tensor: Any, paddings: Any, value: Any = None) -> Any:
        pairs = _paddings(tensor, paddings)
        if value is not None and value.ndim:
            raise InvalidArgument(f"constant_values must be a scalar. Found: {format_shape(value.shape)}")
        shape = [before + dim + after for (before, after), dim in zip(pairs, tensor.shape)]
        if value is None:
            result = zeros(xp, shape, datatype)
        else:
            result = xp.empty(shape, tensor.dtype)
            result[...] = value
        inside = tuple(slice(before, before + dim) for (before, _), dim in zip(pairs, tensor.shape))
        result[(*inside, ...)] = tensor
        return result

    return run


def _mirror_index(xp: Any, dim: int, before: int, after: int, skip: int) -> Any:
    """Return for every position of a mirrored axis where it comes from."""
    head = xp.arange(before - 1 + skip, skip - 1, -1)
    tail = xp.arange(dim - 1 - skip, dim - 1 - skip - after, -1)
    return xp.concatenate((head, xp.arange(dim), tail))


@kernel("MirrorPad", shape=same_rank, host=(1,))
def _mirror_pad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    skip = 1 if node.attr("mode") == b"REFLECT" else 0

    def run(tensor: Any, paddings: Any) -> Any:
        if paddings.ndim != 2 or paddings.shape[1] != 2:
            raise InvalidArgument(f"paddings must be a matrix with 2 columns: {format_shape(paddings.shape)}")
        if paddings.shape[0] != tensor.ndim:
            raise InvalidArgument("The first dimension of paddings must be the rank of inputs"
                                  f"{format_shape(paddings.shape)}, {format_shape(tensor.shape)}")
        result = tensor
        for axis, pair in enumerate(paddings):
            before, after = int(pair[0]), int(pair[1])
            _check_mirror(tensor.shape[axis], before, after, skip)
            if before or after:
                index = _mirror_index(xp, tensor.shape[axis], before, after, skip)
                result = result[(slice(None),) * axis + (index, ...)]
        return result

    return run


def _check_mirror(dim: int, before: int, after: int, skip: int, what: str = "") -> None:
    if before < 0 or after < 0:
        raise InvalidArgument(f"paddings must be non-negative: {before} {after}")
    if skip and (before >= dim or after >= dim):
        raise InvalidArgument(f"paddings must be less than the {what}dimension size: {before}, {after} not less than "
                              f"{dim}")
    if not skip and (before > dim or after > dim):
        raise InvalidArgument(f"paddings must be no greater than the {what}dimension size: {before}, {after} greater "
                              f"than {dim}")


@kernel("MirrorPadGrad", shape=same_rank, host=(1,))
def _mirror_pad_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    skip = 1 if node.attr("mode") == b"REFLECT" else 0

    def run(tensor: Any, paddings: Any) -> Any:
        if paddings.ndim != 2 or paddings.shape[1] != 2 or paddings.shape[0] != tensor.ndim:
            raise InvalidArgument("paddings must be a matrix with 2 columns and as many rows as the input has "
                                  f"dimensions: {format_shape(paddings.shape)}, {format_shape(tensor.shape)}")
        result = tensor
        for axis, pair in enumerate(paddings):
            before, after = int(pair[0]), int(pair[1])
            dim = tensor.shape[axis] - before - after
            _check_mirror(dim, before, after, skip, "output ")
            if not before and not after:
                continue
            lead = (slice(None),) * axis
            inner = xp.array(result[(*lead, slice(before, before + dim))])
            if before:
                head = result[(*lead, slice(before - 1, None, -1) if before else slice(0, 0))]
                inner[(*lead, slice(skip, skip + before))] += head
            if after:
                tail = result[(*lead, slice(before + dim, None))]
                mirrored = tail[(*lead, slice(None, None, -1))]
                inner[(*lead, slice(dim - skip - after, dim - skip))] += mirrored
            result = inner
        return result

    return run


# --- reversing -------------------------------------------------------------------------------------------------------


@kernel("ReverseV2", shape=like_input(), host=(1,))
def _reverse(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(tensor: Any, axes: Any) -> Any:
        if tensor.ndim == 0:
            return tensor
        if axes.ndim != 1:
            raise InvalidArgument(f"'dims' must be 1-dimension, not {axes.ndim}")
        index: list[slice] = [slice(None)] * tensor.ndim
        for position, axis in enumerate(axes.tolist()):
            real = axis + tensor.ndim if axis < 0 else axis
            if not 0 <= real < tensor.ndim:
                raise InvalidArgument(f"'axis'[{position}] = {axis} is out of valid range [0, {tensor.ndim - 1}")
            if index[real].step == -1:
                raise InvalidArgument(f"axis {real} specified more than once.")
            index[real] = slice(None, None, -1)
        return tensor[tuple(index)]

    return run


@kernel("ReverseSequence", shape=like_input())
def _reverse_sequence(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    seq_dim, batch_dim = int(node.attr("seq_dim")), int(node.attr("batch_dim"))

    def run(tensor: Any, lengths: Any) -> Any:
        rank = tensor.ndim
        if lengths.ndim != 1:
            raise InvalidArgument(f"seq_lengths must be 1-dim, not {lengths.ndim}")
        if batch_dim == seq_dim:
            raise InvalidArgument(f"batch_dim == seq_dim == {seq_dim}")
        if not 0 <= seq_dim < rank:
            raise InvalidArgument(f"seq_dim must be < input rank ( {seq_dim} vs. {rank})")
        if not 0 <= batch_dim < rank:
            raise InvalidArgument(f"batch_dim must be < input rank ( {batch_dim} vs. {rank})")
        if lengths.shape[0] != tensor.shape[batch_dim]:
            raise InvalidArgument(f"Length of seq_lengths != input.dims({batch_dim}), ({lengths.shape[0]} vs. "
                                  f"{tensor.shape[batch_dim]})")
        size = tensor.shape[seq_dim]
        for position, length in enumerate(lengths.tolist()):
            if length < 0:
                raise InvalidArgument(f"seq_lens({position}) < 0")
            if length > size:
                raise InvalidArgument(f"seq_lens({position}) > input.dims({seq_dim})")
        steps = xp.arange(size)
        source = xp.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        shape = [1] * rank
        shape[batch_dim], shape[seq_dim] = tensor.shape[batch_dim], size
        source = source if batch_dim < seq_dim else source.T
        return xp.take_along_axis(tensor, source.reshape(shape), seq_dim)

    return run


