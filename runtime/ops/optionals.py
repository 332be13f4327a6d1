"""Optionals: values that may be absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.objects import object_scalar
from runtime.ops.partial_shapes import matches
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.values.optional import Optional

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["optional_of"]

Run = Callable[..., Any]


def optional_of(handle: Any, op: str) -> Optional:
    """Return the optional that a variant scalar holds.

    Parameters
    ----------
    op : str
        Whose input it is; for messages.

    Raises
    ------
    InvalidArgument
        If it is no scalar, or holds something else.
    """
    if handle.ndim:
        raise InvalidArgument(f"Input to {op} must be a scalar tensor containing an OptionalVariant object.")
    value = handle.item()
    if isinstance(value, bytes):  # as it came from the wire
        value = Optional.from_wire(value)
    if not isinstance(value, Optional):
        raise InvalidArgument(f"Input to {op} must be an OptionalVariant object.")
    return value


@kernel("OptionalNone", shape=scalar)
def _none(node: Node, env: KernelEnv) -> Run:
    return lambda: object_scalar(Optional())


@kernel("OptionalFromValue", shape=scalar)
def _from_value(node: Node, env: KernelEnv) -> Run:
    types = [DataType(kind) for kind in node.attr("Toutput_types")]
    return lambda *components: object_scalar(Optional(components, types))


@kernel("OptionalHasValue", shape=scalar)
def _has_value(node: Node, env: KernelEnv) -> Run:
    return lambda handle: np.bool_(optional_of(handle, node.op).components is not None)


@kernel("OptionalGetValue", shape=lambda node, shapes: list(node.attr("output_shapes")))
def _get_value(node: Node, env: KernelEnv) -> Run:
    types = [DataType(kind) for kind in node.attr("output_types")]
    shapes = node.attr("output_shapes")
    if len(types) != len(shapes):
        raise InvalidArgument("`output_shapes` must be the same length as `output_types` "
                              f"({len(shapes)} vs. {len(types)}")

    def run(handle: Any) -> Any:
        found = optional_of(handle, node.op)
        if found.components is None:
            raise InvalidArgument("The given optional does not have a value.")
        if len(found.components) != len(types):
            raise InvalidArgument(f"The given optional has {len(found.components)} components, expected {len(types)}")
        for number, component in enumerate(found.components):
            if found.types[number] != types[number]:
                raise InvalidArgument(f"The given optional does not match the expected type for component {number}. "
                                      f"Expected: {types[number].label}. Actual: {found.types[number].label}.")
            if not matches(shapes[number], component.shape):
                raise InvalidArgument(f"The given optional does not match the expected shape for component {number}. "
                                      f"Expected: {format_shape(shapes[number])}. Actual: "
                                      f"{format_shape(component.shape)}.")
        return found.components

    return run
