"""Tensor arrays and stacks, as frame-based loops accumulate them.

Both live in the running step. Their handles point at them, so that only the ops that make one need the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime._ext.variable import ResourceHandle
from runtime.dtypes import DataType, to_numpy
from runtime.ops.handles import RefHandle, handle_array
from runtime.ops.partial_shapes import known, matches
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.state.tensor_array import ARRAYS, GRADIENTS, Stack, TensorArray

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["STACK", "TENSOR_ARRAY"]

STACK = "N10tensorflow5StackE"
"""Kind of stacks in the step's resources, as TensorFlow's handles have it."""

TENSOR_ARRAY = "N10tensorflow11TensorArrayE"
"""Kind of tensor arrays in the step's resources."""

Run = Callable[..., Any]

_STACKS = "_stacks"  # container in the step's resources
_numbers = itertools.count()  # of arrays and stacks made in this process; part of their names


def _keep(step: StepContext, device: str, container: str, made: Stack | TensorArray) -> Any:
    """Put a new resource into the running step, with which it ends, and return its handle."""
    kind = STACK if container == _STACKS else TENSOR_ARRAY
    step.resources.lookup_or_create(container, kind, made.name, lambda: made)
    return handle_array(ResourceHandle(device, container, made.name, kind, made))


def _stack_of(handle: Any) -> Stack:
    # A loop's backward pass comes here for everything that it needs of the forward pass.
    try:
        found = handle.item().resource
    except AttributeError:
        found = getattr(handle, "resource", None)  # the older form, a reference
    if not isinstance(found, Stack):
        raise InvalidArgument(f"the handle {handle!r} does not name a stack; connect the output of a StackV2")
    return found


def _array_of(handle: Any) -> TensorArray:
    found = getattr(handle.item(), "resource", None)
    if not isinstance(found, TensorArray):
        raise InvalidArgument(f"the resource handle {handle.item()!r} does not name a tensor array; connect the output "
                              "of a TensorArrayV3")
    return found


# Stacks


@kernel("StackV2", shape=scalar, host=(0,), needs_step=True)
def _stack(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("elem_type"))
    prefix = node.attr("stack_name").decode("utf-8", "replace") or node.name
    device = env.device.name

    def run(step: StepContext, limit: Any) -> Any:
        if limit.ndim:
            raise InvalidArgument(f"Stack size must be a scalar, but had shape: {format_shape(limit.shape)}")
        return _keep(step, device, _STACKS, Stack(f"{prefix}_{next(_numbers)}", kind, int(limit)))

    return run


@kernel("Stack", shape=lambda node, shapes: [(2,)], needs_step=True)
def _old_stack(node: Node, env: KernelEnv) -> Run:
    """Make a stack of no limit, and hand on a reference."""
    kind = DataType(node.attr("elem_type"))
    prefix = node.attr("stack_name").decode("utf-8", "replace") or node.name
    device = env.device.name

    def run(step: StepContext) -> Any:
        made = Stack(f"{prefix}_{next(_numbers)}", kind, -1)
        _keep(step, device, _STACKS, made)
        return RefHandle(_STACKS, made.name, made)

    return run


def _pushed_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[1]]


@kernel("StackPush", "StackPushV2", shape=_pushed_shape)
def _stack_push(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("T"))

    def run(handle: Any, element: Any) -> Any:
        stack = _stack_of(handle)
        if stack.element_type != kind:
            raise InvalidArgument(f"Must have type {int(stack.element_type)} but got {int(kind)}")
        stack.push(element)
        return element

    return run


@kernel("StackPop", "StackPopV2", shape=lambda node, shapes: [None])
def _stack_pop(node: Node, env: KernelEnv) -> Run:
    return lambda handle: _stack_of(handle).pop()


@kernel("StackClose", "StackCloseV2", shape=lambda node, shapes: [])
def _stack_close(node: Node, env: KernelEnv) -> Run:
    return lambda handle: _stack_of(handle).close()


# Making tensor arrays


@kernel("TensorArrayV3", shape=scalar, host=(0,), needs_step=True)
def _tensor_array(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("dtype"))
    shape: Shape = node.attr("element_shape")
    prefix = node.attr("tensor_array_name").decode("utf-8", "replace") or node.name
    options = {"is_dynamic": node.attr("dynamic_size"), "clears": node.attr("clear_after_read"),
               "same_shapes": node.attr("identical_element_shapes"), "xp": env.xp}
    device = env.device.name
    flow = env.xp.zeros((), np.float32)

    def run(step: StepContext, size: Any) -> Any:
        if size.ndim:
            raise InvalidArgument(f"TensorArray size must be scalar, but had shape: {format_shape(size.shape)}")
        if size < 0:
            raise InvalidArgument("Size should be >= 0.")
        made = TensorArray(f"{prefix}_{next(_numbers)}", kind, shape, int(size), **options)
        return _keep(step, device, ARRAYS, made), flow

    return run


