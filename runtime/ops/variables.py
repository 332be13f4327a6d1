"""Reference variables and resource variables.

Both kinds are a `Variable`. A reference variable travels as the `Variable` itself; a resource variable as a scalar
object array with a `ResourceHandle` that points at it. A variable exists, uninitialised, from the moment a node that
names it is compiled; destroying it makes it uninitialised again, so that compiled steps keep pointing at the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, OutOfRange
from runtime._ext.variable import ResourceHandle, Variable
from runtime.dtypes import base, to_numpy
from runtime.ops.handles import handle_array
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input, scalar, unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["REF_VARIABLE", "RESOURCE_VARIABLE", "check_indices", "existing", "variable_of"]

RESOURCE_VARIABLE = "N10tensorflow3VarE"
"""Kind of a resource variable in the resource manager, as TensorFlow's handles and messages have it."""

REF_VARIABLE = "N10tensorflow9LegacyVarE"
"""Kind of a reference variable in the resource manager."""

Run = Callable[..., Any]


def variable_of(resource: np.ndarray[Any, Any]) -> Variable:
    """Return the variable that a resource tensor names.

    Raises
    ------
    InvalidArgument
        If the handle names something else.
    """
    handle = resource.item()
    found = getattr(handle, "resource", None)
    if not isinstance(found, Variable):
        raise InvalidArgument(f"the resource handle {handle!r} does not name a variable; feed or connect the output of "
                              "a VarHandleOp")
    return found


def existing(resource: np.ndarray[Any, Any]) -> Variable:
    """Return the initialised variable that a resource tensor names.

    Raises
    ------
    NotFound
        While it is uninitialised: for TensorFlow such a resource variable does not exist.
    """
    found = variable_of(resource)
    if found.value is None:
        raise NotFound(f"Resource {found.container}/{found.name}/{RESOURCE_VARIABLE} does not exist.")
    return found


def check_indices(indices: Any, limit: int, xp: Any) -> None:
    """Check that every index is in [0, limit).

    Raises
    ------
    InvalidArgument
        In TensorFlow's words, with the place and value of the first bad index.
    """
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= limit):
        place = np.unravel_index(int(xp.argmax((indices < 0) | (indices >= limit))), indices.shape)
        where = ",".join(map(str, place))
        raise InvalidArgument(f"indices[{where}] = {int(indices[place])} is not in [0, {limit})")


def _storable(value: Any, xp: Any) -> Any:
    """Return an array the variable may keep: `value` itself when it owns its data in C order, else a copy.

    Views (feeds are views on the bytes of a request, slices are views on larger arrays) would keep more memory alive
    than the variable needs.
    """
    if isinstance(value, xp.ndarray):
        flags = value.flags
        if flags.owndata and flags.c_contiguous:
            return value
    return xp.array(value, order="C", copy=True)


def _name_of(node: Node) -> str:
    shared: bytes = node.attr("shared_name")
    return shared.decode() if shared else node.name


def _lookup_or_create(node: Node, env: KernelEnv, kind: str) -> Variable:
    name = _name_of(node)
    resources = env.session.resources
    container = resources.container_of(node.attr("container").decode())
    datatype = node.attr("dtype")
    shape = node.attr("shape")
    if node.op == "Variable" and shape == ():  # the first version of the op cannot tell a scalar from an unknown shape
        shape = None

    def create() -> Variable:
        variable = Variable(name, container, int(datatype), shape)
        if kind == REF_VARIABLE and shape is not None and 0 in shape and None not in shape:
            variable.value = env.xp.empty(shape, to_numpy(datatype))  # a buffer of no bytes is initialised
        return variable

    return resources.lookup_or_create(container, kind, name, create)


def _declared_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = node.attr("shape")
    return [None if node.op == "Variable" and shape == () else shape]


def _assigned_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[1] if not node.attr("validate_shape") or shapes[0] is None else shapes[0]]


def _handle_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    source = node.inputs[0][0] if node.inputs else None
    return [source.attr("shape") if source is not None and source.op == "VarHandleOp" else None]


