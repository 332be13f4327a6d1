"""What a graph under construction hands out: `Tensor`, an output of an operation, and `Operation`, a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtime.dtypes import DataType, base, is_ref
from runtime.graph.operators import Operators
from runtime.ops.registry import Shape

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.graph.node import Node

__all__ = ["Operation", "Tensor"]


class Operation:
    """One node of a graph under construction.

    Attributes
    ----------
    graph : Graph
    node : Node
        Definition, attrs and types.
    inputs : tuple of Tensor
    control_inputs : tuple of Operation
        Operations that run before this one.
    outputs : tuple of Tensor
    """

    __slots__ = ("control_inputs", "graph", "inputs", "node", "outputs")

    def __init__(self, graph: Graph, node: Node, inputs: tuple[Tensor, ...], control_inputs: tuple[Operation, ...],
                 shapes: tuple[Shape, ...]) -> None:
        self.graph = graph
        self.node = node
        self.inputs = inputs
        self.control_inputs = control_inputs
        self.outputs = tuple(Tensor(self, index, shape) for index, shape in enumerate(shapes))

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    @property
    def type(self) -> str:
        """Op type, such as ``MatMul``."""
        return self.node.op

    @property
    def device(self) -> str:
        """Requested device, empty when any will do."""
        return self.node.device

    def attr(self, name: str) -> Any:
        """Return an attr as a Python value; see `runtime.graph.node.attr_value`."""
        return self.node.attr(name)

    def __repr__(self) -> str:
        return f"<Operation {self.name!r} ({self.type})>"


class Tensor(Operators):
    """One output of an operation: a value that a session computes.

    Operators and indexing build further operations in the same graph; see `Operators`.

    Attributes
    ----------
    op : Operation
        What produces it.
    index : int
        Which output of `op`.
    shape : tuple of int/None, or None
        What is known of the shape without running: None in the tuple for an unknown dimension, None altogether for
        an unknown rank.
    """

    __slots__ = ("index", "op", "shape")

    def __init__(self, op: Operation, index: int, shape: Shape) -> None:
        self.op = op
        self.index = index
        self.shape = shape

    @property
    def graph(self) -> Graph:
        """The graph that it belongs to."""
        return self.op.graph

    @property
    def name(self) -> str:
        """``NODE:INDEX``, which feeds and fetches understand."""
        return f"{self.op.name}:{self.index}"

    @property
    def device(self) -> str:
        """Requested device of the producer."""
        return self.op.device

    @property
    def dtype(self) -> DataType:
        """Element type, without the mark of a reference."""
        return base(self.op.node.output_types[self.index])

    @property
    def is_ref(self) -> bool:
        """Tell whether the output is a reference to a variable."""
        return is_ref(self.op.node.output_types[self.index])

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None when unknown."""
        return None if self.shape is None else len(self.shape)

    def consumers(self) -> list[Operation]:
        """Return the operations that take this tensor as an input, in the order in which they were made."""
        return [op for op in self.graph.operations if any(given is self for given in op.inputs)]

    def set_shape(self, shape: Shape) -> None:
        """Add knowledge about the static shape.

        Raises
        ------
        InvalidArgument
            If it contradicts what is known.
        """
        self.shape = self.graph.merge_shapes(self, shape)

    def eval(self, feed_dict: dict[Any, Any] | None = None, session: Any = None) -> Any:
        """Return the value: ``session.run(self, feed_dict)``.

        Parameters
        ----------
        session : runtime.Session
        """
        if session is None:
            raise TypeError(f"{self.name}.eval needs session=; there is no default session")
        return session.run(self, feed_dict)

    def __repr__(self) -> str:
        shape = "<unknown>" if self.shape is None else str(self.shape)
        return f"<Tensor {self.name!r} shape={shape} dtype={self.dtype.label}>"

    def __bool__(self) -> bool:
        raise TypeError(f"tensor {self.name} has no truth value before a session runs it; use Graph.where or "
                        "Graph.logical_and/or/not, or run it and test the array")

    def __len__(self) -> int:
        if not self.shape or self.shape[0] is None:
            raise TypeError(f"len() of tensor {self.name}: its first dimension is unknown; use Graph.shape(tensor)[0]")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape or self.shape[0] is None:
            raise TypeError(f"tensor {self.name} cannot be iterated: its first dimension is unknown")
        return (self[index] for index in range(self.shape[0]))
