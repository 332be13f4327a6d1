"""LU factors, the gradient of Cholesky's, least squares, tridiagonal systems and the matrix exponential."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import lu_factors, tridiagonal
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.decompositions import MatrixTypes, adjoint, substitute
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_PANEL = 32
"""Columns factored one by one before the rest is reduced by one matrix product."""


# --- LU --------------------------------------------------------------------------------------------------------------


def _lu_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0], shapes[0][:-1] if shapes[0] else None]


@kernel("Lu", shape=_lu_shape)
def _lu(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    index_type = to_numpy(node.output_types[1])

    def run(matrix: Any) -> Any:
        if matrix.ndim < 2:
            raise InvalidArgument(f"Input tensor must have rank >= 2, got {matrix.ndim}")
        if matrix.shape[-1] != matrix.shape[-2]:
            raise InvalidArgument("Input matrix must be square.")
        if not matrix.size:
            return matrix, xp.zeros(matrix.shape[:-1], index_type)
        size = matrix.shape[-1]
        factors, order = factor(xp, types.widen(matrix).reshape(-1, size, size))
        pivots = xp.absolute(xp.diagonal(factors, axis1=1, axis2=2))
        if not bool((pivots > 0).all()):
            raise InvalidArgument("Input is not invertible.")
        return types.narrow(factors).reshape(matrix.shape), order.astype(index_type).reshape(matrix.shape[:-1])

    return run


def factor(xp: Any, matrices: Any) -> tuple[Any, Any]:
    """Return the LU factors of a batch of matrices, in one array, and the order of their rows.

    Real matrices on the host go to `runtime._ext.lu_factors`.

    Parameters
    ----------
    matrices : array, shape (b, n, n)

    Returns
    -------
    factors : array, shape (b, n, n)
        The unit lower factor below the diagonal, the upper one from it on. Zero pivots give infinities and NaN.
    order : array of int64, shape (b, n)
        Row i of the product is row ``order[i]`` of the matrix.
    """
    if xp is np and matrices.dtype.kind == "f":
        return lu_factors.factor(matrices)
    count, size = matrices.shape[0], matrices.shape[-1]
    result = xp.array(matrices)
    order = xp.tile(xp.arange(size), (count, 1))
    batch = xp.arange(count)
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        for k in range(start, stop):
            best = k + xp.argmax(xp.absolute(result[:, k:, k]), axis=1)
            for rows in (result, order):
                chosen, current = rows[batch, best], rows[:, k].copy()
                rows[batch, best] = current
                rows[:, k] = chosen
            result[:, k + 1:, k] /= result[:, k, k, None]
            result[:, k + 1:, k + 1:stop] -= result[:, k + 1:, k, None] * result[:, k, None, k + 1:stop]
        if stop < size:
            corner = result[:, start:stop, start:stop]
            unit = xp.tril(corner, -1) + xp.eye(stop - start, dtype=result.dtype)
            result[:, start:stop, stop:] = substitute(xp, unit, result[:, start:stop, stop:], lower=True)
            result[:, stop:, stop:] -= xp.matmul(result[:, stop:, start:stop], result[:, start:stop, stop:])
    return result, order


# --- Cholesky's gradient ---------------------------------------------------------------------------------------------


@kernel("CholeskyGrad", shape=like_input())
def _cholesky_grad(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)

    def run(factor: Any, grad: Any) -> Any:
        if factor.ndim < 2 or factor.shape[-1] != factor.shape[-2]:
            raise InvalidArgument("Inputs must be a square matrices.")
        if factor.shape != grad.shape:
            raise InvalidArgument("Inputs (L and grad) must have the same shape.")
        if not factor.size:
            return grad
        lower = xp.tril(types.widen(factor))
        product = xp.tril(xp.matmul(adjoint(lower), xp.tril(types.widen(grad))))
        diagonal = xp.arange(product.shape[-1])
        product[..., diagonal, diagonal] /= 2
        left = substitute(xp, adjoint(lower), product, lower=False)
        slope = adjoint(substitute(xp, adjoint(lower), adjoint(left), lower=False))
        return types.narrow((slope + adjoint(slope)) / 2)

    return run


# --- least squares ---------------------------------------------------------------------------------------------------


def _least_squares_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    matrix, rhs, _ = shapes
    if matrix is None or rhs is None or len(matrix) < 2 or len(rhs) < 2:
        return [None]
    batch = [left if left is not None else right for left, right in zip(matrix[:-2], rhs[:-2])]
    return [(*batch, matrix[-1], rhs[-1])]


@kernel("MatrixSolveLs", shape=_least_squares_shape, host=(2,))
def _least_squares(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    fast = bool(node.attr("fast"))

    def run(matrix: Any, rhs: Any, regularizer: Any) -> Any:
        if matrix.ndim < 2:
            raise InvalidArgument(f"Input tensor 0 must have rank >= 2, got {matrix.ndim}")
        if matrix.ndim != rhs.ndim:
            raise InvalidArgument("All input tensors must have the same rank.")
        if matrix.shape[:-2] != rhs.shape[:-2]:
            raise InvalidArgument("All input tensors must have the same outer dimensions.")
        if regularizer.ndim:
            raise InvalidArgument(f"l2_regularizer must be scalar, got shape {format_shape(regularizer.shape)}")
        penalty = float(regularizer)
        if not penalty >= 0:
            raise InvalidArgument("l2_regularizer must be >= 0.")
        if matrix.shape[-2] != rhs.shape[-2]:
            raise InvalidArgument("Input matrix and rhs are incompatible.")
        if not matrix.size or not rhs.size:
            return xp.zeros((*matrix.shape[:-2], matrix.shape[-1], rhs.shape[-1]), types.dtype)
        left, right = types.widen(matrix), types.widen(rhs)
        if not fast:
            small = float(np.finfo(left.dtype).eps) * min(left.shape[-2:])
            return types.narrow(xp.matmul(xp.linalg.pinv(left, small), right))
        return types.narrow(_normal_equations(xp, left, right, penalty))

    return run


def _normal_equations(xp: Any, matrix: Any, rhs: Any, penalty: float) -> Any:
    """Solve by the smaller of the two products of a matrix with itself."""
    rows, columns = matrix.shape[-2:]
    other = adjoint(matrix)
    product = xp.matmul(other, matrix) if rows >= columns else xp.matmul(matrix, other)
    product = product + xp.eye(product.shape[-1], dtype=product.dtype) * product.dtype.type(penalty)
    try:
        lower = xp.linalg.cholesky(product)
    except np.linalg.LinAlgError:
        raise InvalidArgument("Input matrix was rank deficient or ill-conditioned. Try setting fast=False or provide a "
                              "larger l2_regularizer > 0.") from None
    target = xp.matmul(other, rhs) if rows >= columns else rhs
    found = substitute(xp, adjoint(lower), substitute(xp, lower, target, lower=True), lower=False)
    return found if rows >= columns else xp.matmul(other, found)


# --- tridiagonal systems ---------------------------------------------------------------------------------------------


@kernel("TridiagonalSolve", shape=like_input(1))
def _tridiagonal_solve(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    pivoting, perturb = bool(node.attr("partial_pivoting")), bool(node.attr("perturb_singular"))
    if perturb and not pivoting:
        raise InvalidArgument("Setting perturb_singular requires also setting partial_pivoting.")

    def run(diagonals: Any, rhs: Any) -> Any:
        for place, value in enumerate((diagonals, rhs)):
            if value.ndim < 2:
                raise InvalidArgument(f"Input tensor {place} must have rank >= 2, got {value.ndim}")
        if diagonals.ndim != rhs.ndim:
            raise InvalidArgument("All input tensors must have the same rank.")
        if diagonals.shape[:-2] != rhs.shape[:-2]:
            raise InvalidArgument("All input tensors must have the same outer dimensions.")
        if diagonals.shape[-2] != 3:
            raise InvalidArgument("Expected diagonals to be provided as a matrix with 3 rows, got "
                                  f"{diagonals.shape[-2]} rows.")
        if diagonals.shape[-1] != rhs.shape[-2]:
            raise InvalidArgument("Expected the same number of left-hand sides and right-hand sides, got "
                                  f"{diagonals.shape[-1]} and {rhs.shape[-2]}.")
        if not rhs.size:
            return rhs
        size = diagonals.shape[-1]
        if xp is np and not perturb:
            return tridiagonal.solve(diagonals.reshape(-1, 3, size), rhs.reshape(-1, *rhs.shape[-2:]),
                                     pivoting).reshape(rhs.shape)
        # Rows first, then the batch: every step below works on one row of all systems.
        bands = xp.moveaxis(diagonals.reshape(-1, 3, size), 0, -1)
        target = xp.moveaxis(rhs.reshape(-1, *rhs.shape[-2:]), 0, -1)
        found = solve_tridiagonal(xp, bands[0], bands[1], bands[2], target, pivoting, perturb)
        return xp.moveaxis(found, -1, 0).reshape(rhs.shape)

    return run


def solve_tridiagonal(xp: Any, above: Any, diagonal: Any, below: Any, rhs: Any, pivoting: bool, perturb: bool) -> Any:
    """Solve tridiagonal systems by elimination.

    Parameters
    ----------
    above, diagonal, below : array, shape (n, b)
        The last of `above` and the first of `below` are not used.
    rhs : array, shape (n, k, b)
    pivoting : bool
        Whether a row is swapped with the next where that has the larger entry.
    perturb : bool
        Whether pivots that are too small to divide by are moved away from zero. Else a system with a zero pivot gives
        NaN.
    """
    size = diagonal.shape[0]
    # Of the upper factor: its diagonal and the two above it, the second of which comes from swaps.
    first, second, third = xp.array(diagonal), xp.array(above), xp.zeros_like(diagonal)
    second[-1] = 0
    target = xp.array(rhs)
    singular = xp.zeros(diagonal.shape[1:], bool)
    for i in range(size - 1):
        lower, middle = below[i + 1], first[i + 1].copy()
        upper = second[i + 1].copy()
        swap = xp.absolute(first[i]) < xp.absolute(lower) if pivoting else xp.zeros(singular.shape, bool)
        pivot = xp.where(swap, lower, first[i])
        singular |= pivot == 0
        factor = xp.where(swap, first[i], lower) / pivot
        factor = xp.where(pivot == 0, 0, factor) if perturb else factor
        row_second, row_third = xp.where(swap, middle, second[i]), xp.where(swap, upper, 0)
        first[i + 1] = xp.where(swap, second[i], middle) - factor * row_second
        second[i + 1] = xp.where(swap, 0, upper) - factor * row_third
        first[i], second[i], third[i] = pivot, row_second, row_third
        here, there = target[i].copy(), target[i + 1].copy()
        target[i] = xp.where(swap, there, here)
        target[i + 1] = xp.where(swap, here, there) - factor * target[i]
    singular |= first[-1] == 0
    if perturb:
        _move_from_zero(xp, first, second, third)
    for i in range(size - 1, -1, -1):
        value = target[i]
        if i + 1 < size:
            value = value - second[i] * target[i + 1]
        if i + 2 < size:
            value = value - third[i] * target[i + 2]
        target[i] = value / first[i]
    return target if perturb else xp.where(singular, target.dtype.type(math.nan), target)


def _move_from_zero(xp: Any, first: Any, second: Any, third: Any) -> None:
    """Make pivots at least as large as the rounding of the largest entry of their system."""
    info = np.finfo(first.dtype)
    largest = xp.max(xp.stack([xp.absolute(part).max(axis=0) for part in (first, second, third)]), axis=0)
    least = xp.maximum(largest * info.eps, info.tiny)
    small = xp.absolute(first) < least
    first[...] = xp.where(small, xp.where(first.real < 0, -least, least), first)


# --- the exponential -------------------------------------------------------------------------------------------------

_PADE_DEGREE = 13
_PADE_NORM = 4.25
"""Up to this norm the approximation is exact to double precision."""


@kernel("MatrixExponential", shape=like_input())
def _matrix_exponential(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)

    def run(matrix: Any) -> Any:
        if matrix.ndim < 2:
            raise InvalidArgument(f"Input tensor 0 must have rank >= 2, got {matrix.ndim}")
        if matrix.shape[-1] != matrix.shape[-2]:
            raise InvalidArgument("Input matrix must be square.")
        return types.narrow(exponential(xp, types.widen(matrix))) if matrix.size else matrix

    return run


def exponential(xp: Any, matrices: Any) -> Any:
    """Return the exponentials of square matrices: a Padé approximant of scaled ones, squared again."""
    norms = xp.absolute(matrices).sum(axis=-2).max(axis=-1)
    if not bool(xp.isfinite(norms).all()):
        return xp.full_like(matrices, math.nan)
    squarings = xp.maximum(xp.ceil(xp.log2(xp.maximum(norms, 1e-30) / _PADE_NORM)), 0).astype(int)
    scaled = matrices / (2.0 ** squarings)[..., None, None].astype(norms.dtype)
    identity = xp.broadcast_to(xp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)
    # The coefficients of the numerator, and of the denominator with every second sign changed.
    even, odd, power, coefficient = identity, xp.zeros_like(scaled), identity, 1.0
    for k in range(1, _PADE_DEGREE + 1):
        coefficient *= (_PADE_DEGREE - k + 1) / (k * (2 * _PADE_DEGREE - k + 1))
        power = xp.matmul(power, scaled)
        term = power * power.dtype.type(coefficient)
        even, odd = (even + term, odd) if k % 2 == 0 else (even, odd + term)
    result = xp.linalg.solve(even - odd, even + odd)
    for turn in range(int(squarings.max(initial=0))):
        again = (squarings > turn)[..., None, None]
        result = xp.where(again, xp.matmul(result, result), result)
    return result
