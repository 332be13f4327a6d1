"""What an optimizer's update is, and the formulas of those without regularisation.

A dense formula changes the arrays it gets in place; a formula of rows returns new ones. Compiled kernels follow the
dense ones operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DENSE", "SPARSE", "Check", "Formula", "in_place", "with_indices"]

Scalars = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """What a scalar must be.

    Attributes
    ----------
    text : str
        What the error says when it is not, up to the shape.
    holds : callable or None
        ``holds(value, attrs)`` tells whether a scalar has a value that is allowed; None allows all.
    """

    text: str
    holds: Callable[[Any, Mapping[str, Any]], bool] | None = None


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
    checks : mapping of str to Check
        What scalars must be, where that is more than having no dimensions or is said in other words.
    by_reference : bool
        Whether there is an op type for reference variables too.
    """

    update: Callable[..., Any]
    slots: tuple[str, ...]
    inputs: tuple[str, ...]
    attrs: tuple[str, ...] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    by_reference: bool = True


def in_place(rows: Callable[..., tuple[Any, ...]]) -> Callable[..., None]:
    """Return the dense form of a formula of rows."""

    def update(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> None:
        for slot, value in zip(slots, rows(xp, attrs, slots, scalars, grad), strict=True):
            slot[...] = value

    return update


def _one(array: Any) -> Any:
    return array.dtype.type(1)


# Dense formulas. `tmp` arrays are made with empty_like so that scalars stay arrays and `out=` works.


def _gradient_descent(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                      grad: Any) -> None:
    (var,) = slots
    tmp = xp.multiply(grad, scalars["alpha"], out=xp.empty_like(var))
    xp.subtract(var, tmp, out=var)


def _momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> None:
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


def _keras_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
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


def _adam(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> None:
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


def _adagrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> None:
    var, accum = slots
    tmp = xp.empty_like(var)
    if attrs["update_slots"]:
        xp.add(accum, xp.multiply(grad, grad, out=tmp), out=accum)
    step = xp.multiply(grad, scalars["lr"], out=xp.empty_like(var))
    xp.divide(step, xp.sqrt(accum, out=tmp), out=step)
    xp.subtract(var, step, out=var)


def _rms_prop(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> None:
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


def _sparse_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                     grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    accum = accum * momentum + grad
    if attrs["use_nesterov"]:
        return var - grad * lr - accum * momentum * lr, accum
    return var - accum * lr, accum


def _sparse_keras_momentum(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                           grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    lr, momentum = scalars["lr"], scalars["momentum"]
    step = grad * lr
    accum = accum * momentum - step
    if attrs["use_nesterov"]:
        return var - step + accum * momentum, accum
    return var + accum, accum


def _sparse_adagrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                    grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    if attrs["update_slots"]:
        accum = accum + grad * grad
    return var - grad * scalars["lr"] / xp.sqrt(accum), accum


def _sparse_rms_prop(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                     grad: Any) -> tuple[Any, ...]:
    var, ms, mom = slots
    ms = ms + (grad * grad - ms) * (_one(var) - scalars["rho"])
    mom = mom * scalars["momentum"] + grad * scalars["lr"] / xp.sqrt(ms + scalars["epsilon"])
    return var - mom, ms, mom


# Formulas of rows that also serve whole variables, where those have no kernel of their own for speed.


def _adagrad_v2(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    if attrs["update_slots"]:
        accum = accum + grad * grad
    return var - grad * scalars["lr"] / (xp.sqrt(accum) + scalars["epsilon"]), accum


def _adadelta(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, accum, accum_update = slots
    rho, epsilon = scalars["rho"], scalars["epsilon"]
    rest = _one(var) - rho
    accum = accum * rho + grad * grad * rest
    update = xp.sqrt(accum_update + epsilon) / xp.sqrt(accum + epsilon) * grad
    return var - update * scalars["lr"], accum, accum_update * rho + update * update * rest


def _centered_rms_prop(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                       grad: Any) -> tuple[Any, ...]:
    var, mg, ms, mom = slots
    rest = _one(var) - scalars["rho"]
    ms = ms + (grad * grad - ms) * rest
    mg = mg + (grad - mg) * rest
    mom = mom * scalars["momentum"] + grad * scalars["lr"] / xp.sqrt(ms - mg * mg + scalars["epsilon"])
    return var - mom, mg, ms, mom


def _ada_max(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, m, v = slots
    one = _one(var)
    m = m + (grad - m) * (one - scalars["beta1"])
    v = xp.maximum(v * scalars["beta2"], xp.absolute(grad))
    rate = scalars["lr"] / (one - scalars["beta1_power"])
    return var - m / (v + scalars["epsilon"]) * rate, m, v


def _adam_with_amsgrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                       grad: Any) -> tuple[Any, ...]:
    var, m, v, vhat = slots
    one = _one(var)
    alpha = scalars["lr"] * xp.sqrt(one - scalars["beta2_power"]) / (one - scalars["beta1_power"])
    m = m + (grad - m) * (one - scalars["beta1"])
    v = v + (grad * grad - v) * (one - scalars["beta2"])
    vhat = xp.maximum(vhat, v)
    return var - m * alpha / (xp.sqrt(vhat) + scalars["epsilon"]), m, v, vhat


def _add_sign(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, m = slots
    beta = scalars["beta"]
    m = m * beta + grad * (_one(var) - beta)
    agreement = xp.sign(grad) * xp.sign(m)
    return var - (agreement * scalars["sign_decay"] + scalars["alpha"]) * scalars["lr"] * grad, m


def _power_sign(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, m = slots
    beta = scalars["beta"]
    m = m * beta + grad * (_one(var) - beta)
    agreement = xp.sign(grad) * xp.sign(m)
    scale = xp.exp(agreement * (scalars["logbase"] * scalars["sign_decay"]))
    return var - scale * scalars["lr"] * grad, m


def with_indices(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inputs of the op for some rows: the indices follow the gradient."""
    place = next(i for i, name in enumerate(inputs) if name in ("grad", "delta")) + 1
    return (*inputs[:place - 1], "grad", "indices", *inputs[place:])


_ADAM = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon", "grad")
_RMS = ("lr", "rho", "momentum", "epsilon", "grad")
_MOMENTUM = ("lr", "grad", "momentum")
_LR = {"lr": Check("lr is not a scalar : ")}
"""As TensorFlow writes it in some places."""

DENSE: dict[str, Formula] = {
    "GradientDescent": Formula(_gradient_descent, ("var",), ("alpha", "delta")),
    "Momentum": Formula(_momentum, ("var", "accum"), _MOMENTUM, ("use_nesterov",)),
    "KerasMomentum": Formula(_keras_momentum, ("var", "accum"), _MOMENTUM, ("use_nesterov",), by_reference=False),
    "Adam": Formula(_adam, ("var", "m", "v"), _ADAM, ("use_nesterov",), _LR),
    "Adagrad": Formula(_adagrad, ("var", "accum"), ("lr", "grad"), ("update_slots",)),
    "RMSProp": Formula(_rms_prop, ("var", "ms", "mom"), _RMS, checks=_LR),
    "AdagradV2": Formula(in_place(_adagrad_v2), ("var", "accum"), ("lr", "epsilon", "grad"), ("update_slots",)),
    "Adadelta": Formula(in_place(_adadelta), ("var", "accum", "accum_update"), ("lr", "rho", "epsilon", "grad")),
    "CenteredRMSProp": Formula(in_place(_centered_rms_prop), ("var", "mg", "ms", "mom"), _RMS, checks=_LR),
    "AdaMax": Formula(in_place(_ada_max), ("var", "m", "v"),
                      ("beta1_power", "lr", "beta1", "beta2", "epsilon", "grad"), checks=_LR),
    "AdamWithAmsgrad": Formula(in_place(_adam_with_amsgrad), ("var", "m", "v", "vhat"), _ADAM, checks=_LR,
                               by_reference=False),
    "AddSign": Formula(in_place(_add_sign), ("var", "m"), ("lr", "alpha", "sign_decay", "beta", "grad")),
    "PowerSign": Formula(in_place(_power_sign), ("var", "m"), ("lr", "logbase", "sign_decay", "beta", "grad")),
}
"""Optimizer to formula; the op types are ``Apply`` and ``ResourceApply`` followed by the name."""

SPARSE: dict[str, Formula] = {
    "Momentum": Formula(_sparse_momentum, ("var", "accum"), with_indices(_MOMENTUM), ("use_nesterov",)),
    "KerasMomentum": Formula(_sparse_keras_momentum, ("var", "accum"), with_indices(_MOMENTUM), ("use_nesterov",),
                             by_reference=False),
    "Adagrad": Formula(_sparse_adagrad, ("var", "accum"), ("lr", "grad", "indices"), ("update_slots",)),
    "RMSProp": Formula(_sparse_rms_prop, ("var", "ms", "mom"), with_indices(_RMS), checks=_LR),
    "AdagradV2": Formula(_adagrad_v2, ("var", "accum"), ("lr", "epsilon", "grad", "indices"), ("update_slots",),
                         by_reference=False),
    "Adadelta": Formula(_adadelta, ("var", "accum", "accum_update"), ("lr", "rho", "epsilon", "grad", "indices")),
    "CenteredRMSProp": Formula(_centered_rms_prop, ("var", "mg", "ms", "mom"), with_indices(_RMS), checks=_LR),
}
"""The same for gradients of some rows; the op types begin with ``SparseApply`` and ``ResourceSparseApply``."""
