"""TensorLists from larger tensors and back: split, scattered and unstacked; stacked, gathered and concatenated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, to_numpy
from runtime.ops.objects import object_scalar
from runtime.ops.partial_shapes import known, matches, merge, shape_from_tensor
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.tensor_lists import element_type, inferred, list_of, number, typed_list, unknowns, zeros
from runtime.ops.values.tensor_list import TensorList, check_length

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

# Lists from tensors


@kernel("TensorListFromTensor", shape=scalar, host=(1,))
def _from_tensor(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(tensor: Any, shape: Any) -> Any:
        element_shape = shape_from_tensor(shape)
        if not tensor.ndim:
            raise InvalidArgument("Tensor must be at least a vector, but saw shape: []")
        if not matches(element_shape, tensor.shape[1:]):
            raise InvalidArgument(f"Specified a list with shape {format_shape(element_shape)} from a tensor with shape "
                                  f"{format_shape(tensor.shape[1:])}")
        return object_scalar(TensorList(kind, element_shape, (tensor[i, ...] for i in range(tensor.shape[0]))))

    return run


@kernel("TensorListSplit", shape=scalar, host=(1, 2))
def _split(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(tensor: Any, shape: Any, lengths: Any) -> Any:
        element_shape = shape_from_tensor(shape)
        if lengths.ndim != 1:
            raise InvalidArgument(f"Expected lengths to be a vector, received shape: {format_shape(lengths.shape)}")
        if not tensor.ndim:
            raise InvalidArgument("Tensor must be at least a vector, but saw shape: []")
        if element_shape == ():
            raise InvalidArgument("TensorListSplit requires element_shape to be at least of rank 1, but saw: []")
        if element_shape is not None and not matches(element_shape[1:], tensor.shape[1:]):
            raise InvalidArgument(f"tensor shape {format_shape(tensor.shape)} is not compatible with element_shape "
                                  f"{format_shape(element_shape)}")
        sizes, total = lengths.tolist(), tensor.shape[0]
        ends = list(accumulate(sizes))
        for size, end in zip(sizes, ends, strict=True):
            if size < 0:
                raise InvalidArgument(f"Invalid value in lengths: {size}")
            if end > total:
                raise InvalidArgument(f"Attempting to slice [{end - size}, {end}] from tensor with length {total}")
        used = ends[-1] if ends else 0
        if used != total:
            raise InvalidArgument(f"Unused values in tensor. Length of tensor: {total} Values used: {used}")
        return object_scalar(TensorList(
            kind, element_shape, (tensor[end - size:end] for size, end in zip(sizes, ends, strict=True))))

    return run


def _stack_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    wanted = shapes[1]
    count = node.attr("num_elements")
    if wanted is None or len(wanted) != 1 or wanted[0] is None:  # only the values tell
        return [None]
    return [(None if count < 0 else count, *(None for _ in range(wanted[0])))]


@kernel("TensorListStack", shape=_stack_shape, host=(1,))
def _stack(node: Node, env: KernelEnv) -> Run:
    kind, count, xp = element_type(node), node.attr("num_elements"), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, shape: Any) -> Any:
        source = typed_list(handle, kind)
        if count not in (-1, source.length):
            raise InvalidArgument(f"Operation expected a list with {count} elements but got a list with "
                                  f"{source.length} elements.")
        wanted = merge(shape_from_tensor(shape), source.element_shape)
        if not source.length and known(wanted) is None:
            raise InvalidArgument("Tried to stack elements of an empty list with non-fully-defined element_shape: "
                                  f"{format_shape(wanted)}")
        full = wanted if known(source.element_shape) is not None else inferred(source, wanted)
        dims = known(full)
        if dims is None:
            raise InvalidArgument("Tried to stack list which only contains uninitialized tensors and has a "
                                  f"non-fully-defined element_shape: {format_shape(full)}")
        return _stacked(xp, list(source.elements()), dims, dtype)

    return run


def _stacked(xp: Any, elements: Sequence[Any], dims: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return elements of one shape as one array, zeros for those that were never set."""
    if all(element is not None for element in elements) and elements:
        return xp.stack(elements)
    result = zeros(xp, (len(elements), *dims), dtype)
    for row, element in enumerate(elements):
        if element is not None:
            result[row, ...] = element
    return result


