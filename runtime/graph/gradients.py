"""Derivatives by reverse accumulation: new operations that compute them, from one rule per op type.

The rules lie in `runtime.graph.gradient_rules`, one module per family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument, Unimplemented
from runtime.dtypes import DataType
from runtime.graph import gradient_rules
from runtime.graph.indexed_slices import IndexedSlices, as_dense
from runtime.graph.tensor import Operation, Tensor
from runtime.graph.variables import Variable
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.builder import Graph

__all__ = ["gradients"]

_DIFFERENTIABLE = frozenset({DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16, DataType.COMPLEX64,
                             DataType.COMPLEX128, DataType.RESOURCE})

Gradient = Tensor | IndexedSlices


def gradients(graph: Graph, ys: Any, xs: Any, grad_ys: Any = None, stop_gradients: Any = (),
              name: str = "gradients") -> list[Gradient | None]:
    """Add operations for the derivatives of the sum of `ys` by each of `xs`.

    Parameters
    ----------
    ys : Tensor, Variable or sequence of these
        Floating or complex.
    xs : Tensor, Variable or sequence of these
    grad_ys : Tensor, array_like, None or sequence of these, optional
        What to begin from for each of `ys`; ones when not given.
    stop_gradients : sequence of Tensor or Variable
        Taken as constants.

    Returns
    -------
    list of Tensor, IndexedSlices or None
        In the shape of `xs`; None where no `ys` depends on it. Rows gathered from a variable give `IndexedSlices`.

    Raises
    ------
    Unimplemented
        If an op between has no rule; names op and node.
    InvalidArgument
        If `ys` are not floating, or `grad_ys` do not go with them.
    """
    targets = [graph.convert(y) for y in _as_list(ys)]
    sources = [_source(graph, x) for x in _as_list(xs)]
    stops = {_source(graph, item) for item in _as_list(stop_gradients)}
    given = _as_list(grad_ys) if grad_ys is not None else [None] * len(targets)
    if len(given) != len(targets):
        raise InvalidArgument(f"gradients: {len(targets)} ys but {len(given)} grad_ys")
    with graph.name_scope(name):
        work = _Accumulation(graph, targets, sources, stops)
        for index, (target, start) in enumerate(zip(targets, given, strict=True)):
            work.add(target, _start(graph, target, start, index))
        work.run()
        return [work.result(source) for source in sources]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _source(graph: Graph, item: Any) -> Tensor:
    """Return the tensor that gradients flow back to: the handle of a variable, whose reads all count."""
    if isinstance(item, Variable):
        item = item.handle
    if not isinstance(item, Tensor):
        raise InvalidArgument(f"gradients: xs must be tensors or variables, got {type(item).__name__} {item!r}")
    if item.graph is not graph:
        raise InvalidArgument(f"gradients: '{item.name}' belongs to another graph")
    return item


def _start(graph: Graph, target: Tensor, start: Any, index: int) -> Gradient:
    if target.dtype not in _DIFFERENTIABLE or target.dtype is DataType.RESOURCE:
        raise InvalidArgument(f"gradients: '{target.name}' is {target.dtype.label}; only floating and complex tensors "
                              "have derivatives")
    if start is None:
        shape = target.shape
        sizes: Any = graph.shape(target) if shape is None or None in shape else shape
        return graph.fill(sizes, graph.constant(1, target.dtype), name=f"grad_ys_{index}")
    if isinstance(start, IndexedSlices):
        return start
    made = graph.convert(start, target.dtype, f"grad_ys_{index}")
    if made.shape is not None and target.shape is not None and len(made.shape) != len(target.shape):
        raise InvalidArgument(f"gradients: grad_ys[{index}] has shape {format_shape(made.shape)}, '{target.name}' has "
                              f"{format_shape(target.shape)}")
    return made


class _Accumulation:
    """The walk from `ys` back to `xs`: an operation is differentiated once all its consumers have been."""

    def __init__(self, graph: Graph, targets: Sequence[Tensor], sources: Sequence[Tensor], stops: set[Tensor]) -> None:
        self.graph = graph
        self.sources = set(sources)
        self.stops = stops
        self.sums: dict[Tensor, list[Gradient]] = {}
        self.between = self._between(targets, sources)
        self.waiting = dict.fromkeys(self.between, 0)
        for op in self.between:
            for source in {tensor.op for tensor in op.inputs if tensor not in stops}:
                if source in self.waiting:
                    self.waiting[source] += 1

    def _between(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> dict[Operation, None]:
        """Return the operations on a path from a source to a target, the source's own included."""
        reached = {source.op for source in sources}
        start = min((self.graph.operations.index(op) for op in reached), default=0)
        depends: set[Operation] = set(reached)
        for op in self.graph.operations[start:]:  # inputs always precede their consumers
            if op not in depends and any(tensor.op in depends and tensor.dtype in _DIFFERENTIABLE
                                         and tensor not in self.stops for tensor in op.inputs):
                depends.add(op)
        needed: dict[Operation, None] = {}
        stack = [target.op for target in targets if target not in self.stops]
        while stack:
            op = stack.pop()
            if op in needed or op not in depends:
                continue
            needed[op] = None
            stack.extend(tensor.op for tensor in op.inputs
                         if tensor not in self.stops and tensor.dtype in _DIFFERENTIABLE)
        return needed

    def add(self, tensor: Tensor, grad: Gradient) -> None:
        """Add a contribution to the gradient by a tensor."""
        self.sums.setdefault(tensor, []).append(grad)

    def run(self) -> None:
        """Differentiate every operation between, consumers first."""
        ready = [op for op, count in self.waiting.items() if count == 0]
        while ready:
            op = ready.pop()
            self._differentiate(op)
            for source in {tensor.op for tensor in op.inputs if tensor not in self.stops}:
                if source in self.waiting:
                    self.waiting[source] -= 1
                    if self.waiting[source] == 0:
                        ready.append(source)

    def _differentiate(self, op: Operation) -> None:
        grads = [self._summed(tensor) for tensor in op.outputs]
        if all(grad is None for grad in grads) or not self._reaches_source(op):
            return
        rule = gradient_rules.find(op.type)
        if rule is None:
            raise Unimplemented(f"No gradient defined for op {op.type} (node '{op.name}'); register one with "
                                "runtime.graph.gradient_rules.gradient, or stop there with Graph.stop_gradient")
        with self.graph.name_scope(f"{op.name}_grad"):
            found = rule(op, grads)
        if len(found) != len(op.inputs):
            raise InvalidArgument(f"the gradient rule of op {op.type} returned {len(found)} gradients for "
                                  f"{len(op.inputs)} inputs (node '{op.name}')")
        for tensor, grad in zip(op.inputs, found, strict=True):
            if grad is not None and tensor not in self.stops and tensor.dtype in _DIFFERENTIABLE:
                if isinstance(grad, Tensor) and grad.shape is None and tensor.dtype is not DataType.RESOURCE:
                    grad.set_shape(tensor.shape)
                self.add(tensor, grad)

    def _reaches_source(self, op: Operation) -> bool:
        return any(tensor.op in self.between or tensor in self.sources for tensor in op.inputs)

    def _summed(self, tensor: Tensor) -> Gradient | None:
        """Return the gradient by a tensor, its contributions added up (once)."""
        parts = self.sums.get(tensor)
        if not parts:
            return None
        if len(parts) > 1:
            parts[:] = [self._sum(parts)]
        return parts[0]

    def _sum(self, parts: list[Gradient]) -> Gradient:
        slices = [part for part in parts if isinstance(part, IndexedSlices)]
        if len(slices) != len(parts):
            return self.graph.add_n([as_dense(part) for part in parts])
        kinds = {part.indices.dtype for part in slices}
        kind = kinds.pop() if len(kinds) == 1 else DataType.INT64
        return IndexedSlices(self.graph.concat([part.values for part in slices], 0),
                             self.graph.concat([self.graph.cast(part.indices, kind) for part in slices], 0),
                             slices[0].dense_shape)

    def result(self, source: Tensor) -> Gradient | None:
        """Return the gradient by one of the sources."""
        return self._summed(source)
