"""Gradients of library functions, for SymbolicGradient: as the library says, else derived from the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base
from runtime.graph.builder import Graph as GraphBuilder
from runtime.graph.gradients import gradients
from runtime.graph.graph import Graph
from runtime.graph.indexed_slices import as_dense
from runtime.graph.library import FunctionBody

if TYPE_CHECKING:
    from runtime.graph.library import FunctionLibrary

__all__ = ["gradient_body"]

_DIFFERENTIABLE = frozenset({DataType.HALF, DataType.BFLOAT16, DataType.FLOAT, DataType.DOUBLE, DataType.COMPLEX64,
                             DataType.COMPLEX128})


def gradient_body(library: FunctionLibrary, name: str, attrs: Any) -> FunctionBody:
    """Return the gradient of a function as a body.

    It takes the arguments and a gradient for each result, and gives one for each argument.

    Raises
    ------
    Unimplemented
        If an op of the function has no derivative; names it.
    InvalidArgument
        If the function calls others: only plain ops are derived.
    """
    registered = library.gradient_of(name)
    if registered is not None:
        return library.body(registered, attrs)
    body = library.body(name, attrs)
    builder = GraphBuilder()
    names = {node.name for node in body.inputs}
    forward: Any = wire.GraphDef()
    for node in body.graph.nodes.values():
        if node.name in names:
            made = forward.node.add(name=node.name, op="Placeholder")
            made.attr["dtype"].type = base(node.output_types[0])
            continue
        if node.op_def is None:
            raise InvalidArgument(f"the gradient of function '{name}' is not known: it calls '{node.op}' "
                                  f"(node {node.name})")
        forward.node.add().CopyFrom(node.proto)
    builder.import_graph_def(forward)
    xs = [builder.tensor(f"{node.name}:0") for node in body.inputs]
    ys = [builder.tensor(f"{node.name}:{slot}") for node, slot in body.outputs]
    dys = [builder.placeholder(y.dtype, name="output_gradient") for y in ys]
    pairs = [(y, dy) for y, dy in zip(ys, dys, strict=True) if y.dtype in _DIFFERENTIABLE]
    sources = [x for x in xs if x.dtype in _DIFFERENTIABLE]
    found = dict(zip(sources, gradients(builder, [y for y, _ in pairs], sources, [dy for _, dy in pairs]),
                     strict=True)) if pairs and sources else {}
    results = []
    for x in xs:
        gradient = found.get(x)
        results.append(builder.zeros_like(x) if gradient is None else as_dense(gradient))
    graph = Graph.from_proto(wire.GraphDef.FromString(builder.as_graph_def().SerializeToString()), library,
                             internal=True)
    return FunctionBody(
        name=f"gradient of {name}", graph=graph, inputs=[graph.nodes[tensor.op.name] for tensor in (*xs, *dys)],
        outputs=[(graph.nodes[tensor.op.name], tensor.index) for tensor in results], control_outputs=[],
        input_types=(*body.input_types, *body.output_types), output_types=body.input_types,
        is_stateful=body.is_stateful)
