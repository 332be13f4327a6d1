"""Optimizers: operations that change variables along their gradients, the same ones TensorFlow 1 emits.

>>> from runtime.graph.builder import Graph
>>> graph = Graph()
>>> w = graph.variable([1.0, 2.0], name="w")
>>> train = Adam(0.01).minimize(graph.reduce_sum(graph.square(w)))
>>> [op.name for op in graph.operations if op.type == "ResourceApplyAdam"]
['Adam/update_w/ResourceApplyAdam']

Formulas and operations are those of TensorFlow 2.21's ``tf.compat.v1.train``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.graph.gradients import gradients
from runtime.graph.indexed_slices import IndexedSlices, deduplicated
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.variables import Variable

if TYPE_CHECKING:
    from runtime.graph.builder import Graph

__all__ = ["SGD", "Adagrad", "Adam", "Momentum", "Optimizer", "RMSProp"]

Number = float | Tensor | Variable | Callable[["Graph"], Any]
"""A hyperparameter: fixed, computed in the graph, or a function of the graph that makes it."""

GradientAndVariable = tuple[Tensor | IndexedSlices | None, Variable]


class Optimizer(ABC):
    """What all optimizers share.

    One optimizer serves one graph: it keeps the variables that it made there.

    Parameters
    ----------
    learning_rate : float, Tensor, Variable or callable
    name : str
        Scope of the update operations.

    Attributes
    ----------
    slots : dict
        The variables it keeps beside each variable, by (slot name, variable).
    """

    def __init__(self, learning_rate: Number, name: str) -> None:
        self.learning_rate = learning_rate
        self.name = name
        self.slots: dict[tuple[str, Variable], Variable] = {}
        self._hyper: dict[str, Tensor] = {}

    def minimize(self, loss: Tensor, variables: Sequence[Variable] | None = None,
                 global_step: Variable | None = None, name: str | None = None) -> Operation:
        """Return an operation that takes one step against the gradient of a loss.

        Parameters
        ----------
        loss : Tensor
            Floating; summed if it is not a scalar.
        variables : sequence of Variable, optional
            The graph's trainable variables when not given.
        global_step : Variable, optional
            Counted up by 1 after the update.

        Raises
        ------
        InvalidArgument
            If the loss depends on none of the variables.
        """
        return self.apply_gradients(self.compute_gradients(loss, variables), global_step, name)

    def compute_gradients(self, loss: Tensor, variables: Sequence[Variable] | None = None
                          ) -> list[GradientAndVariable]:
        """Return the gradient by each variable, None where the loss does not depend on it."""
        chosen = list(loss.graph.trainable_variables if variables is None else variables)
        if not chosen:
            raise InvalidArgument("there are no variables to optimize")
        found = gradients(loss.graph, loss, chosen)
        return list(zip(found, chosen, strict=True))

    def apply_gradients(self, grads_and_vars: Sequence[GradientAndVariable], global_step: Variable | None = None,
                        name: str | None = None) -> Operation:
        """Return an operation that updates variables by given gradients (clipped, say)."""
        pairs = [(grad, variable) for grad, variable in grads_and_vars if grad is not None]
        if not pairs:
            names = [variable.name for _, variable in grads_and_vars]
            raise InvalidArgument(f"no gradients for any variable: the loss depends on none of {names}")
        graph = pairs[0][1].graph
        with graph.control_dependencies(None):
            self._create_slots(graph, [variable for _, variable in pairs])
        updates: list[Operation] = []
        with graph.name_scope(name or self.name) as scope:
            self._hyper = {}
            self._prepare(graph)
            for grad, variable in pairs:
                with graph.name_scope(f"update_{variable.name}"):
                    if isinstance(grad, IndexedSlices):
                        updates.append(self._apply_sparse(graph, grad, variable))
                    else:
                        updates.append(self._apply_dense(graph, grad, variable))
            updates.extend(self._finish(graph, updates))
            if global_step is None:
                return graph.group(*updates, name=scope)
            with graph.control_dependencies([graph.group(*updates, name="update")]):
                one = graph.constant(1, global_step.dtype, name="value")
                step: Operation = graph.op("AssignAddVariableOp", global_step.handle, one, dtype=global_step.dtype,
                                           name=scope)
                return step

    def _number(self, graph: Graph, value: Number, dtype: DataType, name: str) -> Tensor:
        """Return a hyperparameter in a variable's type, made once per call of `apply_gradients`."""
        if name not in self._hyper:
            made = value(graph) if callable(value) else value
            self._hyper[name] = graph.convert(made, None if isinstance(made, (Tensor, Variable)) else DataType.FLOAT,
                                              name)
        key = f"{name}:{dtype.label}"
        if key not in self._hyper:
            self._hyper[key] = graph.cast(self._hyper[name], dtype)
        return self._hyper[key]

    def _rate(self, graph: Graph, variable: Variable) -> Tensor:
        return self._number(graph, self.learning_rate, variable.dtype, "learning_rate")

    def _slot(self, graph: Graph, variable: Variable, kind: str, initial: float, name: str) -> Variable:
        key = (kind, variable)
        if key not in self.slots:
            with graph.name_scope(None):
                shape = [size for size in variable.shape or () if size is not None]
                fill: Any = graph.zeros if initial == 0 else graph.ones
                value = fill(shape, variable.dtype, name=f"{variable.name}/{name}/Initializer/{fill.__name__}")
                if initial not in (0, 1):
                    value = graph.multiply(value, initial, name=f"{variable.name}/{name}/Initializer/Const")
                self.slots[key] = graph.variable(value, name=f"{variable.name}/{name}", trainable=False)
        return self.slots[key]

    def _create_slots(self, graph: Graph, variables: Sequence[Variable]) -> None:  # noqa: B027, keeps none by default
        """Make the variables the optimizer keeps."""

    def _prepare(self, graph: Graph) -> None:
        """Make the hyperparameters' tensors, inside the optimizer's scope."""
        self._number(graph, self.learning_rate, DataType.FLOAT, "learning_rate")

    @abstractmethod
    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        """Return the update by a gradient of the variable's shape."""

    @abstractmethod
    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        """Return the update by a gradient of some rows."""

    def _finish(self, graph: Graph, updates: Sequence[Operation]) -> list[Operation]:
        """Return what is done after all updates."""
        return []


