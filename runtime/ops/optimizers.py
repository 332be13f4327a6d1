"""Optimizer updates: one formula for each, registered for reference and for resource variables.

A formula changes the arrays it gets in place with as few temporaries as it can. What surrounds it is the same for all:
the variables are locked in one order, checked, made writable, and handed over. `DENSE` and `SPARSE` are the tables of
formulas; compiled kernels take the names and the order of the arguments from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Internal, InvalidArgument, NotFound
from runtime._ext.variable import Variable
from runtime.dtypes import DataType, to_numpy
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.variables import check_indices, variable_of

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["DENSE", "SPARSE", "Formula", "locked"]

Run = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Formula:
    """One optimizer's update.

    Attributes
    ----------
    update : callable
        ``update(xp, attrs, slots, scalars, grad)`` for dense gradients; slots, the variable first, are changed in
        place. For sparse ones the slots are the rows that the indices name and the results are returned instead.
    slots : tuple of str
        Names of the mutable inputs, the variable first.
    inputs : tuple of str
        Names of the other inputs in the order of the op; ``grad`` (or ``delta``) and ``indices`` among them, the rest
        are scalars.
    attrs : tuple of str
        Attrs that the formula reads.
    """

    update: Callable[..., Any]
    slots: tuple[str, ...]
    inputs: tuple[str, ...]
    attrs: tuple[str, ...] = ()


def _one(array: Any) -> Any:
    return array.dtype.type(1)


# Dense formulas. `tmp` arrays are made with empty_like so that scalars stay arrays and `out=` works.


def _gradient_descent(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                      grad: Any) -> None:
    (var,) = slots
    tmp = xp.multiply(grad, scalars["alpha"], out=xp.empty_like(var))
    xp.subtract(var, tmp, out=var)


def _momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any) -> None:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    xp.multiply(accum, momentum, out=accum)
    xp.add(accum, grad, out=accum)
    tmp = xp.empty_like(var)
    if attrs["use_nesterov"]:
        xp.subtract(var, xp.multiply(grad, lr, out=tmp), out=var)
        xp.multiply(accum, momentum, out=tmp)
        xp.multiply(tmp, lr, out=tmp)
    else:
        xp.multiply(accum, lr, out=tmp)
    xp.subtract(var, tmp, out=var)


def _keras_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                    grad: Any) -> None:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    tmp = xp.multiply(grad, lr, out=xp.empty_like(var))
    xp.multiply(accum, momentum, out=accum)
    xp.subtract(accum, tmp, out=accum)
    if attrs["use_nesterov"]:
        xp.subtract(var, tmp, out=var)
        xp.add(var, xp.multiply(accum, momentum, out=tmp), out=var)
    else:
        xp.add(var, accum, out=var)


def _adam(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any) -> None:
    var, m, v = slots
    one = _one(var)
    beta1, beta2 = scalars["beta1"], scalars["beta2"]
    alpha = scalars["lr"] * xp.sqrt(one - scalars["beta2_power"]) / (one - scalars["beta1_power"])
    tmp = xp.subtract(grad, m, out=xp.empty_like(var))
    xp.multiply(tmp, one - beta1, out=tmp)
    xp.add(m, tmp, out=m)
    xp.multiply(grad, grad, out=tmp)
    xp.subtract(tmp, v, out=tmp)
    xp.multiply(tmp, one - beta2, out=tmp)
    xp.add(v, tmp, out=v)
    step = xp.empty_like(var)
    if attrs["use_nesterov"]:
        xp.multiply(grad, one - beta1, out=step)
        xp.add(step, xp.multiply(m, beta1, out=tmp), out=step)
        xp.multiply(step, alpha, out=step)
    else:
        xp.multiply(m, alpha, out=step)
    xp.sqrt(v, out=tmp)
    xp.add(tmp, scalars["epsilon"], out=tmp)
    xp.divide(step, tmp, out=step)
    xp.subtract(var, step, out=var)


def _adagrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any) -> None:
    var, accum = slots
    tmp = xp.empty_like(var)
    if attrs["update_slots"]:
        xp.add(accum, xp.multiply(grad, grad, out=tmp), out=accum)
    step = xp.multiply(grad, scalars["lr"], out=xp.empty_like(var))
    xp.divide(step, xp.sqrt(accum, out=tmp), out=step)
    xp.subtract(var, step, out=var)


def _rms_prop(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any], grad: Any) -> None:
    var, ms, mom = slots
    tmp = xp.multiply(grad, grad, out=xp.empty_like(var))
    xp.subtract(tmp, ms, out=tmp)
    xp.multiply(tmp, _one(var) - scalars["rho"], out=tmp)
    xp.add(ms, tmp, out=ms)
    xp.multiply(mom, scalars["momentum"], out=mom)
    xp.add(ms, scalars["epsilon"], out=tmp)
    xp.sqrt(tmp, out=tmp)
    step = xp.multiply(grad, scalars["lr"], out=xp.empty_like(var))
    xp.add(mom, xp.divide(step, tmp, out=step), out=mom)
    xp.subtract(var, mom, out=var)


# Row formulas: they get the rows of every slot and return the new ones.


def _sparse_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                     grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    accum = accum * momentum + grad
    if attrs["use_nesterov"]:
        return var - (grad * lr + accum * momentum * lr), accum
    return var - accum * lr, accum


def _sparse_keras_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                           grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    accum = accum * momentum - grad * lr
    if attrs["use_nesterov"]:
        return var + (accum * momentum - grad * lr), accum
    return var + accum, accum


def _sparse_adagrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                    grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    if attrs["update_slots"]:
        accum = accum + grad * grad
    return var - grad * scalars["lr"] / xp.sqrt(accum), accum


def _sparse_rms_prop(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                     grad: Any) -> tuple[Any, ...]:
    var, ms, mom = slots
    rho = scalars["rho"]
    ms = ms * rho + grad * grad * (_one(var) - rho)
    mom = mom * scalars["momentum"] + grad * scalars["lr"] / xp.sqrt(ms + scalars["epsilon"])
    return var - mom, ms, mom


_ADAM_INPUTS = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon", "grad")
_RMS_INPUTS = ("lr", "rho", "momentum", "epsilon", "grad")

DENSE: dict[str, Formula] = {
    "GradientDescent": Formula(_gradient_descent, ("var",), ("alpha", "delta")),
    "Momentum": Formula(_momentum, ("var", "accum"), ("lr", "grad", "momentum"), ("use_nesterov",)),
    "KerasMomentum": Formula(_keras_momentum, ("var", "accum"), ("lr", "grad", "momentum"), ("use_nesterov",)),
    "Adam": Formula(_adam, ("var", "m", "v"), _ADAM_INPUTS, ("use_nesterov",)),
    "Adagrad": Formula(_adagrad, ("var", "accum"), ("lr", "grad"), ("update_slots",)),
    "RMSProp": Formula(_rms_prop, ("var", "ms", "mom"), _RMS_INPUTS),
}
"""Optimizer to formula; the op types are ``Apply`` and ``ResourceApply`` followed by the name."""

SPARSE: dict[str, Formula] = {
    "Momentum": Formula(_sparse_momentum, ("var", "accum"), ("lr", "grad", "indices", "momentum"), ("use_nesterov",)),
    "KerasMomentum": Formula(_sparse_keras_momentum, ("var", "accum"), ("lr", "grad", "indices", "momentum"),
                             ("use_nesterov",)),
    "Adagrad": Formula(_sparse_adagrad, ("var", "accum"), ("lr", "grad", "indices"), ("update_slots",)),
    "RMSProp": Formula(_sparse_rms_prop, ("var", "ms", "mom"), (*_RMS_INPUTS, "indices")),
}
"""The same for gradients of some rows; the op types begin with ``SparseApply`` and ``ResourceSparseApply``."""

_NO_REFERENCE_FORM = frozenset({"KerasMomentum"})


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


def _check_scalars(scalars: dict[str, Any]) -> None:
    for name, value in scalars.items():
        if value.ndim:
            gap = " " if name == "lr" and "epsilon" in scalars else ""  # as TensorFlow's Adam and RMSProp write it
            raise InvalidArgument(f"{name} is not a scalar{gap}: {format_shape(value.shape)}")


def _check_dense(formula: Formula, slots: Sequence[Any], scalars: dict[str, Any], grad: Any, grad_name: str) -> None:
    _check_scalars(scalars)
    shape = slots[0].shape
    for name, slot in zip(formula.slots[1:], slots[1:], strict=True):
        if slot.shape != shape:
            raise InvalidArgument(f"var and {name} do not have the same shape{format_shape(shape)} "
                                  f"{format_shape(slot.shape)}")
    if grad.shape != shape:
        raise InvalidArgument(f"var and {grad_name} do not have the same shape{format_shape(shape)} "
                              f"{format_shape(grad.shape)}")


def _check_sparse(formula: Formula, slots: Sequence[Any], scalars: dict[str, Any], grad: Any, indices: Any) -> None:
    shape = slots[0].shape
    for name, slot in zip(formula.slots[1:], slots[1:], strict=True):
        if slot.shape != shape:
            raise InvalidArgument(f"var and {name} do not have the same shape{format_shape(shape)} "
                                  f"{format_shape(slot.shape)}")
    if not shape:
        raise InvalidArgument("var must be at least 1 dimensional")
    _check_scalars(scalars)
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


def _apply_rows(formula: Formula, xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: dict[str, Any],
                grad: Any, indices: Any) -> None:
    """Update the rows that `indices` names: all at once, or one after another when a row is named twice."""
    if not indices.size:
        return
    rows = grad.reshape((indices.size, *slots[0].shape[1:]))
    batches = [slice(None)] if xp.unique(indices).size == indices.size else \
        [slice(place, place + 1) for place in range(indices.size)]
    for batch in batches:
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
                    _check_sparse(formula, current, scalars, grad, indices)
                    _check_rows(node, indices, current[0].shape[0], xp)
                else:
                    _check_dense(formula, current, scalars, grad, grad_name)
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
            if name not in _NO_REFERENCE_FORM:
                kernel(prefix + name, shape=like_input())(_bind(formula, sparse, by_reference=True))
            kernel(f"Resource{prefix}{name}")(_bind(formula, sparse, by_reference=False))


_register()
