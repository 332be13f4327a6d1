"""Assignments to strided slices and to rows: of variables, and of tensors as new values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import Variable
from runtime.dtypes import DataType, base
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.slicing import SliceMasks, StridedSpec, check_strided, strided_spec
from runtime.ops.variables import existing

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _assign(target: Any, spec: StridedSpec, value: Any, xp: Any) -> None:
    """Broadcast a value over a slice; axes that are new have length 1 and take nothing from the target."""
    if 0 in spec.shape:
        return
    extra = max(0, value.ndim - len(spec.shape))
    trimmed = value.reshape(value.shape[extra:]) if set(value.shape[:extra]) == {1} else value
    try:
        spread = xp.broadcast_to(trimmed, spec.shape)
    except ValueError:
        raise InvalidArgument(f"Cannot broadcast input shape {format_shape(value.shape)} into final shape "
                              f"{format_shape(spec.shape)}") from None
    if all(type(item) is int for item in spec.index) and len(spec.index) == target.ndim:
        target[spec.index] = spread.reshape(-1)[0]
    else:
        part = target[spec.index]
        part[...] = spread.reshape(part.shape)


def _spec(shape: tuple[int, ...], begin: Any, end: Any, strides: Any, masks: SliceMasks) -> StridedSpec:
    check_strided(begin, end, strides)
    return strided_spec(shape, begin.tolist(), end.tolist(), strides.tolist(), masks=masks)


@kernel("TensorStridedSliceUpdate", shape=like_input(), host=(1, 2, 3))
def _tensor_update(node: Node, env: KernelEnv) -> Run:
    xp, masks = env.xp, SliceMasks(node)

    def run(tensor: Any, begin: Any, end: Any, strides: Any, value: Any) -> Any:
        spec = _spec(tensor.shape, begin, end, strides, masks)
        result = xp.array(tensor, order="C", copy=True)
        _assign(result, spec, value, xp)
        return result

    return run


def _into_variable(variable: Variable, begin: Any, end: Any, strides: Any, value: Any, masks: SliceMasks,
                   xp: Any) -> None:
    with variable.lock:
        spec = _spec(variable.read().shape, begin, end, strides, masks)
        _assign(variable.writable(), spec, value, xp)


@kernel("StridedSliceAssign", shape=like_input(), host=(1, 2, 3))
def _variable_update(node: Node, env: KernelEnv) -> Run:
    xp, masks = env.xp, SliceMasks(node)

    def run(variable: Variable, begin: Any, end: Any, strides: Any, value: Any) -> Variable:
        _into_variable(variable, begin, end, strides, value, masks, xp)
        return variable

    return run


@kernel("ResourceStridedSliceAssign", host=(1, 2, 3))
def _resource_update(node: Node, env: KernelEnv) -> Run:
    xp, masks = env.xp, SliceMasks(node)

    def run(resource: Any, begin: Any, end: Any, strides: Any, value: Any) -> None:
        _into_variable(existing(resource), begin, end, strides, value, masks, xp)

    return run


# Rows of tensors


@kernel("InplaceUpdate", "InplaceAdd", "InplaceSub", shape=like_input())
def _inplace(node: Node, env: KernelEnv) -> Run:
    """Return a copy: no other reader of the input may see the change, whenever it runs."""
    xp = env.xp
    ufunc = {"InplaceUpdate": None, "InplaceAdd": xp.add, "InplaceSub": xp.subtract}[node.op]
    kind = base(node.output_types[0])
    has_sums = ufunc is None or kind not in (DataType.STRING, DataType.BOOL)

    def run(x: Any, i: Any, v: Any) -> Any:
        _check_rows(x, i, v)
        if not has_sums:
            raise InvalidArgument(f"Unsupported data type: {kind.label}")
        result = xp.array(x, order="C", copy=True)
        if i.size and x.size:
            rows = i % x.shape[0]  # negative rows, and those past the end, wrap around
            if ufunc is None:
                result[rows] = v
            else:
                ufunc.at(result, rows, v)
        return result

    return run


def _check_rows(x: Any, i: Any, v: Any) -> None:
    if i.ndim != 1:
        raise InvalidArgument(f"i must be a vector. {format_shape(i.shape)}")
    if x.ndim != v.ndim:
        raise InvalidArgument(f"x and v shape doesn't match (ranks differ): {format_shape(x.shape)} vs. "
                              f"{format_shape(v.shape)}")
    for axis in range(1, x.ndim):
        if x.shape[axis] != v.shape[axis]:
            raise InvalidArgument(f"x and v shape doesn't match at index {axis} : {format_shape(x.shape)} vs. "
                                  f"{format_shape(v.shape)}")
    if not v.ndim or i.shape[0] != v.shape[0]:
        raise InvalidArgument(f"i and x shape doesn't match at index 0: {format_shape(i.shape)} vs. "
                              f"{format_shape(v.shape)}")