class SGD(Optimizer):
    """Gradient descent: ``v -= learning_rate * g``."""

    def __init__(self, learning_rate: Number, name: str = "GradientDescent") -> None:
        super().__init__(learning_rate, name)

    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        update: Operation = graph.op("ResourceApplyGradientDescent", variable.handle, self._rate(graph, variable), grad)
        return update

    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        change = -grad.values * self._rate(graph, variable)
        update: Operation = graph.op("ResourceScatterAdd", variable.handle, grad.indices, change, dtype=variable.dtype)
        return update


class Momentum(Optimizer):
    """Gradient descent with momentum: ``a = momentum * a + g; v -= learning_rate * a``.

    Parameters
    ----------
    use_nesterov : bool
        ``v -= learning_rate * (g + momentum * a)`` instead.
    """

    def __init__(self, learning_rate: Number, momentum: Number, use_nesterov: bool = False,
                 name: str = "Momentum") -> None:
        super().__init__(learning_rate, name)
        self.momentum = momentum
        self.use_nesterov = use_nesterov

    def _create_slots(self, graph: Graph, variables: Sequence[Variable]) -> None:
        for variable in variables:
            self._slot(graph, variable, "momentum", 0, "Momentum")

    def _prepare(self, graph: Graph) -> None:
        super()._prepare(graph)
        self._number(graph, self.momentum, DataType.FLOAT, "momentum")

    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        slot = self.slots["momentum", variable]
        update: Operation = graph.op("ResourceApplyMomentum", variable.handle, slot.handle,
                                     self._rate(graph, variable), grad,
                                     self._number(graph, self.momentum, variable.dtype, "momentum"),
                                     use_nesterov=self.use_nesterov)
        return update

    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        slot = self.slots["momentum", variable]
        values, indices = deduplicated(grad)
        update: Operation = graph.op("ResourceSparseApplyMomentum", variable.handle, slot.handle,
                                     self._rate(graph, variable), values, indices,
                                     self._number(graph, self.momentum, variable.dtype, "momentum"),
                                     use_nesterov=self.use_nesterov)
        return update


