"""Gradient rules of matrix products."""

from __future__ import annotations

from runtime._ext.errors import Unimplemented
from runtime.graph.gradient_rules import Grads, dense, gradient
from runtime.graph.gradient_rules.broadcasting import conj, reshape_like, shape_of
from runtime.graph.tensor import Operation, Tensor


@gradient("MatMul")
def _matmul(op: Operation, grads: Grads) -> Grads:
    graph, grad = op.graph, dense(grads[0])
    a, b = conj(op.inputs[0]), conj(op.inputs[1])
    swap_a, swap_b = op.attr("transpose_a"), op.attr("transpose_b")

    def product(left: Tensor, right: Tensor, transpose_left: bool, transpose_right: bool) -> Tensor:
        result: Tensor = graph.op("MatMul", left, right, transpose_a=transpose_left, transpose_b=transpose_right)
        return result

    grad_a = product(b, grad, swap_b, True) if swap_a else product(grad, b, False, not swap_b)
    grad_b = product(grad, a, True, swap_a) if swap_b else product(a, grad, not swap_a, False)
    return [grad_a, grad_b]


@gradient("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(op: Operation, grads: Grads) -> Grads:
    graph, grad, (x, y) = op.graph, dense(grads[0]), op.inputs
    adjoint_x, adjoint_y = op.attr("adj_x"), op.attr("adj_y")

    def product(left: Tensor, right: Tensor, adjoint_left: bool, adjoint_right: bool) -> Tensor:
        result: Tensor = graph.op("BatchMatMulV2", left, right, adj_x=adjoint_left, adj_y=adjoint_right)
        return result

    grad_x = product(y, grad, adjoint_y, True) if adjoint_x else product(grad, y, False, not adjoint_y)
    grad_y = product(grad, x, True, adjoint_x) if adjoint_y else product(x, grad, not adjoint_x, False)
    if x.shape is not None and y.shape is not None and None not in x.shape[:-2] and x.shape[:-2] == y.shape[:-2]:
        return [grad_x, grad_y]
    # Batch dimensions broadcast: sum over those along which an operand was repeated.
    shape_x, shape_y = graph.shape(x), graph.shape(y)
    batch = slice(0, -2)
    sum_x, sum_y = graph.op("BroadcastGradientArgs", graph.strided_slice(shape_x, batch),
                            graph.strided_slice(shape_y, batch))
    return [reshape_like(graph.reduce_sum(grad_x, sum_x), x), reshape_like(graph.reduce_sum(grad_y, sum_y), y)]


@gradient("Einsum")
def _einsum(op: Operation, grads: Grads) -> Grads:
    graph, grad = op.graph, dense(grads[0])
    equation = op.attr("equation").decode()
    left, _, output = equation.partition("->")
    labels = left.split(",")
    if "." in equation or any(len(set(part)) != len(part) for part in (*labels, output)):
        raise Unimplemented(f"the gradient of Einsum (node '{op.name}') is defined for equations without '...' and "
                            f"without repeated labels in one operand; '{equation}' has them")

    def by_operand(index: int) -> Tensor:
        x, mine = op.inputs[index], labels[index]
        other = labels[1 - index] if len(labels) == 2 else ""
        # A label of this operand alone was summed over: its gradient is the same along that dimension.
        found = "".join(label for label in mine if label in output or label in other)
        if len(labels) == 2:
            part = graph.einsum(f"{output},{other}->{found}", grad, conj(op.inputs[1 - index]))
        else:
            part = graph.einsum(f"{output}->{found}", grad)
        if found == mine:
            return part
        for axis, label in enumerate(mine):
            if label not in found:
                part = graph.expand_dims(part, axis)
        return graph.broadcast_to(part, shape_of(x))

    return [by_operand(index) for index in range(len(labels))]
