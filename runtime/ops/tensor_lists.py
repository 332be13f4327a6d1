"""TensorList values, as functional loops accumulate them.

A list is an element of a variant tensor, nearly always of a scalar one. Here are the ops on lists as wholes and on
single elements; `runtime.ops.tensor_list_slices` has those between lists and larger tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, to_numpy
from runtime.ops.objects import filled, object_scalar
from runtime.ops.partial_shapes import known, matches, merge, shape_from_tensor
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.summarize import summarize
from runtime.ops.values.tensor_list import TensorList

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape, ShapeFn
    from runtime.step.environment import KernelEnv

__all__ = ["element_type", "inferred", "list_of", "number", "typed_list", "unknowns", "zeros"]

Run = Callable[..., Any]


def _as_list(value: Any) -> TensorList:
    if isinstance(value, TensorList):
        return value
    if isinstance(value, bytes):  # as it came from the wire
        return TensorList.from_wire(value)
    raise InvalidArgument(f"Input handle is not a list. Saw: '{type(value).__name__}'")


def list_of(handle: Any) -> TensorList:
    """Return the list that a variant scalar holds.

    Raises
    ------
    InvalidArgument
        If it is no scalar, or holds something else.
    """
    if handle.ndim:
        raise InvalidArgument(f"Input list must be a scalar saw: {format_shape(handle.shape)}")
    return _as_list(handle.item())


def typed_list(handle: Any, kind: DataType) -> TensorList:
    """Return the list that a variant scalar holds, whose elements have the type that the node says."""
    found = list_of(handle)
    if found.dtype != kind:
        raise InvalidArgument(f"Invalid data types; op elements {kind.label} but list elements {found.dtype.label}")
    return found


def element_type(node: Node) -> DataType:
    """Return the type of elements that a node declares."""
    return DataType(node.attr("element_dtype"))


def number(tensor: Any, what: str) -> int:
    """Return the number that a tensor of one element holds."""
    if tensor.size != 1:
        raise InvalidArgument(f"{what} must be a scalar, but had shape: {format_shape(tensor.shape)}")
    return int(tensor.item())


def zeros(xp: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """Return what an element that was never set reads as."""
    return xp.full(shape, b"", dtype=object) if dtype.kind == "O" else xp.zeros(shape, dtype)


def inferred(source: TensorList, shape: Shape) -> Shape:
    """Return a shape made fuller by those of the elements that are set."""
    for element in source.elements():
        if element is not None:
            shape = merge(shape, element.shape)
    return shape


def unknowns(count: int) -> ShapeFn:
    """Return a shape function that knows nothing of some outputs."""
    return lambda node, shapes: [None] * count


# Making lists


@kernel("EmptyTensorList", shape=scalar, host=(0, 1))
def _empty(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(shape: Any, limit: Any) -> Any:
        if limit.ndim:
            raise InvalidArgument("max_num_elements expected to be a scalar but got shape: "
                                  f"{format_shape(limit.shape)}")
        return object_scalar(TensorList(kind, shape_from_tensor(shape), max_num_elements=int(limit)))

    return run


@kernel("TensorListReserve", shape=scalar, host=(0, 1))
def _reserve(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(shape: Any, count: Any) -> Any:
        element_shape = shape_from_tensor(shape)
        if count.ndim:
            raise InvalidArgument(f"The num_elements to reserve must be a tensor size 1, but got "
                                  f"{format_shape(count.shape)}")
        if count < 0:
            raise InvalidArgument(f"The num_elements to reserve must be a non negative number, but got {int(count)}")
        return object_scalar(TensorList(kind, element_shape).resize(int(count)))

    return run


# Their ends


@kernel("TensorListPushBack", shape=scalar)
def _push_back(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(handle: Any, tensor: Any) -> Any:
        source = typed_list(handle, kind)
        if not matches(source.element_shape, tensor.shape):
            raise InvalidArgument("Tried to append a tensor with incompatible shape to a list. Op element shape: "
                                  f"{format_shape(tensor.shape)} list shape: {format_shape(source.element_shape)}")
        if 0 <= source.max_num_elements <= source.length:
            raise InvalidArgument("Tried to push item into a full list list size: "
                                  f"{source.length} max_num_elements: {source.max_num_elements}")
        return object_scalar(source.push(tensor))

    return run


@kernel("TensorListPopBack", shape=lambda node, shapes: [(), None], host=(1,))
def _pop_back(node: Node, env: KernelEnv) -> Run:
    kind, xp = element_type(node), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, shape: Any) -> Any:
        source = typed_list(handle, kind)
        if not source.length:
            raise InvalidArgument("Trying to pop from an empty list.")
        element = source.get(source.length - 1)
        if element is None:
            wanted = merge(shape_from_tensor(shape), source.element_shape)
            dims = known(wanted)
            if dims is None:
                raise InvalidArgument("Trying to read an uninitialized tensor but element_shape is not fully defined."
                                      f"{format_shape(wanted)}")
            element = zeros(xp, dims, dtype)
        return object_scalar(source.pop()), element

    return run


@kernel("TensorListPushBackBatch", shape=lambda node, shapes: [shapes[0]])
def _push_back_batch(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(handles: Any, tensor: Any) -> Any:
        if not tensor.ndim:
            raise InvalidArgument("Expected tensor to be at least a vector, but saw shape: []")
        if tensor.shape[0] != handles.size:
            raise InvalidArgument("Expected tensor.shape[0] == input_handles.size, but saw "
                                  f"{tensor.shape[0]} vs. {handles.size}")
        made = []
        for row, value in enumerate(handles.reshape(-1)):
            source = _as_list(value)
            if source.dtype != kind:
                raise InvalidArgument(f"Invalid data type at index {row}; op elements {kind.label} but list elements "
                                      f"{source.dtype.label}")
            if not matches(source.element_shape, tensor.shape[1:]):
                raise InvalidArgument(
                    f"Tried to append a tensor with incompatible shape to a list at index {row}. Op element shape: "
                    f"{format_shape(tensor.shape[1:])} list shape: {format_shape(source.element_shape)}")
            made.append(source.push(tensor[row, ...]))
        return filled(handles.shape, made)

    return run


# Lists as wholes


@kernel("TensorListLength", shape=scalar)
def _length(node: Node, env: KernelEnv) -> Run:
    return lambda handle: np.int32(list_of(handle).length)


@kernel("TensorListElementShape", shape=unknowns(1))
def _element_shape(node: Node, env: KernelEnv) -> Run:
    dtype = to_numpy(node.attr("shape_type"))

    def run(handle: Any) -> Any:
        shape = list_of(handle).element_shape
        return np.array(-1 if shape is None else [-1 if dim is None else dim for dim in shape], dtype)

    return run


@kernel("TensorListResize", shape=scalar, host=(1,))
def _resize(node: Node, env: KernelEnv) -> Run:
    def run(handle: Any, size: Any) -> Any:
        source = list_of(handle)
        if size.ndim:
            raise InvalidArgument("size must be a scalar")
        if size < 0:
            raise InvalidArgument(f"TensorListSlice expects size to be non-negative. Got: {int(size)}")
        return object_scalar(source.resize(int(size)))

    return run


@kernel("TensorListConcatLists", shape=lambda node, shapes: [shapes[0] if shapes[0] is not None else shapes[1]])
def _concat_lists(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(left: Any, right: Any) -> Any:
        if left.shape != right.shape:
            raise InvalidArgument("Incompatible input TensorList tensor shapes: "
                                  f"{format_shape(left.shape)} vs. {format_shape(right.shape)}")
        made = []
        for number, pair in enumerate(zip(left.reshape(-1), right.reshape(-1), strict=True)):
            first, second = map(_as_list, pair)
            for name, source in (("input_a", first), ("input_b", second)):
                if source.dtype != kind:
                    raise InvalidArgument(f"{name}[{number}].dtype != element_dtype.  Saw: "
                                          f"{source.dtype.label} vs. {kind.label}")
            if first.element_shape != second.element_shape:
                raise InvalidArgument(
                    f"input_a and input_b TensorList element shapes are not identical at index {number}.  "
                    f"Saw {format_shape(first.element_shape)} vs. {format_shape(second.element_shape)}")
            made.append(first.extend(second))
        return filled(left.shape, made)

    return run


# Single elements


@kernel("TensorListGetItem", shape=unknowns(1), host=(1, 2))
def _get_item(node: Node, env: KernelEnv) -> Run:
    kind, xp = element_type(node), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, index: Any, shape: Any) -> Any:
        source = typed_list(handle, kind)
        place = number(index, "index")
        if not 0 <= place < source.length:
            raise InvalidArgument(f"Trying to access element {place} in a list with {source.length} elements.")
        element = source.get(place)
        if element is not None:
            return element
        wanted = merge(shape_from_tensor(shape), source.element_shape)
        dims = known(wanted)
        if dims is None:
            dims = known(inferred(source, wanted))
        if dims is None:
            raise InvalidArgument("Trying to read an uninitialized tensor but element_shape is not fully defined: "
                                  f"{format_shape(wanted)} and no list element is set.")
        return zeros(xp, dims, dtype)

    return run


@kernel("TensorListSetItem", shape=scalar, host=(1,))
def _set_item(node: Node, env: KernelEnv) -> Run:
    kind, resizes = element_type(node), node.attr("resize_if_index_out_of_bounds")

    def run(handle: Any, index: Any, item: Any) -> Any:
        source = typed_list(handle, kind)
        if index.ndim:
            raise InvalidArgument("Expected argument 1 to be a scalar. ReceivedTensor<type: int32 shape: "
                                  f"{format_shape(index.shape)} values: {summarize(index, DataType.INT32, 3)}>")
        place = int(index)
        if place >= source.length and resizes:
            source = source.resize(place + 1)
        if not 0 <= place < source.length:
            raise InvalidArgument(f"Trying to modify element {place} in a list with {source.length} elements.")
        if not matches(source.element_shape, item.shape):
            raise InvalidArgument("Tried to set a tensor with incompatible shape at a list index. Item element shape: "
                                  f"{format_shape(item.shape)} list shape: {format_shape(source.element_shape)}")
        return object_scalar(source.set(place, item))

    return run