@kernel("TensorArrayGradV3", "TensorArrayGradWithShape", shape=scalar, host=(2,), needs_step=True)
def _tensor_array_grad(node: Node, env: KernelEnv) -> Run:
    source = node.attr("source").decode("utf-8", "replace")
    device, xp = env.device.name, env.xp

    def run(step: StepContext, handle: Any, flow: Any, prefix: Any = None) -> Any:
        array = _array_of(handle)
        before: tuple[int, ...] = () if prefix is None else tuple(prefix.tolist())

        def make(name: str, size: int) -> TensorArray:
            shape = None if array.element_shape is None else (*before, *array.element_shape)
            made = TensorArray(name, array.element_type, shape, size, clears=array.clears, is_gradient=True,
                               same_shapes=array.same_shapes, xp=xp)
            _keep(step, device, GRADIENTS, made)
            return made

        gradient = array.gradient(source, make, before)
        return handle_array(ResourceHandle(device, GRADIENTS, gradient.name, TENSOR_ARRAY, gradient)), flow

    return run


# One element


def _index(tensor: Any, what: str = "index") -> int:
    if tensor.ndim:
        raise InvalidArgument(f"TensorArray {what} must be scalar, but had shape: {format_shape(tensor.shape)}")
    return int(tensor)


def _check_type(array: TensorArray, kind: DataType, does: str) -> None:
    if array.element_type != kind:
        raise InvalidArgument(f"TensorArray dtype is {array.element_type.label} but Op {does} {kind.label}.")


@kernel("TensorArrayWriteV3", shape=scalar, host=(1,))
def _write(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("T"))

    def run(handle: Any, index: Any, value: Any, flow: Any) -> Any:
        place = _index(index)
        array = _array_of(handle)
        _check_type(array, kind, "is trying to write dtype")
        array.write(place, value)
        return flow

    return run


def _declared(node: Node) -> Shape:
    """Return the shape of all elements as the array's own node declares it; None where that is not to be seen."""
    source = node.inputs[0][0] if node.inputs else None
    while source is not None and source.op in ("Enter", "Identity", "Switch", "PlaceholderWithDefault"):
        source = source.inputs[0][0] if source.inputs else None
    return source.attr("element_shape") if source is not None and source.op == "TensorArrayV3" else None


@kernel("TensorArrayReadV3", shape=lambda node, shapes: [_declared(node)], host=(1,))
def _read(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("dtype"))

    def run(handle: Any, index: Any, flow: Any) -> Any:
        place = _index(index)
        array = _array_of(handle)
        _check_type(array, kind, "requested dtype")
        return array.read(place)

    return run


# Many elements


def _gather_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = node.attr("element_shape")
    if shape is None:
        return [None]
    return [(shapes[1][0] if shapes[1] is not None and len(shapes[1]) == 1 else None, *shape)]


@kernel("TensorArrayGatherV3", shape=_gather_shape, host=(1,))
def _gather(node: Node, env: KernelEnv) -> Run:
    kind, wanted, xp = DataType(node.attr("dtype")), node.attr("element_shape"), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, indices: Any, flow: Any) -> Any:
        array = _array_of(handle)
        _check_type(array, kind, "requested dtype")
        if indices.ndim != 1:
            raise InvalidArgument(f"Expected indices to be a vector, but received shape: {format_shape(indices.shape)}")
        if not indices.size:
            return xp.empty((0, *_static(wanted, "element shape", "packing")), dtype)
        values = array.read_all(indices.tolist())
        first = values[0].shape
        if not matches(wanted, first):
            raise InvalidArgument(f"TensorArray was passed element_shape {format_shape(wanted)} which does not match "
                                  f"the Tensor at index 0: {format_shape(first)}")
        for number, value in enumerate(values):
            if value.shape != first:
                raise InvalidArgument(f"TensorArray has inconsistent shapes.  Index 0 has shape: {format_shape(first)} "
                                      f"but index {number} has shape: {format_shape(value.shape)}")
        return xp.stack(values)

    return run


def _static(declared: Shape, what: str, does: str) -> tuple[int, ...]:
    """Return the shape of elements that are not there, as a node declares it."""
    shape = known(declared)
    if shape is None:
        raise Unimplemented(f"TensorArray has size zero, but {what} {format_shape(declared)} is not fully defined. "
                            f"Currently only static shapes are supported when {does} zero-size TensorArrays.")
    return shape


