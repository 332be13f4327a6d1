"""Sparse tensors as three strings or variants, one row of the batch each, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor_ex, encode_tensor
from runtime.dtypes import DataType, base
from runtime.ops.objects import filled
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.sparse_indices import keys, sorted_order
from runtime.ops.sparse_tensors import check_sparse
from runtime.ops.values.tensor_variant import TensorVariant, tensor_of

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["batched"]

Run = Callable[..., Any]


def _packer(node: Node) -> Callable[[Any, DataType], Any]:
    """Return what makes an element of the output of a tensor."""
    if base(node.output_types[0]) is DataType.VARIANT:
        return TensorVariant
    return encode_tensor


@kernel("SerializeSparse", shape=lambda node, shapes: [(3,)])
def _serialize_sparse(node: Node, env: KernelEnv) -> Run:
    pack, kind = _packer(node), base(node.input_types[1])

    def run(indices: Any, values: Any, shape: Any) -> Any:
        for name, array, rank in (("indices", indices, 2), ("values", values, 1), ("shape", shape, 1)):
            if array.ndim != rank:
                raise InvalidArgument(f"Input {name} should have rank {rank} but received shape "
                                      f"{format_shape(array.shape)}")
        return filled((3,), [pack(indices, DataType.INT64), pack(values, kind), pack(shape, DataType.INT64)])

    return run


@kernel("SerializeManySparse", shape=lambda node, shapes: [(None, 3)])
def _serialize_many(node: Node, env: KernelEnv) -> Run:
    xp, pack, kind = env.xp, _packer(node), base(node.input_types[1])

    def run(indices: Any, values: Any, shape: Any) -> Any:
        check_sparse(indices, values, shape)
        if shape.shape[0] <= 1:
            raise InvalidArgument("Rank of input SparseTensor should be > 1, but saw rank: "
                                  f"{shape.shape[0]}")
        count = int(shape[0])
        rows = indices[:, 0]
        bad = (rows < 0) | (rows >= count)
        if bool(bad.any()):
            raise InvalidArgument(f"Received unexpected column 0 value in input SparseTensor: "
                                  f"{int(rows[int(xp.argmax(bad))])} < 0 (or >= {count})")
        if sorted_order(xp, rows) is not None:
            raise InvalidArgument("the rows of the input SparseTensor must not decrease; sort it with SparseReorder")
        cuts = xp.searchsorted(rows, xp.arange(count + 1)).tolist()
        rest = pack(shape[1:], DataType.INT64)
        parts: list[Any] = []
        for begin, end in zip(cuts, cuts[1:]):
            parts += [pack(indices[begin:end, 1:], DataType.INT64), pack(values[begin:end], kind), rest]
        return filled((count, 3), parts)

    return run


def _mistyped(wanted: DataType, given: DataType, name: str) -> InvalidArgument:
    number, _, part = name.partition(", ")
    return InvalidArgument(f"Requested SparseTensor of type {wanted.label} but SparseTensor[{number}]."
                           f"{('indices', 'values', 'shape')[int(part)]}.dtype() == {given.label}")


def _unpack(value: Any, kind: DataType, name: str) -> Any:
    """Return the tensor that an element holds, which is to be of a type."""
    if isinstance(value, bytes) and kind is not DataType.VARIANT:
        try:
            datatype, array = decode_tensor_ex(value)
        except InvalidArgument:
            raise InvalidArgument(f"Could not parse serialized_sparse[{name}]") from None
    else:
        held = tensor_of(value)
        datatype, array = int(held.datatype), held.array
    if datatype != kind:
        raise _mistyped(kind, DataType(datatype), name)
    return array


def _unpack_one(row: Sequence[Any], number: int, kind: DataType, variants: bool) -> tuple[Any, Any, Any]:
    """Return the three parts of one sparse tensor, checked."""
    read = (lambda value, wanted, name: _variant(value, wanted, name)) if variants else _unpack
    indices = read(row[0], DataType.INT64, f"{number}, 0")
    values = read(row[1], kind, f"{number}, 1")
    shape = read(row[2], DataType.INT64, f"{number}, 2")
    if indices.ndim != 2:
        raise InvalidArgument(f"Expected serialized_sparse[{number}, 0] to represent an index matrix but received "
                              f"shape {format_shape(indices.shape)}")
    if values.ndim != 1:
        raise InvalidArgument(f"Expected serialized_sparse[{number}, 1] to represent a values vector but received "
                              f"shape {format_shape(values.shape)}")
    if shape.ndim != 1:
        raise InvalidArgument(f"Expected serialized_sparse[{number}, 1] to be a shape vector but its shape is "
                              f"{format_shape(shape.shape)}")
    if indices.shape[0] != values.shape[0]:
        raise InvalidArgument(f"Expected row counts of SparseTensor[{number}].indices and "
                              f"SparseTensor[{number}].values to match but they do not: {indices.shape[0]} vs. "
                              f"{values.shape[0]}")
    if indices.shape[1] != shape.shape[0]:
        raise InvalidArgument(f"Expected column counts of SparseTensor[{number}].indices to match size of "
                              f"SparseTensor[{number}].shape but they do not: {indices.shape[1]} vs. {shape.shape[0]}")
    return indices, values, shape


def _variant(value: Any, kind: DataType, name: str) -> Any:
    held = tensor_of(value)
    if held.datatype != kind:
        raise _mistyped(kind, held.datatype, name)
    return held.array


@kernel("DeserializeSparse", "DeserializeManySparse", shape=lambda node, shapes: [(None, None), (None,), (None,)])
def _deserialize(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    kind = base(node.output_types[1])
    variants = base(node.input_types[0]) is DataType.VARIANT

    def run(serialized: Any) -> tuple[Any, Any, Any]:
        if not serialized.ndim:
            raise InvalidArgument("Serialized sparse should have non-zero rank []")
        if serialized.shape[-1] != 3:
            raise InvalidArgument("Serialized sparse should have 3 as the last dimension "
                                  f"{format_shape(serialized.shape)}")
        batch = serialized.shape[:-1]
        rows = serialized.reshape(-1, 3).tolist()
        if not rows:
            raise InvalidArgument("Serialized sparse should have at least 1 serialized tensor, but has a zero "
                                  f"dimension {format_shape(serialized.shape)}")
        parts = [_unpack_one(row, number, kind, variants) for number, row in enumerate(rows)]
        if not batch:
            indices, values, shape = parts[0]
            return xp.asarray(indices), xp.asarray(values), xp.asarray(shape)
        return batched(xp, batch, parts)

    return run


def batched(xp: Any, batch: tuple[int, ...], parts: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    """Join sparse tensors along new first axes.

    Parameters
    ----------
    batch : tuple of int
        Lengths of the new axes.
    parts : sequence of (indices, values, shape)
        As many as the new axes have places, in row-major order; the result's shape is the greatest of theirs.

    Raises
    ------
    InvalidArgument
        If their ranks differ.
    """
    rank = parts[0][2].shape[0]
    for number, (_, _, shape) in enumerate(parts):
        if shape.shape[0] != rank:
            raise InvalidArgument(f"Inconsistent shape across SparseTensors: rank prior to SparseTensor[{number}] was: "
                                  f"{rank} but rank of SparseTensor[{number}] is: {shape.shape[0]}")
    dims = [max(int(shape[axis]) for _, _, shape in parts) for axis in range(rank)]
    counts = xp.asarray([part[1].shape[0] for part in parts])
    owner = xp.repeat(xp.arange(len(parts)), counts)
    outer = xp.stack(xp.unravel_index(owner, batch), axis=1).astype(xp.int64, copy=False)
    indices = xp.concatenate([outer, xp.concatenate([part[0] for part in parts])], axis=1)
    values = xp.concatenate([part[1] for part in parts])
    shape = [*batch, *dims]
    numbers, = keys(xp, shape, indices)
    order = sorted_order(xp, numbers)
    if order is not None:
        indices, values = indices[order], values[order]
    return indices, values, xp.asarray(shape, dtype=xp.int64)
