"""Moving blocks of space into the batch or the depth and back, and names of dimensions between data formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_MAX_BLOCK_DIMS = 4

# --- space and batch -------------------------------------------------------------------------------------------------


def _check_blocks(value: Any, block: list[int], limits: list[list[int]], what: str) -> None:
    if value.ndim < 1 + len(block):
        raise InvalidArgument(f"input rank should be >= {1 + len(block)} instead of {value.ndim}")
    if any(size < 1 for size in block):
        raise InvalidArgument(f"All values in block_shape must be positive, got value, {min(block)} at index "
                              f"{next(i for i, size in enumerate(block) if size < 1)}.")
    if any(limit < 0 for pair in limits for limit in pair):
        raise InvalidArgument(f"{what} must be non-negative")


def _is_plain(block: list[int], limits: list[list[int]]) -> bool:
    return all(size == 1 for size in block) and not any(limit for pair in limits for limit in pair)


def space_to_batch(xp: Any, value: Any, block: list[int], paddings: list[list[int]]) -> Any:
    """Pad the dimensions after the batch, cut them into blocks, and make a batch entry of each place in a block."""
    _check_blocks(value, block, paddings, "Paddings")
    if _is_plain(block, paddings):
        return value
    count = len(block)
    widths = [(0, 0), *map(tuple, paddings), *[(0, 0)] * (value.ndim - 1 - count)]
    padded = xp.pad(value, widths) if value.dtype.kind != "O" else xp.pad(value, widths, constant_values=b"")
    batch, space, rest = padded.shape[0], padded.shape[1:1 + count], padded.shape[1 + count:]
    for i, (size, length) in enumerate(zip(block, space, strict=True)):
        if length % size:
            raise InvalidArgument(f"padded_shape[{i}]={length} is not divisible by block_shape[{i}]={size}")
    split = [part for size, length in zip(block, space, strict=True) for part in (length // size, size)]
    cut = padded.reshape(batch, *split, *rest)
    places, blocks = range(2, 2 * count + 1, 2), range(1, 2 * count, 2)
    moved = cut.transpose(*places, 0, *blocks, *range(2 * count + 1, cut.ndim))
    return moved.reshape(batch * math.prod(block), *(length // size for size, length in zip(block, space)), *rest)


def batch_to_space(xp: Any, value: Any, block: list[int], crops: list[list[int]]) -> Any:
    """Undo `space_to_batch`: join the blocks and crop."""
    _check_blocks(value, block, crops, "Crops")
    if _is_plain(block, crops):
        return value
    count = len(block)
    number = math.prod(block)
    batch, space, rest = value.shape[0], value.shape[1:1 + count], value.shape[1 + count:]
    if batch % number:
        raise InvalidArgument(f"Input batch dimension ({batch}) is not divisible by product of block sizes ({number})")
    whole = [length * size for length, size in zip(space, block, strict=True)]
    for i, (length, (before, after)) in enumerate(zip(whole, crops, strict=True)):
        if length - before - after < 0:
            raise InvalidArgument(f"cropped_shape[{i}]={length - before - after} must be non-negative")
    cut = value.reshape(*block, batch // number, *space, *rest)
    order = [axis for i in range(count) for axis in (count + 1 + i, i)]
    joined = cut.transpose(count, *order, *range(2 * count + 1, cut.ndim)).reshape(batch // number, *whole, *rest)
    inside = (slice(before, length - after) for length, (before, after) in zip(whole, crops, strict=True))
    return joined[(slice(None), *inside)]


_MOVES: dict[str, tuple[Callable[..., Any], str]] = {
    "SpaceToBatchND": (space_to_batch, "paddings"), "BatchToSpaceND": (batch_to_space, "crops"),
    "SpaceToBatch": (space_to_batch, "paddings"), "BatchToSpace": (batch_to_space, "crops"),
}


def _same_rank(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else (None,) * len(shapes[0])]


@kernel("SpaceToBatchND", "BatchToSpaceND", shape=_same_rank, host=(1, 2))
def _block_shapes(node: Node, env: KernelEnv) -> Callable[..., Any]:
    move, name = _MOVES[node.op]

    def run(value: Any, block_shape: Any, limits: Any) -> Any:
        if block_shape.ndim != 1:
            raise InvalidArgument(f"block_shape must be one dimensional instead of {format_shape(block_shape.shape)}.")
        count = block_shape.shape[0]
        if limits.shape != (count, 2):
            raise InvalidArgument(f"{name} should have shape [{count}, 2] instead of {format_shape(limits.shape)}")
        block, pairs = block_shape.tolist(), limits.tolist()
        # Dimensions that stay as they are do not count; others are merged into a few.
        moved = sum(1 for size, pair in zip(block, pairs, strict=True) if size != 1 or pair != [0, 0])
        if moved > _MAX_BLOCK_DIMS:
            raise InvalidArgument(f"Maximum number of non-combined block dimensions is {moved} but must not exceed "
                                  f"{_MAX_BLOCK_DIMS}")
        return move(env.xp, value, block, pairs)

    return run


@kernel("SpaceToBatch", "BatchToSpace", shape=_same_rank, host=(1,))
def _block_size(node: Node, env: KernelEnv) -> Callable[..., Any]:
    move, name = _MOVES[node.op]
    size = int(node.attr("block_size"))

    def run(value: Any, limits: Any) -> Any:
        if value.ndim != 4:
            raise InvalidArgument(f"Input rank should be: 4 instead of: {value.ndim}")
        if limits.shape != (2, 2):
            raise InvalidArgument(f"{name} should have shape [2, 2] instead of {format_shape(limits.shape)}")
        return move(env.xp, value, [size, size], limits.tolist())

    return run


# --- space and depth -------------------------------------------------------------------------------------------------


def _depth_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if shapes[0] is None or len(shapes[0]) != 4 or node.attr("data_format") == b"NCHW_VECT_C":
        return [None]
    size, to_depth = int(node.attr("block_size")), node.op == "SpaceToDepth"
    first = 2 if node.attr("data_format") == b"NCHW" else 1
    depth = 1 if first == 2 else 3
    shape = list(shapes[0])
    for axis, factor, divides in ((first, size, to_depth), (first + 1, size, to_depth),
                                  (depth, size * size, not to_depth)):
        dim = shape[axis]
        shape[axis] = None if dim is None else dim // factor if divides else dim * factor
    return [tuple(shape)]


@kernel("SpaceToDepth", "DepthToSpace", shape=_depth_shape)
def _space_and_depth(node: Node, env: KernelEnv) -> Callable[..., Any]:
    size = int(node.attr("block_size"))
    data_format = node.attr("data_format").decode()
    to_depth = node.op == "SpaceToDepth"
    if data_format == "NCHW_VECT_C":
        raise Unimplemented(f"{node.op} of NCHW_VECT_C does not run on a CPU; use NHWC or NCHW")
    channels_first = data_format == "NCHW"

    def run(value: Any) -> Any:
        if value.ndim != 4:
            raise InvalidArgument(f"Input rank should be: 4 instead of: {value.ndim}")
        batch, *rest = value.shape
        depth, height, width = rest if channels_first else (rest[2], rest[0], rest[1])
        if to_depth:
            if width % size or height % size:
                raise InvalidArgument(f"Image width {width} and height {height} should be divisible by block_size: "
                                      f"{size}")
            height, width = height // size, width // size
            if channels_first:
                cut = value.reshape(batch, depth, height, size, width, size).transpose(0, 3, 5, 1, 2, 4)
                return cut.reshape(batch, size * size * depth, height, width)
            cut = value.reshape(batch, height, size, width, size, depth).transpose(0, 1, 3, 2, 4, 5)
            return cut.reshape(batch, height, width, size * size * depth)
        if depth % (size * size):
            raise InvalidArgument(f"Input depth dimension {depth} should be divisible by: {size * size}")
        depth //= size * size
        if channels_first:
            cut = value.reshape(batch, size, size, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
            return cut.reshape(batch, depth, height * size, width * size)
        cut = value.reshape(batch, height, width, size, size, depth).transpose(0, 1, 3, 2, 4, 5)
        return cut.reshape(batch, height * size, width * size, depth)

    return run


# --- data formats ----------------------------------------------------------------------------------------------------


def _formats(node: Node) -> tuple[str, str]:
    source, target = node.attr("src_format").decode(), node.attr("dst_format").decode()
    for name, text in (("src_format", source), ("dst_format", target)):
        if len(text) not in (4, 5):
            raise InvalidArgument(f"{'Source' if name == 'src_format' else 'Destination'} format must be of length 4 or"
                                  f" 5, received {name} = {text}")
    if len(source) != len(target) or sorted(source) != sorted(target):
        raise InvalidArgument(f"Destination and source format must determine a permutation, got {source} and {target}")
    return source, target


@kernel("DataFormatDimMap", shape=like_input())
def _dim_map(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    source, target = _formats(node)
    places = [target.index(name) for name in source]
    count = len(places)

    def run(value: Any) -> Any:
        return xp.asarray(places, value.dtype)[value % count]

    return run


@kernel("DataFormatVecPermute", shape=like_input())
def _vec_permute(node: Node, env: KernelEnv) -> Callable[..., Any]:
    source, target = _formats(node)
    spatial = len(source) - 2

    def run(value: Any) -> Any:
        if value.ndim not in (1, 2):
            raise InvalidArgument(f"input must be a vector or 2D tensor, but got shape {format_shape(value.shape)}")
        old, new = source, target
        length = value.shape[0]
        if length not in (spatial, spatial + 2):
            what = "1D input" if value.ndim == 1 else "First dimension of 2D input"
            raise InvalidArgument(f"{what} must be of size {spatial} or {spatial + 2}, but got shape "
                                  f"{format_shape(value.shape)}")
        if value.ndim == 2 and value.shape[1] != 2:
            raise InvalidArgument("Second dimension of 2D input must be of size 2, but got shape "
                                  f"{format_shape(value.shape)}")
        if length == spatial:  # the dimensions of space alone
            old, new = (text.replace("N", "").replace("C", "") for text in (old, new))
        return value[[old.index(name) for name in new]]

    return run