class Adam(Optimizer):
    """Adaptive moments (Kingma and Ba, 2015, algorithm 1, in the form of the end of section 2)."""

    def __init__(self, learning_rate: Number = 0.001, beta1: Number = 0.9, beta2: Number = 0.999,
                 epsilon: Number = 1e-8, name: str = "Adam") -> None:
        super().__init__(learning_rate, name)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.powers: tuple[Variable, Variable] | None = None

    def _create_slots(self, graph: Graph, variables: Sequence[Variable]) -> None:
        if self.powers is None:
            with graph.name_scope(None):
                first, second = (graph.variable(beta(graph) if callable(beta) else beta, name=name, trainable=False)
                                 for beta, name in ((self.beta1, "beta1_power"), (self.beta2, "beta2_power")))
            self.powers = first, second
        for variable in variables:
            self._slot(graph, variable, "m", 0, "Adam")
            self._slot(graph, variable, "v", 0, "Adam_1")

    def _prepare(self, graph: Graph) -> None:
        super()._prepare(graph)
        for name in ("beta1", "beta2", "epsilon"):
            self._number(graph, getattr(self, name), DataType.FLOAT, name)

    def _numbers(self, graph: Graph, dtype: DataType) -> list[Tensor]:
        return [self._number(graph, getattr(self, name), dtype, name) for name in ("beta1", "beta2", "epsilon")]

    def _powers(self) -> tuple[Variable, Variable]:
        if self.powers is None:
            raise AssertionError("made before any update")
        return self.powers

    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        first, second = (graph.cast(power, variable.dtype) for power in self._powers())
        beta1, beta2, epsilon = self._numbers(graph, variable.dtype)
        update: Operation = graph.op("ResourceApplyAdam", variable.handle, self.slots["m", variable].handle,
                                     self.slots["v", variable].handle, first, second, self._rate(graph, variable),
                                     beta1, beta2, epsilon, grad)
        return update

    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        # As TensorFlow does: both averages decay as a whole, so that the update is dense, unlike "lazy" variants.
        first, second = (graph.cast(power, variable.dtype) for power in self._powers())
        beta1, beta2, epsilon = self._numbers(graph, variable.dtype)
        rate = self._rate(graph, variable) * graph.sqrt(1.0 - second) / (1.0 - first)
        values, indices = deduplicated(grad)
        mean = self._decayed(graph, self.slots["m", variable], beta1, indices, values * (1.0 - beta1))
        square = self._decayed(graph, self.slots["v", variable], beta2, indices, values * values * (1.0 - beta2))
        return variable.assign_sub(rate * mean / (graph.sqrt(square) + epsilon))

    def _decayed(self, graph: Graph, slot: Variable, beta: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
        """Return a running average after its decay and the addition of rows."""
        with graph.control_dependencies([slot.assign(slot * beta)]):
            added = graph.op("ResourceScatterAdd", slot.handle, indices, rows, dtype=slot.dtype)
        with graph.control_dependencies([added]):
            return slot.value()

    def _finish(self, graph: Graph, updates: Sequence[Operation]) -> list[Operation]:
        # The powers go on only when every update has read them.
        with graph.control_dependencies(updates):
            first, second = self._powers()
            beta1, beta2, _ = self._numbers(graph, DataType.FLOAT)
            return [first.assign(first * beta1), second.assign(second * beta2)]


class Adagrad(Optimizer):
    """Rates by accumulated squares: ``a += g * g; v -= learning_rate * g / sqrt(a)`` (Duchi et al., 2011)."""

    def __init__(self, learning_rate: Number, initial_accumulator_value: float = 0.1, name: str = "Adagrad") -> None:
        super().__init__(learning_rate, name)
        self.initial_accumulator_value = initial_accumulator_value

    def _create_slots(self, graph: Graph, variables: Sequence[Variable]) -> None:
        for variable in variables:
            self._slot(graph, variable, "accumulator", self.initial_accumulator_value, "Adagrad")

    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        slot = self.slots["accumulator", variable]
        update: Operation = graph.op("ResourceApplyAdagrad", variable.handle, slot.handle,
                                     self._rate(graph, variable), grad)
        return update

    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        slot = self.slots["accumulator", variable]
        values, indices = deduplicated(grad)
        update: Operation = graph.op("ResourceSparseApplyAdagrad", variable.handle, slot.handle,
                                     self._rate(graph, variable), values, indices)
        return update


class RMSProp(Optimizer):
    """Rates by a running mean of squares: ``s = rho * s + (1 - rho) * g * g; v -= rate * g / sqrt(s + epsilon)``."""

    def __init__(self, learning_rate: Number, decay: Number = 0.9, momentum: Number = 0.0, epsilon: Number = 1e-10,
                 name: str = "RMSProp") -> None:
        super().__init__(learning_rate, name)
        self.decay = decay
        self.momentum = momentum
        self.epsilon = epsilon

    def _create_slots(self, graph: Graph, variables: Sequence[Variable]) -> None:
        for variable in variables:
            self._slot(graph, variable, "rms", 1, "RMSProp")
            self._slot(graph, variable, "momentum", 0, "RMSProp_1")

    def _prepare(self, graph: Graph) -> None:
        super()._prepare(graph)
        for name in ("decay", "momentum", "epsilon"):
            self._number(graph, getattr(self, name), DataType.FLOAT, name)

    def _inputs(self, graph: Graph, variable: Variable) -> list[Any]:
        numbers = [self._number(graph, getattr(self, name), variable.dtype, name)
                   for name in ("decay", "momentum", "epsilon")]
        return [variable.handle, self.slots["rms", variable].handle, self.slots["momentum", variable].handle,
                self._rate(graph, variable), *numbers]

    def _apply_dense(self, graph: Graph, grad: Tensor, variable: Variable) -> Operation:
        update: Operation = graph.op("ResourceApplyRMSProp", *self._inputs(graph, variable), grad)
        return update

    def _apply_sparse(self, graph: Graph, grad: IndexedSlices, variable: Variable) -> Operation:
        values, indices = deduplicated(grad)
        update: Operation = graph.op("ResourceSparseApplyRMSProp", *self._inputs(graph, variable), values, indices)
        return update
