"""Scattered updates of the rows of variables, by reference and by handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.variable import Variable
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.variables import check_indices, existing

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["scatter_rows"]

Run = Callable[..., Any]

_UFUNCS = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Min": "minimum", "Max": "maximum"}


def scatter_rows(target: Any, indices: Any, updates: Any, ufunc: Any, xp: Any) -> None:
    """Combine rows of `target` with `updates` in place, in the order of the indices.

    Parameters
    ----------
    target : ndarray, shape (n, ...)
    indices : ndarray of int, any shape, every value in [0, n)
    updates : ndarray, shape ``indices.shape + target.shape[1:]``, or a scalar for all
    ufunc : ufunc or None
        How a row and its update combine; None replaces the row, the last update wins.
    """
    flat = indices.reshape(-1)
    if not flat.size or not target.size:
        return
    rows = updates if updates.ndim == 0 else updates.reshape((flat.size, *target.shape[1:]))
    if ufunc is None:
        target[flat] = rows
    elif flat.size == 1:
        row = target[int(flat[0])]
        target[int(flat[0])] = ufunc(row, rows if rows.ndim == 0 else rows[0])
    elif ufunc is xp.divide and target.dtype.kind in "iu":
        _divide_integers(target, flat, rows)
    else:
        ufunc.at(target, flat, rows)


def _divide_integers(target: Any, indices: Any, rows: Any) -> None:
    """Divide with truncation toward zero, one update after another."""
    for position, index in enumerate(indices.tolist()):
        divisor = rows if rows.ndim == 0 else rows[position]
        if (divisor == 0).any():
            raise InvalidArgument("Integer division by zero")
        row = target[index]
        quotient = row // divisor
        target[index] = quotient + ((row % divisor != 0) & ((row < 0) != (divisor < 0)))


def _ufunc(xp: Any, name: str) -> Any:
    return None if name == "Update" else getattr(xp, _UFUNCS[name])


def _register(name: str) -> None:
    @kernel(f"Scatter{name}", shape=like_input())
    def scatter(node: Node, env: KernelEnv) -> Run:
        xp, ufunc = env.xp, _ufunc(env.xp, name)

        def run(variable: Variable, indices: Any, updates: Any) -> Variable:
            with variable.lock:
                shape = variable.read().shape
                if not shape:
                    raise InvalidArgument("params must be at least 1-D, got shape []")
                if updates.ndim and updates.shape != indices.shape + shape[1:]:
                    raise InvalidArgument(
                        "Must have updates.shape = indices.shape + params.shape[1:] or updates.shape = [], got "
                        f"updates.shape {format_shape(updates.shape)}, indices.shape {format_shape(indices.shape)}, "
                        f"params.shape {format_shape(shape)}")
                check_indices(indices, shape[0], xp)
                scatter_rows(variable.writable(), indices, updates, ufunc, xp)
            return variable

        return run

    @kernel(f"ResourceScatter{name}")
    def resource_scatter(node: Node, env: KernelEnv) -> Run:
        xp, ufunc = env.xp, _ufunc(env.xp, name)

        def run(resource: Any, indices: Any, updates: Any) -> None:
            variable = existing(resource)
            with variable.lock:
                shape = variable.read().shape
                if not shape:
                    raise InvalidArgument("params must be at least 1-D, got shape []")
                if updates.ndim and updates.shape[:indices.ndim] != indices.shape:
                    raise InvalidArgument(f"The shape of indices ({format_shape(indices.shape)}) must be a prefix of "
                                          f"the shape of updates ({format_shape(updates.shape)})")
                if updates.ndim and updates.size != indices.size * int(np.prod(shape[1:])):
                    raise InvalidArgument(f"updates of shape {format_shape(updates.shape)} do not fit rows of shape "
                                          f"{format_shape(shape[1:])} for indices of shape "
                                          f"{format_shape(indices.shape)}")
                check_indices(indices, shape[0], xp)
                scatter_rows(variable.writable(), indices, updates, ufunc, xp)

        return run


for _name in ("Update", *_UFUNCS):
    _register(_name)