def _label(datatype: int) -> str:
    return base(datatype).label


# Reference variables


@kernel("VariableV2", "Variable", shape=_declared_shape)
def variable_v2(node: Node, env: KernelEnv) -> Run:
    shared = node.attr("shared_name").decode()
    if shared.startswith("_"):
        raise InvalidArgument(f"shared_name cannot start with '_':{shared}")
    variable = _lookup_or_create(node, env, REF_VARIABLE)
    declared = int(node.attr("dtype"))

    def run() -> Variable:
        if variable.datatype != declared:
            raise Internal(f"Output 0 of type {_label(variable.datatype)}_ref does not match declared output type "
                           f"{_label(declared)}_ref for node {{{{node {node.name}}}}}")
        return variable

    return run


@kernel("TemporaryVariable", shape=_declared_shape)
def temporary_variable(node: Node, env: KernelEnv) -> Run:
    """Make a fresh variable at every run, so that iterations of a loop do not share one; it lives while it is used."""
    datatype = node.attr("dtype")
    shape = node.attr("shape")
    if shape is None or any(dim is None for dim in shape):
        raise InvalidArgument(f"TemporaryVariable '{node.name}' needs a fully known shape, got {format_shape(shape)}")
    name = node.attr("var_name").decode() or node.name
    dtype, xp = to_numpy(datatype), env.xp

    def run() -> Variable:
        variable = Variable(name, "", int(datatype), shape)
        variable.value = xp.full(shape, b"", dtype=object) if dtype.kind == "O" else xp.zeros(shape, dtype)
        return variable

    return run


@kernel("DestroyTemporaryVariable", shape=like_input())
def destroy_temporary_variable(node: Node, env: KernelEnv) -> Run:
    name = node.attr("var_name").decode()

    def run(variable: Variable) -> Any:
        if variable.name != name:
            raise NotFound(f"Resource {variable.container}/{name}/N10tensorflow19TemporaryVariableOp6TmpVarE does not "
                           f"exist; the reference names the temporary variable '{variable.name}'")
        return variable.read()

    return run


@kernel("Assign", shape=_assigned_shape)
def assign(node: Node, env: KernelEnv) -> Run:
    validate, xp = node.attr("validate_shape"), env.xp

    def run(variable: Variable, value: Any) -> Variable:
        with variable.lock:
            if validate:
                current = variable.value
                # Without a value the declared shape decides; an unknown one was allocated as a scalar by TensorFlow.
                declared = (variable.shape or ()) if current is None else current.shape
                if declared != value.shape and not _matches(declared, value.shape):
                    raise InvalidArgument("Assign requires shapes of both tensors to match. lhs shape= "
                                          f"{format_shape(declared)} rhs shape= {format_shape(value.shape)}")
            variable.value = _storable(value, xp)
        return variable

    return run


def _matches(declared: Shape, shape: tuple[int, ...]) -> bool:
    return declared is not None and len(declared) == len(shape) and all(
        want is None or want == got for want, got in zip(declared, shape, strict=True))


def _assign_in_place(op: str, ufunc_name: str) -> None:
    @kernel(op, shape=like_input())
    def bind(node: Node, env: KernelEnv) -> Run:
        ufunc = getattr(env.xp, ufunc_name)

        def run(variable: Variable, value: Any) -> Variable:
            with variable.lock:
                if variable.read().shape != value.shape:
                    raise InvalidArgument("Parameters and update must be the same size")
                target = variable.writable()
                ufunc(target, value, out=target)
            return variable

        return run


_assign_in_place("AssignAdd", "add")
_assign_in_place("AssignSub", "subtract")


@kernel("RefSelect", shape=unknown, host=(0,))
def ref_select(node: Node, env: KernelEnv) -> Run:
    def run(index: Any, *variables: Variable) -> Variable:
        if index.ndim:
            raise InvalidArgument(f"Index must be a scalar, but it has shape {format_shape(index.shape)}")
        if not 0 <= index < len(variables):
            raise InvalidArgument(f"Index must be in the range [0, {len(variables)}) but got {int(index)}")
        return variables[int(index)]

    return run