def _concat_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    rest = node.attr("element_shape_except0")
    return [None if rest is None else (None, *rest), (None,)]


@kernel("TensorArrayConcatV3", shape=_concat_shape)
def _concat(node: Node, env: KernelEnv) -> Run:
    kind, rest, xp = DataType(node.attr("dtype")), node.attr("element_shape_except0"), env.xp
    dtype = to_numpy(kind)

    def run(handle: Any, flow: Any) -> Any:
        array = _array_of(handle)
        _check_type(array, kind, "requested dtype")
        if not array.size():
            return xp.empty((0, *_static(rest, "element_shape_except0", "concatenating")), dtype), np.zeros(0, np.int64)
        values = array.read_all(None)
        for number, value in enumerate(values):
            if not value.ndim:
                raise InvalidArgument(f"Concat saw a scalar shape at index {number} but requires at least vectors.  "
                                      "Did you mean to call pack?")
            if not matches(rest, value.shape[1:]):
                raise InvalidArgument(f"TensorArray was passed element_shape_except0 {format_shape(rest)} but index "
                                      f"{number} has (excepting dimension 0) shape: {format_shape(value.shape[1:])} "
                                      "which does not match.")
            if value.shape[1:] != values[0].shape[1:]:
                raise InvalidArgument(
                    "TensorArray has inconsistent shapes.  Index 0 has (excepting dimension 0) shape: "
                    f"{format_shape(values[0].shape[1:])} but index {number} has (excepting dimension 0) shape: "
                    f"{format_shape(value.shape[1:])}")
        return xp.concatenate(values), np.array([value.shape[0] for value in values], np.int64)

    return run


@kernel("TensorArrayScatterV3", shape=scalar, host=(1,))
def _scatter(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("T"))

    def run(handle: Any, indices: Any, value: Any, flow: Any) -> Any:
        array = _array_of(handle)
        if indices.ndim != 1:
            raise InvalidArgument(f"Expected indices to be a vector, but received shape: {format_shape(indices.shape)}")
        if not value.ndim:
            raise InvalidArgument("Input value for unpack must be at least a vector but received shape: []")
        if indices.shape[0] != value.shape[0]:
            raise InvalidArgument(f"Expected len(indices) == values.shape[0], but saw: {indices.shape[0]} vs. "
                                  f"{value.shape[0]}")
        _check_type(array, kind, "is trying to write dtype")
        places = indices.tolist()
        size = array.size()
        if places and max(places) >= size and not array.is_dynamic:
            raise InvalidArgument(f"Max scatter index must be < array size ({max(places)} vs. {size})")
        array.write_all(places, [value[row, ...] for row in range(len(places))])
        return flow

    return run


@kernel("TensorArraySplitV3", shape=scalar, host=(2,))
def _split(node: Node, env: KernelEnv) -> Run:
    kind = DataType(node.attr("T"))

    def run(handle: Any, value: Any, lengths: Any, flow: Any) -> Any:
        array = _array_of(handle)
        _check_type(array, kind, "is trying to write dtype")
        if lengths.ndim != 1:
            raise InvalidArgument(f"Expected lengths to be a vector, received shape: {format_shape(lengths.shape)}")
        if not value.ndim:
            raise InvalidArgument("Expected value to be at least a vector, but received shape: []")
        sizes = lengths.tolist()
        if any(size < 0 for size in sizes):  # TensorFlow's server ends here
            raise InvalidArgument(f"Expected lengths that are not negative, received: {sizes}")
        if sum(sizes) != value.shape[0]:
            raise InvalidArgument(f"Expected sum of lengths to be equal to values.shape[0], but sum of lengths is "
                                  f"{sum(sizes)} and value's shape is: {format_shape(value.shape)}")
        size = array.size()
        if size != len(sizes) and not array.is_dynamic:
            raise InvalidArgument(f"TensorArray's size is not equal to the size of lengths ({size} vs. {len(sizes)}), "
                                  "and the TensorArray is not marked as dynamically resizeable")
        ends = list(itertools.accumulate(sizes))
        array.write_all(range(len(sizes)), [value[end - length:end] for end, length in zip(ends, sizes, strict=True)])
        return flow

    return run


@kernel("TensorArraySizeV3", shape=scalar)
def _size(node: Node, env: KernelEnv) -> Run:
    return lambda handle, flow: np.int32(_array_of(handle).size())


@kernel("TensorArrayCloseV3", shape=lambda node, shapes: [])
def _close(node: Node, env: KernelEnv) -> Run:
    return lambda handle: _array_of(handle).close()
