"""Optimizer updates: one formula for each, registered for reference and for resource variables.

A formula changes the arrays it gets in place with as few temporaries as it can. What surrounds it is the same for all:
the variables are locked in one order, checked, made writable, and handed over. `DENSE` and `SPARSE` are the tables of
formulas; compiled kernels take the names and the order of the arguments from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Internal, InvalidArgument, NotFound
from runtime._ext.variable import Variable
from runtime.dtypes import DataType, to_numpy
from runtime.ops import optimizer_formulas, regularized_formulas
from runtime.ops.optimizer_formulas import Formula
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.variables import check_indices, variable_of

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["DENSE", "SPARSE", "Formula", "locked"]

Run = Callable[..., Any]

DENSE: dict[str, Formula] = {**optimizer_formulas.DENSE, **regularized_formulas.DENSE}
"""Optimizer to formula; the op types are ``Apply`` and ``ResourceApply`` followed by the name."""

SPARSE: dict[str, Formula] = {**optimizer_formulas.SPARSE, **regularized_formulas.SPARSE}
"""The same for gradients of some rows; the op types begin with ``SparseApply`` and ``ResourceSparseApply``."""


@contextmanager
def locked(variables: Sequence[Variable]) -> Iterator[None]:
    """Hold the locks of the variables, each once and in one order for everybody."""
    with ExitStack() as stack:
        for variable in sorted(set(variables), key=id):
            stack.enter_context(variable.lock)
        yield


def _initialised(resource: Any) -> Variable:
    variable = variable_of(resource)
    if variable.value is None:
        raise Internal(f"Invalid variable reference. Variable {variable.name} is uninitialised; assign to it first")
    return variable


def _require_floating(node: Node) -> None:
    datatype: DataType = node.attr("T")
    if to_numpy(datatype).kind in "biu":
        raise NotFound(f"No OpKernel was registered to support Op '{node.op}' with T={datatype.label}; cast the "
                       "variable and its gradient to a floating type")


def _split(formula: Formula, values: Sequence[Any]) -> tuple[dict[str, Any], Any, str, Any]:
    """Return the scalars by name, the gradient, its name and the indices."""
    scalars: dict[str, Any] = {}
    grad = indices = None
    grad_name = "grad"
    for name, value in zip(formula.inputs, values, strict=True):
        if name in ("grad", "delta"):
            grad, grad_name = value, name
        elif name == "indices":
            indices = value
        else:
            scalars[name] = value
    return scalars, grad, grad_name, indices


def _check_scalars(formula: Formula, scalars: dict[str, Any], attrs: dict[str, Any]) -> None:
    for name, value in scalars.items():
        check = formula.checks.get(name)
        if value.ndim or (check is not None and check.holds is not None and not check.holds(value, attrs)):
            text = f"{name} is not a scalar: " if check is None else check.text
            raise InvalidArgument(text + format_shape(value.shape))


def _check_dense(formula: Formula, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any,
                 grad_name: str) -> None:
    _check_scalars(formula, scalars, attrs)
    shape = slots[0].shape
    for name, slot in zip(formula.slots[1:], slots[1:], strict=True):
        if slot.shape != shape:
            raise InvalidArgument(f"var and {name} do not have the same shape{format_shape(shape)} "
                                  f"{format_shape(slot.shape)}")
    if grad.shape != shape:
        raise InvalidArgument(f"var and {grad_name} do not have the same shape{format_shape(shape)} "
                              f"{format_shape(grad.shape)}")


def _check_sparse(formula: Formula, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any,
                  indices: Any) -> None:
    shape = slots[0].shape
    for name, slot in zip(formula.slots[1:], slots[1:], strict=True):
        if slot.shape != shape:
            raise InvalidArgument(f"var and {name} do not have the same shape{format_shape(shape)} "
                                  f"{format_shape(slot.shape)}")
    if not shape:
        raise InvalidArgument("var must be at least 1 dimensional")
    _check_scalars(formula, scalars, attrs)
    if indices.ndim != 1:
        raise InvalidArgument("indices must be one-dimensional")
    for axis in range(1, len(shape)):
        if grad.ndim <= axis or grad.shape[axis] != shape[axis]:
            raise InvalidArgument(f"var and grad must match in dimension {axis}")
    if grad.ndim == 0 or grad.shape[0] != indices.size:
        raise InvalidArgument("grad must be the same size as indices in the first dimension.")


def _check_rows(node: Node, indices: Any, limit: int, xp: Any) -> None:
    if "Keras" in node.op:
        check_indices(indices, limit, xp)
        return
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= limit):
        offset = int(xp.argmax((indices < 0) | (indices >= limit)))
        raise InvalidArgument(f"Index {int(indices[offset])} at offset {offset} in indices is out of range")


def _writable(variables: Sequence[Variable]) -> list[Any]:
    """Return one writable array per variable; a variable named twice gives one array twice."""
    arrays: dict[int, Any] = {}
    for variable in variables:
        if id(variable) not in arrays:
            arrays[id(variable)] = variable.writable()
    return [arrays[id(variable)] for variable in variables]


def _without_repeats(indices: Any, xp: Any) -> list[Any]:
    """Return selections of `indices`, to be done in order, each without an index twice.

    The first holds the first mention of every index, the second the second one, and so on: rows do not depend on each
    other, so that this gives what one index after another gives.
    """
    order = xp.argsort(indices, kind="stable")
    ordered = indices[order]
    first = xp.flatnonzero(xp.concatenate((xp.ones(1, bool), ordered[1:] != ordered[:-1])))
    if first.size == indices.size:
        return [slice(None)]
    lengths = xp.diff(xp.append(first, indices.size))
    mention = xp.arange(indices.size) - xp.repeat(first, lengths)
    by_mention = order[xp.argsort(mention, kind="stable")]
    return list(xp.split(by_mention, xp.cumsum(xp.bincount(mention))[:-1]))


def _apply_rows(formula: Formula, xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                grad: Any, indices: Any) -> None:
    """Update the rows that `indices` names; one that is named again is updated again."""
    if not indices.size:
        return
    rows = grad.reshape((indices.size, *slots[0].shape[1:]))
    for batch in _without_repeats(indices, xp):
        chosen = indices[batch]
        for slot, value in zip(slots, formula.update(xp, attrs, [slot[chosen] for slot in slots], scalars,
                                                     rows[batch]), strict=True):
            slot[chosen] = value


def _bind(formula: Formula, sparse: bool, by_reference: bool) -> Callable[[Node, KernelEnv], Run]:
    count = len(formula.slots)

    def bind(node: Node, env: KernelEnv) -> Run:
        _require_floating(node)
        xp = env.xp
        attrs = {name: node.attr(name) for name in formula.attrs}

        def run(*inputs: Any) -> Variable | None:
            variables = inputs[:count] if by_reference else [_initialised(item) for item in inputs[:count]]
            scalars, grad, grad_name, indices = _split(formula, inputs[count:])
            with locked(variables):
                current = [variable.read() for variable in variables]
                if sparse:
                    _check_sparse(formula, attrs, current, scalars, grad, indices)
                    _check_rows(node, indices, current[0].shape[0], xp)
                else:
                    _check_dense(formula, attrs, current, scalars, grad, grad_name)
                del current  # a second reference would make the arrays look shared
                slots = _writable(variables)
                if sparse:
                    _apply_rows(formula, xp, attrs, slots, scalars, grad, indices)
                else:
                    formula.update(xp, attrs, slots, scalars, grad)
            return variables[0] if by_reference else None

        return run

    return bind


def _register() -> None:
    for table, prefix, sparse in ((DENSE, "Apply", False), (SPARSE, "SparseApply", True)):
        for name, formula in table.items():
            if formula.by_reference:
                kernel(prefix + name, shape=like_input())(_bind(formula, sparse, by_reference=True))
            kernel(f"Resource{prefix}{name}")(_bind(formula, sparse, by_reference=False))


_register()