@kernel("TensorListGather", shape=unknowns(1), host=(1, 2))
def _gather(node: Node, env: KernelEnv) -> Run:
    kind, xp = element_type(node), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, indices: Any, shape: Any) -> Any:
        source = typed_list(handle, kind)
        places = indices.reshape(-1).tolist()
        wanted = merge(shape_from_tensor(shape), source.element_shape)
        if not places and known(wanted) is None:
            raise InvalidArgument("Tried to gather 0-elements from a list with non-fully-defined shape: "
                                  f"{format_shape(wanted)}")
        elements = []
        for place in places:
            if not 0 <= place < source.length:
                raise InvalidArgument(f"Trying to gather element {place} in a list with {source.length} elements.")
            elements.append(source.get(place))
        full = wanted
        if known(source.element_shape) is None:
            for element in elements:
                if element is not None:
                    full = merge(full, element.shape)
        dims = known(full)
        if dims is None:
            raise InvalidArgument("Tried to gather uninitialized tensors from a list with non-fully-defined "
                                  f"element_shape: {format_shape(full)}")
        return _stacked(xp, elements, dims, dtype)

    return run


def _put_all(source: TensorList, places: Sequence[int], rows: Iterable[Any]) -> TensorList:
    elements = list(source.elements())
    for place, row in zip(places, rows, strict=True):
        elements[place] = row
    return TensorList(source.dtype, source.element_shape, elements, source.max_num_elements)


@kernel("TensorListScatterV2", "TensorListScatter", shape=scalar, host=(1, 2, 3))
def _scatter(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(tensor: Any, indices: Any, shape: Any, count: Any = None) -> Any:
        element_shape = shape_from_tensor(shape)
        size = -1 if count is None else number(count, "num_elements")
        if size < -1:
            raise InvalidArgument(f"TensorListScatter expects num_elements >= -1, found: {size}")
        places = indices.reshape(-1).tolist()
        if not tensor.ndim:
            raise InvalidArgument("Tensor must be at least a vector, but saw shape: []")
        if len(places) != tensor.shape[0]:
            raise InvalidArgument(f"Invalid number of rows in input tensor. Expected: {len(places)} Actual: "
                                  f"{tensor.shape[0]}")
        if not matches(element_shape, tensor.shape[1:]):
            raise InvalidArgument(f"Specified a list with shape {format_shape(element_shape)} from a tensor with shape "
                                  f"{format_shape(tensor.shape[1:])}")
        if places and min(places) < 0:
            raise InvalidArgument("Indices in TensorListScatter must all be non-negative.")
        highest = max(places, default=-1)
        if size != -1 and highest >= size:
            raise InvalidArgument(f"TensorListScatter: Trying to scatter at index {highest} in list with size {size}")
        length = max(size, highest + 1)
        check_length(length)
        made = TensorList(kind, element_shape).resize(length)
        return object_scalar(_put_all(made, places, (tensor[row, ...] for row in range(len(places)))))

    return run


@kernel("TensorListScatterIntoExistingList", shape=scalar, host=(2,))
def _scatter_into(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)

    def run(handle: Any, tensor: Any, indices: Any) -> Any:
        source = list_of(handle)
        if source.dtype != kind:
            raise InvalidArgument(f"Invalid data types; input tensor type: {kind.label} list element_type: "
                                  f"{source.dtype.label}")
        if indices.ndim != 1:
            raise InvalidArgument(f"Expected indices to be a vector, but received shape: {format_shape(indices.shape)}")
        places = indices.tolist()
        if not tensor.ndim:
            raise InvalidArgument("Tensor must be at least a vector, but saw shape: []")
        if len(places) != tensor.shape[0]:
            raise InvalidArgument(f"Expected len(indices) == tensor.shape[0], but saw: {len(places)} vs. "
                                  f"{tensor.shape[0]}")
        merge(tensor.shape[1:], source.element_shape)
        if places and min(places) < 0:
            raise InvalidArgument("Indices in TensorListScatterIntoExistingList must all be non-negative.")
        highest = max(places, default=-1)
        if highest >= source.length:
            source = source.resize(highest + 1)
        return object_scalar(_put_all(source, places, (tensor[row, ...] for row in range(len(places)))))

    return run


def _concat_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None, (None,)]


