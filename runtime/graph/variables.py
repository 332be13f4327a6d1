"""Variables of a graph under construction: resource variables, with the operations that TensorFlow emits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.graph.operators import Operators
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.graph.tensor import Operation, Tensor

__all__ = ["Variable"]


class Variable(Operators):
    """State that outlives a step: a VarHandleOp, its initializer, and operations that read and change it.

    Used where a tensor is expected it stands for its value, read anew at each use. Made by `Graph.variable`.

    Attributes
    ----------
    handle : Tensor
        The resource.
    initial_value : Tensor
    initializer : Operation
        Assigns the initial value; see also `Graph.global_variables_initializer`.
    trainable : bool
        Whether optimizers change it.
    """

    def __init__(self, graph: Graph, initial_value: Tensor, name: str, trainable: bool, container: str) -> None:
        shape = initial_value.shape
        if shape is None or None in shape:
            raise InvalidArgument(f"variable '{name}': the initial value '{initial_value.name}' has static shape "
                                  f"{format_shape(shape)}; it must be fully known (Tensor.set_shape adds knowledge)")
        self._graph = graph
        self.initial_value = initial_value
        self.trainable = trainable
        with graph.control_dependencies(None), graph.name_scope(name) as prefix:
            full_name = prefix[:-1]
            self.handle: Tensor = graph.op("VarHandleOp", dtype=initial_value.dtype, shape=shape,
                                           shared_name=full_name, container=container, name=prefix)
            self._is_initialized: Tensor = graph.op("VarIsInitializedOp", self.handle,
                                                    name="IsInitialized/VarIsInitializedOp")
            self.initializer: Operation = graph.op("AssignVariableOp", self.handle, initial_value, name="Assign",
                                                   dtype=initial_value.dtype)
            self._read: Tensor = self._read_op("Read/ReadVariableOp")
        graph.variables.append(self)

    @property
    def graph(self) -> Graph:
        """The graph that it belongs to."""
        return self._graph

    @property
    def name(self) -> str:
        """Full name, without ``:0``."""
        return self.handle.op.name

    @property
    def dtype(self) -> DataType:
        """Element type of the value."""
        return self.initial_value.dtype

    @property
    def shape(self) -> Shape:
        """Shape of the value, fully known."""
        return self.initial_value.shape

    def _read_op(self, name: str) -> Tensor:
        value: Tensor = self.graph.op("ReadVariableOp", self.handle, dtype=self.dtype, name=name)
        value.set_shape(self.shape)
        return value

    def value(self) -> Tensor:
        """Return a read of the value that is ordered by the open control dependencies."""
        return self._read_op("ReadVariableOp")

    def read(self) -> Tensor:
        """Return the read made with the variable, which no control dependency orders: what a session fetches."""
        return self._read

    def is_initialized(self) -> Tensor:
        """Return a bool scalar: whether it has a value."""
        return self._is_initialized

    def assign(self, value: Any, name: str | None = None) -> Operation:
        """Return an operation that replaces the value."""
        return self._update("AssignVariableOp", value, name)

    def assign_add(self, value: Any, name: str | None = None) -> Operation:
        """Return an operation that adds to the value."""
        return self._update("AssignAddVariableOp", value, name)

    def assign_sub(self, value: Any, name: str | None = None) -> Operation:
        """Return an operation that subtracts from the value."""
        return self._update("AssignSubVariableOp", value, name)

    def _update(self, op: str, value: Any, name: str | None) -> Operation:
        tensor = self.graph.convert(value, self.dtype, "value")
        if self.shape is not None:
            self.graph.merge_shapes(tensor, self.shape)
        update: Operation = self.graph.op(op, self.handle, tensor, dtype=self.dtype, name=name)
        return update

    def gather(self, indices: Any, name: str = "ResourceGather") -> Tensor:
        """Return rows of the value, without reading all of it.

        Parameters
        ----------
        indices : Tensor or array_like
            int32 or int64, any shape.

        Returns
        -------
        Tensor
            Shape ``indices.shape + self.shape[1:]``.
        """
        rows: Tensor = self.graph.op("ResourceGather", self.handle, indices, dtype=self.dtype, name=name)
        given = rows.op.inputs[1].shape
        if given is not None and self.shape is not None:
            rows.set_shape((*given, *self.shape[1:]))
        return rows

    def eval(self, session: Any) -> Any:
        """Return the value: ``session.run(self)``."""
        return session.run(self)

    def __repr__(self) -> str:
        return f"<Variable {self.name!r} shape={format_shape(self.shape)} dtype={self.dtype.label}>"

    def __bool__(self) -> bool:
        raise TypeError(f"variable {self.name} has no truth value before a session runs it")
