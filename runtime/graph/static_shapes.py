"""What is known of shapes before anything runs, for graphs under construction."""

from __future__ import annotations

from collections.abc import Sequence

from runtime._ext.errors import InvalidArgument
from runtime.graph.node import Node
from runtime.graph.tensor import Tensor
from runtime.graph.value_shapes import value_shapes
from runtime.ops import registry
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

__all__ = ["infer_shapes", "merge"]


def infer_shapes(node: Node, inputs: Sequence[Tensor]) -> tuple[Shape, ...]:
    """Return the static shapes of a node's outputs: what the registry and what constants tell, together.

    Parameters
    ----------
    inputs : sequence of Tensor
        The data inputs.

    Raises
    ------
    InvalidArgument
        If the inputs' shapes cannot go together; the message names the node and the shapes.
    """
    count = len(node.output_types)
    if not count:
        return ()
    try:
        shape_fn = registry.find(node.op).shape
    except InvalidArgument:  # another server may have a kernel: the graph is still valid
        shape_fn = None
    found: tuple[Shape, ...] = (None,) * count
    try:
        if shape_fn is not None:
            found = tuple(shape_fn(node, [tensor.shape for tensor in inputs]))
        told = value_shapes(node, inputs)
    except InvalidArgument as error:
        given = ", ".join(format_shape(tensor.shape) for tensor in inputs)
        raise InvalidArgument(f"Op {node.op} (node '{node.name}') with inputs of shape {given}: {error.message}"
                              ) from error
    if told is None:
        return found
    return tuple(merge(a, b, f"output {index} of node '{node.name}' (op {node.op})")
                 for index, (a, b) in enumerate(zip(found, told, strict=True)))


def merge(known: Shape, further: Shape, what: str) -> Shape:
    """Return what two static shapes say together.

    Raises
    ------
    InvalidArgument
        If they contradict each other.
    """
    if known is None:
        return further
    if further is None:
        return known
    if len(known) != len(further) or any(a is not None and b is not None and a != b
                                         for a, b in zip(known, further, strict=True)):
        raise InvalidArgument(f"{what} has static shape {format_shape(known)}, which is not compatible with "
                              f"{format_shape(further)}")
    return tuple(b if a is None else a for a, b in zip(known, further, strict=True))