@kernel("TensorListConcatV2", shape=_concat_shape, host=(1, 2))
def _concat(node: Node, env: KernelEnv) -> Run:
    kind = element_type(node)
    concatenate = _concatenation(kind, env.xp)

    def run(handle: Any, shape: Any, leading: Any) -> Any:
        source = typed_list(handle, kind)
        wanted = merge(shape_from_tensor(shape), source.element_shape)
        if wanted == ():
            raise InvalidArgument("Concat requires elements to be at least vectors, found scalars instead.")
        return concatenate(source, wanted, leading.reshape(-1).tolist())

    return run


@kernel("TensorListConcat", shape=_concat_shape)
def _concat_v1(node: Node, env: KernelEnv) -> Run:
    """Take but the dimensions behind the first from the attr, and nothing from the list's own shape."""
    kind = element_type(node)
    concatenate = _concatenation(kind, env.xp)
    shape = node.attr("element_shape")
    if shape == ():
        raise InvalidArgument("element_shape must not be empty")
    wanted = None if shape is None else (None, *shape[1:])
    return lambda handle: concatenate(typed_list(handle, kind), wanted, None)


def _concatenation(kind: DataType, xp: Any) -> Callable[[TensorList, Shape, list[int] | None], Any]:
    """Return a function of a list, the shape that its elements are to have, and the lengths of unset ones."""
    dtype = to_numpy(kind)

    def concatenate(source: TensorList, wanted: Shape, leading: list[int] | None) -> Any:
        first = None if wanted is None else wanted[0]
        rest = None if wanted is None else wanted[1:]
        if not source.length and known(rest) is None:
            raise InvalidArgument("All except the first dimension must be fully defined when concating an empty tensor "
                                  f"list. element_shape: {format_shape(wanted)}")
        elements = list(source.elements())
        if known(source.element_shape) is None:
            first, rest = _concat_rest(elements, first, rest)
        dims = known(rest)
        if dims is None:
            raise InvalidArgument("Trying to concat list with only uninitialized tensors but "
                                  f"element_shape_except_first_dim is not fully defined: {format_shape(rest)}")
        parts = []
        for place, element in enumerate(elements):
            if element is None:
                element = zeros(xp, (_unset_length(place, first, leading), *dims), dtype)
            parts.append(element)
        lengths = np.array([part.shape[0] for part in parts], np.int64)
        return (xp.concatenate(parts) if parts else zeros(xp, (0, *dims), dtype)), lengths

    return concatenate


def _concat_rest(elements: Sequence[Any], first: int | None, rest: Shape) -> tuple[int | None, Shape]:
    """Return what the elements that are set tell of the first and of the other dimensions of all."""
    firsts = set()
    for place, element in enumerate(elements):
        if element is None:
            continue
        if not element.ndim:
            raise InvalidArgument(f"Concat saw a scalar shape at index {place} but requires at least vectors.")
        rest = merge(rest, element.shape[1:])
        if first is not None and element.shape[0] != first:
            raise InvalidArgument("First entry of element_shape input does not match the first dim of list element at "
                                  f"index: {place} Expected: {first} Actual: {element.shape[0]}")
        firsts.add(element.shape[0])
    return (firsts.pop() if first is None and len(firsts) == 1 else first), rest


def _unset_length(place: int, first: int | None, leading: list[int] | None) -> int:
    """Return how long an element that was never set counts."""
    if first is not None and (leading is None or place >= len(leading)):
        return first
    if leading is None:
        raise InvalidArgument("Concating lists with uninitialized tensors is not supported in this version of "
                              "TensorListConcat. Consider updating your GraphDef to run the newer version.")
    if place >= len(leading):
        raise InvalidArgument(f"List contains uninitialized tensor at index {place} but leading_dims has only "
                              f"{len(leading)} elements.")
    return leading[place]