@kernel("IsVariableInitialized", shape=scalar)
def is_variable_initialized(node: Node, env: KernelEnv) -> Run:
    return lambda variable: np.bool_(variable.value is not None)


@kernel("CountUpTo", shape=scalar)
def count_up_to(node: Node, env: KernelEnv) -> Run:
    return _counter(node, env, lambda variable: variable)


@kernel("ResourceCountUpTo", shape=scalar)
def resource_count_up_to(node: Node, env: KernelEnv) -> Run:
    return _counter(node, env, existing)


def _counter(node: Node, env: KernelEnv, find: Callable[[Any], Variable]) -> Run:
    limit, xp = node.attr("limit"), env.xp

    def run(ref: Any) -> Any:
        variable = find(ref)
        with variable.lock:
            before = variable.read()
            if before.shape != ():
                raise InvalidArgument(f"input is not a scalar: {format_shape(before.shape)}")
            if int(before) >= limit:
                raise OutOfRange(f"Reached limit of {limit}")
            variable.value = xp.asarray(before + before.dtype.type(1))
        return before

    return run


# Resource variables


@kernel("VarHandleOp", shape=scalar)
def var_handle(node: Node, env: KernelEnv) -> Run:
    variable = _lookup_or_create(node, env, RESOURCE_VARIABLE)
    handle = handle_array(ResourceHandle(env.device.name, variable.container, variable.name, RESOURCE_VARIABLE,
                                         variable))
    return lambda: handle


@kernel("ReadVariableOp", shape=_handle_shape)
def read_variable(node: Node, env: KernelEnv) -> Run:
    datatype = int(node.attr("dtype"))

    def run(resource: Any) -> Any:
        variable = variable_of(resource)
        value = variable.value
        if value is None:
            missing = f"Resource {variable.container}/{variable.name}/{RESOURCE_VARIABLE} does not exist."
            raise FailedPrecondition(
                f"Could not find variable {variable.name}. This could mean that the variable has been deleted. In TF1, "
                f"it can also mean the variable is uninitialized. Debug info: container={variable.container}, status "
                f"error message={missing}")
        if variable.datatype != datatype:
            raise InvalidArgument(f"Trying to read variable with wrong dtype. Expected {_label(variable.datatype)} got "
                                  f"{_label(datatype)}")
        return value

    return run


@kernel("AssignVariableOp")
def assign_variable(node: Node, env: KernelEnv) -> Run:
    datatype, validate, xp = int(node.attr("dtype")), node.attr("validate_shape"), env.xp

    def run(resource: Any, value: Any) -> None:
        variable = variable_of(resource)
        with variable.lock:
            _check_type(variable, datatype)
            if validate and variable.value is not None and variable.value.shape != value.shape:
                raise InvalidArgument("Trying to assign to variable with tensor with wrong shape. Expected "
                                      f"{format_shape(variable.value.shape)} got {format_shape(value.shape)}")
            variable.value = _storable(value, xp)

    return run


def _check_type(variable: Variable, datatype: int) -> None:
    if variable.datatype == datatype:
        return
    if variable.value is not None:
        raise InvalidArgument(f"Trying to assign variable with wrong dtype. Expected {_label(variable.datatype)} got "
                              f"{_label(datatype)}")
    variable.datatype = datatype  # the first assignment decides, as when the variable is made by it


def _update_in_place(op: str, ufunc_name: str) -> None:
    @kernel(op)
    def bind(node: Node, env: KernelEnv) -> Run:
        datatype, ufunc = int(node.attr("dtype")), getattr(env.xp, ufunc_name)

        def run(resource: Any, value: Any) -> None:
            variable = existing(resource)
            with variable.lock:
                _check_type(variable, datatype)
                current = variable.read()
                if current.shape != value.shape:
                    raise InvalidArgument(f"Cannot update variable with shape {format_shape(current.shape)} using a "
                                          f"Tensor with shape {format_shape(value.shape)}, shapes must be equal.")
                del current  # a second name would make it look shared
                target = variable.writable()
                ufunc(target, value, out=target)

        return run


