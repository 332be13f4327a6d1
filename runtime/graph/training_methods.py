"""Builder methods for state and training: variables, gradients, groups, fully connected layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, as_datatype
from runtime.graph import initializers
from runtime.graph.attrs import as_shape
from runtime.graph.nn_methods import NeuralMethods
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.variables import Variable

if TYPE_CHECKING:
    from runtime.graph.builder import Graph
    from runtime.graph.indexed_slices import IndexedSlices

__all__ = ["TrainingMethods"]


class TrainingMethods(NeuralMethods):
    """Mixin of `runtime.graph.builder.Graph`."""

    def _graph(self) -> Graph:
        """Return this object as what it is: the only class that is made of the mixins."""
        return cast("Graph", self)

    def variable(self, initial_value: Any, name: str = "Variable", dtype: Any = None, trainable: bool = True,
                 shape: Any = None, container: str = "") -> Variable:
        """Add state that outlives a step.

        Parameters
        ----------
        initial_value : Tensor, array_like or callable
            What `Variable.initializer` assigns; its shape must be fully known. A callable, such as those of
            `runtime.graph.initializers`, is called as ``initial_value(graph, shape, dtype)``.
        name : str
            Also the name by which sessions on one server share the value.
        trainable : bool
            Whether optimizers change it.
        shape : shape, optional
            Needed for a callable.
        container : str
            Where the server keeps it; its default container when empty.

        Examples
        --------
        >>> from runtime.graph.builder import Graph
        >>> graph = Graph()
        >>> graph.variable([[1.0, 2.0]], name="w")
        <Variable 'w' shape=[1,2] dtype=float>
        """
        graph = self._graph()
        with graph.control_dependencies(None):
            if callable(initial_value):
                sizes = as_shape(shape)
                if sizes is None or None in sizes:
                    raise InvalidArgument(f"variable '{name}': an initializer needs shape=, fully known; got {shape!r}")
                with graph.name_scope(f"{name}/Initializer"):
                    value = initial_value(graph, list(sizes), as_datatype(DataType.FLOAT if dtype is None else dtype))
                initial = graph.convert(value)
            elif isinstance(initial_value, (Tensor, Variable)):
                initial = graph.convert(initial_value, dtype)
            else:
                initial = graph.constant(initial_value, dtype, shape=shape, name=f"{name}/initial_value")
            return Variable(graph, initial, name, trainable, container)

    def group(self, *operations: Any, name: str = "group_deps") -> Operation:
        """Return an operation that is done when others are."""
        with self.control_dependencies(list(operations)):
            done: Operation = self.op("NoOp", name=name)
        return done

    def no_op(self, name: str = "NoOp") -> Operation:
        """Return an operation that does nothing but wait for the open control dependencies."""
        done: Operation = self.op("NoOp", name=name)
        return done

    def global_variables_initializer(self, name: str = "init") -> Operation:
        """Return an operation that gives every variable made so far its initial value."""
        return self.variables_initializer(self.variables, name)

    def variables_initializer(self, variables: Sequence[Variable], name: str = "init") -> Operation:
        """Return an operation that gives variables their initial values."""
        return self.group(*(variable.initializer for variable in variables), name=name)

    def gradients(self, ys: Any, xs: Any, grad_ys: Any = None, stop_gradients: Any = (), name: str = "gradients"
                  ) -> list[Tensor | IndexedSlices | None]:
        """Add operations for the derivatives of the sum of `ys` by each of `xs`; see `runtime.graph.gradients`."""
        from runtime.graph.gradients import gradients

        return gradients(self._graph(), ys, xs, grad_ys, stop_gradients, name)

    def dense(self, x: Any, units: int, activation: Callable[[Tensor], Tensor] | None = None, use_bias: bool = True,
              kernel_initializer: Any = initializers.glorot_uniform, bias_initializer: Any = initializers.zeros,
              name: str = "dense") -> Tensor:
        """Return ``activation(x @ kernel + bias)`` with new variables ``NAME/kernel`` and ``NAME/bias``.

        Parameters
        ----------
        x : (batch, features)
            `features` must be known statically.
        units : int
            Number of outputs.
        """
        tensor = self.convert(x)
        if tensor.shape is None or len(tensor.shape) != 2 or tensor.shape[1] is None:
            raise InvalidArgument(f"dense '{name}': input '{tensor.name}' has static shape {tensor.shape}; "
                                  "(batch, features) with known features is needed")
        with self.name_scope(name):
            kernel = self.variable(kernel_initializer, "kernel", tensor.dtype, shape=[tensor.shape[1], units])
            result = self.matmul(tensor, kernel)
            if use_bias:
                result = self.bias_add(result, self.variable(bias_initializer, "bias", tensor.dtype, shape=[units]))
            return activation(result) if activation is not None else result
