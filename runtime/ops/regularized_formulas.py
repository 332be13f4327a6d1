"""Formulas of the optimizers that keep weights small or at zero: proximal ones, dual averaging and FTRL.

All are formulas of rows; `in_place` makes the dense ones of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.ops.optimizer_formulas import Check, Formula, Scalars, in_place, with_indices

__all__ = ["DENSE", "SPARSE"]


def _shrunk(xp: Any, value: Any, threshold: Any) -> Any:
    """Return values moved toward zero by a threshold, and no further than zero."""
    return xp.sign(value) * xp.maximum(xp.absolute(value) - threshold, value.dtype.type(0))


def _proximal(xp: Any, value: Any, rate: Any, scalars: Scalars) -> Any:
    """Return what minimises the penalties of l1 and l2 near a value."""
    if scalars["l1"] > 0:
        value = _shrunk(xp, value, rate * scalars["l1"])
    return value / (rate * scalars["l2"] + value.dtype.type(1))


def _proximal_gradient_descent(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                               grad: Any) -> tuple[Any, ...]:
    (var,) = slots
    rate = scalars["alpha"]
    return (_proximal(xp, var - grad * rate, rate, scalars),)


def _proximal_adagrad(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars,
                      grad: Any) -> tuple[Any, ...]:
    var, accum = slots
    accum = accum + grad * grad
    rate = scalars["lr"] / xp.sqrt(accum)
    return _proximal(xp, var - grad * rate, rate, scalars), accum


def _adagrad_da(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, total, squares = slots
    lr, step = scalars["lr"], scalars["global_step"].astype(var.dtype)
    total = total + grad
    squares = squares + grad * grad
    slope = _shrunk(xp, total, scalars["l1"] * step) if scalars["l1"] > 0 else total
    return -lr * slope / (xp.sqrt(squares) + scalars["l2"] * step * lr), total, squares


def _ftrl(xp: Any, attrs: dict[str, Any], slots: Sequence[Any], scalars: Scalars, grad: Any) -> tuple[Any, ...]:
    var, accum, linear = slots
    lr, l1, l2, power = scalars["lr"], scalars["l1"], scalars["l2"], scalars["lr_power"]
    two = var.dtype.type(2)
    shrinkage = scalars.get("l2_shrinkage")
    slope = grad if shrinkage is None else grad + two * shrinkage * var
    former = accum
    accum = accum + grad * grad
    # The root is what is nearly always asked for, and more exact than a power.
    before, after = (xp.sqrt(former), xp.sqrt(accum)) if power == -0.5 else (former ** -power, accum ** -power)
    if attrs["multiply_linear_by_lr"]:
        linear = linear + (slope * lr - (after - before) * var)
        threshold, scale = l1 * lr, after + two * l2 * lr
    else:
        linear = linear + (slope - (after - before) / lr * var)
        threshold, scale = l1, after / lr + two * l2
    found = (xp.sign(linear) * threshold - linear) / scale
    return xp.where(xp.absolute(linear) > threshold, found, var.dtype.type(0)), accum, linear


def _not_negative(value: Any, attrs: Mapping[str, Any]) -> bool:
    return bool(value >= 0)


def _rate_of_ftrl(value: Any, attrs: Mapping[str, Any]) -> bool:
    return bool(value > 0 or (attrs["multiply_linear_by_lr"] and value >= 0))


_STRENGTHS = {
    "l1": Check("l1 regularization strength is not a scalar: "),
    "l2": Check("l2 regularization strength is not a scalar: "),
    "l2_shrinkage": Check("l2 shrinkage regularization strength is not a scalar: "),
    "lr_power": Check("lr_power is not a scalar"),
}
_LIMITED_STRENGTHS = {
    "l1": Check("l1 regularization strength is not a non-negative scalar: ", _not_negative),
    "l2": Check("l2 regularization strength is not a non-negative scalar: ", _not_negative),
    "l2_shrinkage": Check("l2 shrinkage regularization strength is not a non-negative scalar: ", _not_negative),
}
_LIMITED_ADAGRAD = {
    **_LIMITED_STRENGTHS, "lr": Check("lr is not a positive scalar: ", lambda value, attrs: bool(value > 0)),
}
_LIMITED_FTRL = {
    **_LIMITED_STRENGTHS,
    "lr": Check("lr is not a positive scalar (or zero if multiply_linear_by_lr is set): ", _rate_of_ftrl),
    "lr_power": Check("lr_power is not a non-positive scalar: ", lambda value, attrs: bool(value <= 0)),
}

_PROXIMAL_GRADIENT = ("alpha", "l1", "l2", "delta")
_PROXIMAL_ADAGRAD = ("lr", "l1", "l2", "grad")
_ADAGRAD_DA = ("grad", "lr", "l1", "l2", "global_step")
_AVERAGED = ("var", "gradient_accumulator", "gradient_squared_accumulator")
_FTRL = ("grad", "lr", "l1", "l2", "lr_power")
_FTRL_V2 = ("grad", "lr", "l1", "l2", "l2_shrinkage", "lr_power")
_FTRL_SLOTS = ("var", "accum", "linear")

_LINEAR = ("multiply_linear_by_lr",)

DENSE: dict[str, Formula] = {
    "ProximalGradientDescent": Formula(in_place(_proximal_gradient_descent), ("var",), _PROXIMAL_GRADIENT,
                                       checks=_STRENGTHS),
    "ProximalAdagrad": Formula(in_place(_proximal_adagrad), ("var", "accum"), _PROXIMAL_ADAGRAD,
                               checks=_LIMITED_ADAGRAD),
    "AdagradDA": Formula(in_place(_adagrad_da), _AVERAGED, _ADAGRAD_DA, checks=_STRENGTHS),
    "Ftrl": Formula(in_place(_ftrl), _FTRL_SLOTS, _FTRL, _LINEAR, _STRENGTHS),
    "FtrlV2": Formula(in_place(_ftrl), _FTRL_SLOTS, _FTRL_V2, _LINEAR, _STRENGTHS),
}
"""Optimizer to formula, as in `runtime.ops.optimizer_formulas.DENSE`."""

SPARSE: dict[str, Formula] = {
    "ProximalGradientDescent": Formula(_proximal_gradient_descent, ("var",), with_indices(_PROXIMAL_GRADIENT),
                                       checks=_STRENGTHS),
    "ProximalAdagrad": Formula(_proximal_adagrad, ("var", "accum"), with_indices(_PROXIMAL_ADAGRAD),
                               checks=_LIMITED_ADAGRAD),
    "AdagradDA": Formula(_adagrad_da, _AVERAGED, with_indices(_ADAGRAD_DA), checks=_STRENGTHS),
    "Ftrl": Formula(_ftrl, _FTRL_SLOTS, with_indices(_FTRL), _LINEAR, _LIMITED_FTRL),
    "FtrlV2": Formula(_ftrl, _FTRL_SLOTS, with_indices(_FTRL_V2), _LINEAR, _LIMITED_FTRL),
}
"""The same for gradients of some rows."""
