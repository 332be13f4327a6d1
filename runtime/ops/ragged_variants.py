"""Ragged tensors in variants and back: how they pass through datasets, and the gradient of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.objects import filled, object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown
from runtime.ops.values.ragged_variant import RaggedVariant

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _encoded_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,) if node.attr("batched_input") else ()]


@kernel("RaggedTensorToVariant", shape=_encoded_shape)
def _to_variant(node: Node, env: KernelEnv) -> Run:
    depth, batched, kind = node.attr("RAGGED_RANK"), node.attr("batched_input"), base(node.attr("Tvalues"))

    def run(*inputs: Any) -> Any:
        splits, values = inputs[:depth], inputs[depth]
        if not batched:
            return object_scalar(RaggedVariant(tuple(splits), values, kind))
        if not values.ndim:
            raise InvalidArgument("the values of a batch of ragged tensors must not be a scalar")
        for item in splits:
            _check(item)
        count = splits[0].size - 1 if splits else values.shape[0]
        return filled((count,), [_row(splits, values, kind, number) for number in range(count)])

    return run


def _check(splits: Any) -> None:
    if splits.ndim != 1 or not splits.size:
        raise InvalidArgument(f"rt_nested_splits must be vectors with at least one element, got shape "
                              f"{format_shape(splits.shape)}")
    if int(splits[0]) or (splits[1:] < splits[:-1]).any():
        raise InvalidArgument("Invalid ragged splits: they must begin with 0 and must not descend")


def _row(splits: Sequence[Any], values: Any, kind: DataType, number: int) -> RaggedVariant:
    """Return one entry of the first dimension."""
    if not splits:
        return RaggedVariant((), values[number, ...], kind)
    start, stop = int(splits[0][number]), int(splits[0][number + 1])
    inner = []
    for item in splits[1:]:
        _within(stop, item.size - 1)
        part = item[start:stop + 1]
        inner.append(part - part[0])
        start, stop = int(part[0]), int(part[-1])
    _within(stop, values.shape[0])
    return RaggedVariant(tuple(inner), values[start:stop], kind)


def _within(stop: int, size: int) -> None:
    if stop > size:
        raise InvalidArgument(f"Invalid ragged splits: a row ends at {stop}, but there are {size} entries")


@kernel("RaggedTensorToVariantGradient", shape=unknown, host=(1, 2))
def _to_variant_gradient(node: Node, env: KernelEnv) -> Run:
    """Join the values of the variants' gradients; a variant that nothing depended on has zeros for its rows."""
    kind = base(node.attr("Tvalues"))
    dtype = to_numpy(kind)

    def run(encoded: Any, splits: Any, shape: Any) -> Any:
        if shape.ndim != 1:
            raise InvalidArgument(f"dense_values_shape must be a vector, got shape {format_shape(shape.shape)}")
        dims = tuple(shape.tolist())
        if any(size < 0 for size in dims):
            raise InvalidArgument(f"dense_values_shape is {format_shape(dims)}: sizes must not be negative")
        items = encoded.reshape(-1).tolist()
        some_missing = any(not isinstance(item, RaggedVariant) for item in items)
        if some_missing and not (dims and _are_splits(splits, len(items))):
            raise InvalidArgument(f"row_splits must be {len(items) + 1} numbers that do not descend, and the dense "
                                  f"values no scalar, but they have the shapes {format_shape(splits.shape)} and "
                                  f"{format_shape(dims)}")
        parts = [_values(item, kind) if isinstance(item, RaggedVariant) else
                 np.zeros((int(splits[place + 1] - splits[place]), *dims[1:]), dtype)
                 for place, item in enumerate(items)]
        if len(parts) == 1:
            return parts[0]
        if any(part.shape[1:] != dims[1:] or not part.ndim for part in parts):
            raise InvalidArgument(f"the gradients of the variants have the shapes "
                                  f"{', '.join(format_shape(part.shape) for part in parts)}, which do not make up "
                                  f"{format_shape(dims)}")
        return np.concatenate(parts) if parts else np.zeros(dims, dtype)

    return run


