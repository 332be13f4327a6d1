"""Einsum: sums of products by labelled axes, carried by the matrix product where two operands meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.linalg import product_function
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast_shapes, format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["Equation", "parse_equation"]

_ELLIPSIS = "..."


@dataclass(frozen=True)
class Equation:
    """Labels of every operand and of the output; an ellipsis is one entry ``...``."""

    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]


def _labels(text: str, side: str) -> tuple[str, ...]:
    head, dots, tail = text.partition(_ELLIPSIS)
    periods = text.count(".")
    if periods not in (0, 3) or (periods and not dots):
        raise InvalidArgument(f"Expected at most one ellipsis (...), but found {periods} periods (.) in the {side} "
                              f"subscript: {text}")
    return (*head, *([_ELLIPSIS] if dots else ()), *tail)


def parse_equation(equation: str) -> Equation:
    """Return the parts of an equation in the explicit form ``ab,bc->ac``.

    Raises
    ------
    InvalidArgument
        If it has no arrow or more than one, more than two operands, or an output label that no operand has.
    """
    sides = equation.split("->")
    if len(sides) != 2:
        raise InvalidArgument(f"Expecting exactly one '->' in einsum equation: {equation}")
    operands = tuple(_labels(part, "input") for part in sides[0].split(","))
    if len(operands) not in (1, 2):
        raise InvalidArgument(f"Expecting 1 or 2 input subscripts in equation '{equation}' but got: {len(operands)}")
    output = _labels(sides[1], "output")
    for label in output:
        if label != _ELLIPSIS and not any(label in operand for operand in operands):
            raise InvalidArgument(f"Einsum output subscripts for equation '{equation}' has label '{label}' which is "
                                  "not present in the input subscripts")
    return Equation(operands, output)


def _einsum_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    equation = parse_equation(node.attr("equation").decode())
    sizes: dict[str, int | None] = {}
    ellipsis: Shape = ()
    for labels, shape in zip(equation.inputs, shapes):
        if shape is None:
            if _ELLIPSIS in labels:
                ellipsis = None
            continue
        extra = len(shape) - len(labels) + (_ELLIPSIS in labels)
        position = 0
        for label in labels:
            if label == _ELLIPSIS:
                ellipsis = broadcast_shapes(ellipsis, shape[position:position + extra])
                position += extra
            else:
                if sizes.get(label) is None:
                    sizes[label] = shape[position]
                position += 1
    result: list[int | None] = []
    for label in equation.output:
        if label == _ELLIPSIS:
            if ellipsis is None:
                return [None]
            result.extend(ellipsis)
        else:
            result.append(sizes.get(label))
    return [tuple(result)]


class _Operand:
    """An array whose axes carry distinct labels; axes of an ellipsis are numbered from the last one on."""

    __slots__ = ("array", "labels")

    def __init__(self, array: Any, labels: list[Any]) -> None:
        self.array = array
        self.labels = labels


def _named(array: Any, labels: tuple[str, ...], index: int) -> _Operand:
    """Give every axis a label: an ellipsis is spread out, of repeated labels the diagonal is taken."""
    extra = array.ndim - len(labels) + (_ELLIPSIS in labels)
    if extra < 0 or (extra and _ELLIPSIS not in labels):
        raise InvalidArgument(f"Input rank must be {'at least ' if _ELLIPSIS in labels else ''}"
                              f"{len(labels) - (_ELLIPSIS in labels)} for input {index}, got {array.ndim}")
    names: list[Any] = []
    for label in labels:
        names.extend(range(-extra, 0) if label == _ELLIPSIS else [label])
    axis = 0
    while axis < len(names):
        first = names.index(names[axis])
        if first == axis:
            axis += 1
            continue
        if array.shape[first] != array.shape[axis]:
            raise InvalidArgument(f"Expected dimension {array.shape[first]} at axis {axis} of the input shaped "
                                  f"{format_shape(array.shape)} but got dimension {array.shape[axis]}")
        array = array.diagonal(0, first, axis)
        moved = names.pop(axis)
        names.remove(moved)
        names.append(moved)
        axis = 0
    return _Operand(array, names)


def _sum_out(xp: Any, operand: _Operand, keep: set[Any]) -> None:
    """Sum over the axes whose labels nobody else needs."""
    axes = tuple(axis for axis, label in enumerate(operand.labels) if label not in keep)
    if axes:
        array = operand.array
        wide = xp.float32 if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array.dtype
        operand.array = xp.asarray(array.sum(axis=axes, dtype=wide)).astype(array.dtype, copy=False)
        operand.labels = [label for label in operand.labels if label in keep]


def _arranged(operand: _Operand, labels: Sequence[Any]) -> Any:
    """Return the array with its axes in the order of `labels`, with 1 where it lacks one."""
    array = operand.array.transpose([operand.labels.index(label) for label in labels if label in operand.labels])
    index = tuple(slice(None) if label in operand.labels else None for label in labels)
    return array[(*index, ...)]


def _contract(product: Callable[[Any, Any], Any], left: _Operand, right: _Operand,
              output: Sequence[Any]) -> _Operand:
    shared = [label for label in left.labels if label in right.labels]
    contracted = [label for label in shared if label not in output]
    # Axes of an ellipsis broadcast, so they stay batch axes of their own even when one side lacks them.
    batch = [label for label in output if label in shared or isinstance(label, int)]
    left_free = [label for label in left.labels if label not in batch and label not in contracted]
    right_free = [label for label in right.labels if label not in batch and label not in contracted]
    a = _arranged(left, [*batch, *left_free, *contracted])
    b = _arranged(right, [*batch, *contracted, *right_free])
    count = len(batch)
    a_free = a.shape[count:count + len(left_free)]
    b_free = b.shape[count + len(contracted):]
    for offset, label in enumerate(contracted):
        left_size, right_size = a.shape[count + len(left_free) + offset], b.shape[count + offset]
        if left_size != right_size:
            raise _size_conflict(label, left_size, right_size)
    for offset, label in enumerate(batch):
        if a.shape[offset] != b.shape[offset] and (label in shared and isinstance(label, str)):
            raise _size_conflict(label, a.shape[offset], b.shape[offset])
    inner = math.prod(b.shape[count:count + len(contracted)])
    a = a.reshape((*a.shape[:count], math.prod(a_free), inner))
    b = b.reshape((*b.shape[:count], inner, math.prod(b_free)))
    try:
        result = product(a, b)
    except ValueError:
        raise InvalidArgument(f"Incompatible shapes: {format_shape(a.shape[:count])} vs. "
                              f"{format_shape(b.shape[:count])}") from None
    return _Operand(result.reshape((*result.shape[:count], *a_free, *b_free)), [*batch, *left_free, *right_free])


def _size_conflict(label: Any, left: int, right: int) -> InvalidArgument:
    return InvalidArgument(f"Expected dimension {left} of label '{label}' in both inputs but got {right}")


def _spread_output(xp: Any, operand: _Operand, output: Sequence[Any]) -> Any:
    """Order the axes as the output has them; a repeated output label fills a diagonal."""
    distinct = list(dict.fromkeys(output))
    array = operand.array.transpose([operand.labels.index(label) for label in distinct])
    if len(distinct) == len(output):
        return array
    sizes = dict(zip(distinct, array.shape))
    result = xp.zeros([sizes[label] for label in output], array.dtype)
    grids = dict(zip(distinct, xp.meshgrid(*[xp.arange(size) for size in array.shape], indexing="ij")))
    result[tuple(grids[label] for label in output)] = array
    return result


@kernel("Einsum", shape=_einsum_shape)
def _einsum(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    equation = parse_equation(node.attr("equation").decode())
    count = len(node.input_types)
    if count != len(equation.inputs):
        raise InvalidArgument(f"Expecting {len(equation.inputs)} inputs for equation "
                              f"{node.attr('equation').decode()} but got: {count}")
    product = product_function(xp, node.input_types, node.output_types[0])

    def run(*arrays: Any) -> Any:
        operands = [_named(array, labels, index) for index, (array, labels) in
                    enumerate(zip(arrays, equation.inputs))]
        rank = max((sum(isinstance(label, int) for label in operand.labels) for operand in operands), default=0)
        output: list[Any] = []
        for label in equation.output:
            output.extend(range(-rank, 0) if label == _ELLIPSIS else [label])
        if _ELLIPSIS not in equation.output and rank:
            raise InvalidArgument("Expected the ellipsis of the inputs in the output too: "
                                  f"{node.attr('equation').decode()}")
        for index, operand in enumerate(operands):
            others = {label for other in operands[:index] + operands[index + 1:] for label in other.labels}
            _sum_out(xp, operand, others | set(output))
        joined = operands[0] if len(operands) == 1 else _contract(product, operands[0], operands[1], output)
        return _spread_output(xp, joined, output)

    return run