_update_in_place("AssignAddVariableOp", "add")
_update_in_place("AssignSubVariableOp", "subtract")


@kernel("VarIsInitializedOp", shape=scalar)
def var_is_initialized(node: Node, env: KernelEnv) -> Run:
    return lambda resource: np.bool_(variable_of(resource).value is not None)


@kernel("VariableShape", shape=lambda node, shapes: [(None,)])
def variable_shape(node: Node, env: KernelEnv) -> Run:
    dtype, xp = to_numpy(node.attr("out_type")), env.xp
    return lambda resource: xp.array(existing(resource).read().shape, dtype=dtype)


@kernel("DestroyResourceOp")
def destroy_resource(node: Node, env: KernelEnv) -> Run:
    """Make a variable uninitialised; anything else is removed from the resource manager."""
    ignore = node.attr("ignore_lookup_error")
    resources = env.session.resources

    def run(resource: Any) -> None:
        handle = resource.item()
        found = handle.resource
        if isinstance(found, Variable):
            with found.lock:
                was_there = found.value is not None
                found.value = None
        else:
            was_there = resources.delete(handle.container, handle.type_name, handle.name)
        if not was_there and not ignore:
            raise NotFound(f"Resource {handle.container}/{handle.name}/<unknown> does not exist.")

    return run


@kernel("DisableCopyOnRead")
def disable_copy_on_read(node: Node, env: KernelEnv) -> Run:
    """Do nothing: reading never copies here."""
    return lambda resource: None


@kernel("ResourceGather", shape=unknown)
def resource_gather(node: Node, env: KernelEnv) -> Run:
    batch_dims, xp = node.attr("batch_dims"), env.xp

    def run(resource: Any, indices: Any) -> Any:
        value = existing(resource).read()
        batch = batch_dims + indices.ndim if batch_dims < 0 else batch_dims
        if value.ndim < batch + 1:
            raise InvalidArgument(f"params must be at least {batch + 1} dimensional")
        if value.shape[:batch] != indices.shape[:batch]:
            raise InvalidArgument(f"params.shape[:{batch}] {format_shape(value.shape[:batch])} should be equal to "
                                  f"indices.shape[:{batch}] {format_shape(indices.shape[:batch])}")
        check_indices(indices, value.shape[batch], xp)
        if batch == 0:
            return xp.take(value, indices, axis=0) if value.size or not indices.size else \
                xp.empty(indices.shape + value.shape[1:], value.dtype)
        rows = int(np.prod(value.shape[:batch]))
        shape = indices.shape + value.shape[batch + 1:]
        flat = value.reshape((rows, *value.shape[batch:]))
        picked = flat[xp.arange(rows)[:, None], indices.reshape(rows, int(np.prod(indices.shape[batch:])))]
        return picked.reshape(shape)

    return run


@kernel("ResourceGatherNd", shape=unknown)
def resource_gather_nd(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(resource: Any, indices: Any) -> Any:
        value = existing(resource).read()
        if indices.ndim < 1:
            raise InvalidArgument("indices must be at least a vector")
        depth = indices.shape[-1]
        if depth > value.ndim:
            raise InvalidArgument(f"index innermost dimension length must be <= params rank; saw: {depth} vs. "
                                  f"{value.ndim}")
        limits = xp.asarray(value.shape[:depth], dtype=indices.dtype)
        bad = ((indices < 0) | (indices >= limits)).any(axis=-1)
        if bad.any():
            place = np.unravel_index(int(xp.argmax(bad)), bad.shape)
            where = f"[{','.join(map(str, place))}]" if place else ""
            found = ", ".join(str(int(item)) for item in indices[place])
            raise InvalidArgument(f"indices{where} = [{found}] does not index into param shape "
                                  f"{format_shape(value.shape)}, node name: {node.name}")
        if depth == 0:
            return xp.broadcast_to(value, indices.shape[:-1] + value.shape).copy()
        return value[tuple(xp.moveaxis(indices, -1, 0))]

    return run