def _are_splits(splits: Any, rows: int) -> bool:
    return splits.ndim == 1 and splits.size == rows + 1 and not (splits[1:] < splits[:-1]).any()


def _values(item: RaggedVariant, kind: DataType) -> Any:
    if item.datatype != kind:
        raise InvalidArgument(f"Expected values Tensor dtype: {kind.label}, found: {item.datatype.label}")
    return item.values


@kernel("RaggedTensorFromVariant", shape=unknown)
def _from_variant(node: Node, env: KernelEnv) -> Run:
    kind, split_type = base(node.attr("Tvalues")), to_numpy(node.attr("Tsplits"))
    wanted, inner = node.attr("output_ragged_rank"), node.attr("input_ragged_rank")

    def run(encoded: Any) -> list[Any]:
        depth = inner if inner != -1 else wanted - encoded.ndim
        if depth < 0:
            raise InvalidArgument("Inferred input_ragged_rank (output_ragged_rank - encoded_variant.dims()) must be "
                                  f">= 0, found output_ragged_rank: {wanted}, encoded_variant.dims(): {encoded.ndim}, "
                                  f"inferred input_ragged_rank: {depth}")
        if wanted != depth + encoded.ndim:
            raise InvalidArgument("output_ragged_rank must be equal to input_ragged_rank + encoded_ragged.dims(); "
                                  f"output_ragged_rank: {wanted}, input_ragged_rank: {depth}, encoded_variant.dims(): "
                                  f"{encoded.ndim}.")
        parts = [_part(item, kind, depth, split_type) for item in encoded.reshape(-1).tolist()]
        if not encoded.ndim:
            return [*parts[0].splits, parts[0].values]
        return _stacked(encoded.shape, parts, depth, split_type, to_numpy(kind))

    return run


def _part(item: Any, kind: DataType, depth: int, split_type: Any) -> RaggedVariant:
    if not isinstance(item, RaggedVariant):
        raise InvalidArgument("Input Variant element does not hold a ragged tensor: "
                              f"{type(item).__name__}")
    if item.datatype != kind:
        raise InvalidArgument(f"Expected values Tensor dtype: {kind.label}, found: {item.datatype.label}")
    if len(item.splits) != depth:
        raise InvalidArgument(f"Encoded input RaggedTensorVariant has ragged_rank={len(item.splits)}.  Expected "
                              f"ragged_rank={depth}.")
    for splits in item.splits:
        if splits.dtype != split_type:
            raise InvalidArgument(f"Expected row_splits Tensor dtype: {split_type}, found: {splits.dtype}")
    return item


def _stacked(shape: tuple[int, ...], parts: Sequence[RaggedVariant], depth: int, split_type: Any,
             dtype: Any) -> list[Any]:
    """Return the nested splits and the values of ragged tensors that lie in an array."""
    outputs: list[Any] = []
    rows = 1
    for outer, size in zip(shape, shape[1:], strict=False):
        rows *= outer
        outputs.append(np.arange(rows + 1, dtype=split_type) * size)
    if any(part.values.ndim == 0 for part in parts):
        raise InvalidArgument("the values of ragged tensors in a batch must have at least one dimension")
    outputs.append(_splits_of([part.rows for part in parts], split_type))
    for level in range(depth):
        pieces, end = [np.zeros(1, split_type)], 0
        for part in parts:
            pieces.append(part.splits[level][1:] + split_type.type(end))
            end += int(part.splits[level][-1])
        outputs.append(np.concatenate(pieces))
    if not parts:
        return [*outputs, np.empty((0,), dtype)]
    inner = parts[0].values.shape[1:]
    for part in parts:
        if part.values.shape[1:] != inner:
            raise InvalidArgument("All flat_values must have compatible shapes.  Shape at index 0: "
                                  f"{format_shape(parts[0].values.shape)}.  Another has "
                                  f"{format_shape(part.values.shape)}")
    return [*outputs, np.concatenate([part.values for part in parts])]


def _splits_of(lengths: Sequence[int], split_type: Any) -> Any:
    splits = np.zeros(len(lengths) + 1, split_type)
    np.cumsum(lengths, out=splits[1:])
    return splits
