"""Decompositions, inverses and solutions of linear systems, batched over leading dimensions.

Half is computed in float32. LAPACK's answers are unique only up to the signs (or phases) of vectors where a matrix
leaves them open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.broadcasting import broadcasts
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["MatrixTypes", "adjoint", "substitute"]

_SMALL_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16})


class MatrixTypes:
    """The type that a node's matrices have, and the one they are computed in."""

    def __init__(self, node: Node, xp: Any) -> None:
        kind = base(node.output_types[0])
        self.dtype = to_numpy(kind)
        self.wide = xp.dtype(xp.float32) if kind in _SMALL_FLOATS else self.dtype
        self._xp = xp

    def widen(self, value: Any) -> Any:
        return value if value.dtype == self.wide else value.astype(self.wide)

    def narrow(self, value: Any) -> Any:
        return self._xp.asarray(value).astype(self.dtype, copy=False)


def _check_matrix(value: Any, square: bool = True) -> None:
    if value.ndim < 2:
        raise InvalidArgument(f"Input tensor 0 must have rank >= 2, got {value.ndim}")
    if square and value.shape[-1] != value.shape[-2]:
        raise InvalidArgument("Input matrix must be square.")


def adjoint(value: Any) -> Any:
    """Return the conjugate transposes of matrices."""
    return value.swapaxes(-1, -2).conj()


def _each(xp: Any, function: Callable[[Any], Any], matrices: Any) -> Any:
    """Apply a function to a batch; matrix by matrix if it fails for one, whose lower half then becomes NaN."""
    try:
        return function(matrices)
    except np.linalg.LinAlgError:
        if matrices.ndim == 2:
            return xp.tril(xp.full(matrices.shape, np.nan, matrices.dtype))
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    return xp.stack([_each(xp, function, matrix) for matrix in flat]).reshape(matrices.shape)


@kernel("Cholesky", shape=like_input())
def _cholesky(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)

    def run(matrix: Any) -> Any:
        _check_matrix(matrix)
        if not matrix.size:
            return matrix
        return types.narrow(_each(xp, xp.linalg.cholesky, types.widen(matrix)))

    return run


@kernel("MatrixInverse", shape=like_input())
def _matrix_inverse(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    adjointed = bool(node.attr("adjoint"))

    def run(matrix: Any) -> Any:
        _check_matrix(matrix)
        if not matrix.size:
            return matrix
        value = types.widen(adjoint(matrix) if adjointed else matrix)
        try:
            return types.narrow(xp.linalg.inv(value))
        except np.linalg.LinAlgError:
            raise InvalidArgument("Input is not invertible.") from None

    return run


def _batch_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = None if shapes[0] is None else shapes[0][:-2]
    return [shape] * len(node.output_types)


@kernel("MatrixDeterminant", shape=_batch_shape)
def _matrix_determinant(node: Node, env: KernelEnv) -> Callable[..., Any]:
    types = MatrixTypes(node, env.xp)
    xp = env.xp

    def run(matrix: Any) -> Any:
        _check_matrix(matrix)
        return types.narrow(xp.linalg.det(types.widen(matrix)))

    return run


@kernel("LogMatrixDeterminant", shape=_batch_shape)
def _log_matrix_determinant(node: Node, env: KernelEnv) -> Callable[..., Any]:
    types = MatrixTypes(node, env.xp)
    xp = env.xp

    def run(matrix: Any) -> Any:
        _check_matrix(matrix)
        sign, logarithm = xp.linalg.slogdet(types.widen(matrix))
        return types.narrow(sign), types.narrow(logarithm)

    return run


# --- solving ---------------------------------------------------------------------------------------------------------


def _solve_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[1] if node.op == "MatrixSolve" else None]


@kernel("MatrixSolve", shape=_solve_shape)
def _matrix_solve(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    adjointed = bool(node.attr("adjoint"))

    def run(matrix: Any, rhs: Any) -> Any:
        if matrix.ndim < 2:
            raise InvalidArgument(f"Input tensor 0 must have rank >= 2, got {matrix.ndim}")
        if matrix.ndim != rhs.ndim:
            raise InvalidArgument("All input tensors must have the same rank.")
        if matrix.shape[-1] != matrix.shape[-2]:
            raise InvalidArgument("First input (lhs) must be a square matrix.")
        if matrix.shape[:-2] != rhs.shape[:-2]:
            raise InvalidArgument("All input tensors must have the same outer dimensions.")
        if matrix.shape[-1] != rhs.shape[-2]:
            raise InvalidArgument("Input matrix and rhs are incompatible.")
        if not rhs.size:
            return rhs
        try:
            return types.narrow(xp.linalg.solve(types.widen(adjoint(matrix) if adjointed else matrix),
                                                types.widen(rhs)))
        except np.linalg.LinAlgError:
            raise InvalidArgument("Input matrix is not invertible.") from None

    return run


@kernel("MatrixTriangularSolve", shape=_solve_shape)
def _matrix_triangular_solve(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    adjointed, lower = bool(node.attr("adjoint")), bool(node.attr("lower"))

    def run(matrix: Any, rhs: Any) -> Any:
        for index, value in enumerate((matrix, rhs)):
            if value.ndim < 2:
                raise InvalidArgument(f"In[{index}] ndims must be >= 2: {value.ndim}")
        if matrix.shape[-1] != matrix.shape[-2]:
            raise InvalidArgument("In[0] matrices in the last dimensions must be square "
                                  f"({matrix.shape[-1]} =/= {matrix.shape[-2]})")
        if not broadcasts(matrix.shape[:-2], rhs.shape[:-2]):
            raise InvalidArgument("In[0] and In[1] must have compatible batch dimensions: "
                                  f"{format_shape(matrix.shape)} vs. {format_shape(rhs.shape)}")
        if matrix.shape[-1] != rhs.shape[-2]:
            raise InvalidArgument(f"In[0] mismatch In[1] shape: {matrix.shape[-1]} vs. {rhs.shape[-2]}: "
                                  f"{format_shape(matrix.shape)} {format_shape(rhs.shape)} {int(lower)} "
                                  f"{int(adjointed)}")
        value = xp.tril(types.widen(matrix)) if lower else xp.triu(types.widen(matrix))
        is_lower = lower
        if adjointed:
            value, is_lower = adjoint(value), not lower
        return types.narrow(substitute(xp, value, types.widen(rhs), is_lower))

    return run


_BLOCK = 64
"""Rows solved one by one before the rest is reduced by one matrix product."""


def substitute(xp: Any, matrix: Any, rhs: Any, lower: bool) -> Any:
    """Solve triangular systems by substitution, block by block.

    Parameters
    ----------
    matrix : array, shape (..., n, n)
        Triangular; nothing checks the other half. A zero on the diagonal gives infinities and NaN, no error.
    rhs : array, shape (..., n, k)
        Leading dimensions broadcast with the matrix's.
    """
    size = matrix.shape[-1]
    batch = xp.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-2])
    result = xp.array(xp.broadcast_to(rhs, (*batch, *rhs.shape[-2:])))
    blocks = [(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
    for start, stop in blocks if lower else reversed(blocks):
        rows = range(start, stop) if lower else range(stop - 1, start - 1, -1)
        for row in rows:
            done = slice(start, row) if lower else slice(row + 1, stop)
            known = xp.matmul(matrix[..., row:row + 1, done], result[..., done, :])
            result[..., row:row + 1, :] = (result[..., row:row + 1, :] - known) / matrix[..., row:row + 1, row:row + 1]
        rest = slice(stop, size) if lower else slice(0, start)
        result[..., rest, :] -= xp.matmul(matrix[..., rest, start:stop], result[..., start:stop, :])
    return result


# --- eigenvalues, singular values, QR --------------------------------------------------------------------------------


def _eigen_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None:
        return [None, None]
    return [shape[:-1], shape if node.attr("compute_v") else None]


@kernel("SelfAdjointEigV2", shape=_eigen_shape)
def _self_adjoint_eigen(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    with_vectors = bool(node.attr("compute_v"))

    def run(matrix: Any) -> Any:
        _check_matrix(matrix)
        if not with_vectors:
            return types.narrow(xp.linalg.eigvalsh(types.widen(matrix))), xp.zeros((), types.dtype)
        found, vectors = xp.linalg.eigh(types.widen(matrix))
        return types.narrow(found), types.narrow(vectors)

    return run


def _svd_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None:
        return [None, None, None]
    rows, columns = shape[-2:]
    least = None if rows is None or columns is None else min(rows, columns)
    if not node.attr("compute_uv"):
        return [(*shape[:-2], least), None, None]
    full = bool(node.attr("full_matrices"))
    return [(*shape[:-2], least), (*shape[:-2], rows, rows if full else least),
            (*shape[:-2], columns, columns if full else least)]


@kernel("Svd", shape=_svd_shape)
def _svd(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    with_vectors, full = bool(node.attr("compute_uv")), bool(node.attr("full_matrices"))

    def run(matrix: Any) -> Any:
        _check_matrix(matrix, square=False)
        value = types.widen(matrix)
        # LAPACK's iteration does not end where an entry is infinite.
        finite = xp.isfinite(value).all(axis=(-2, -1))
        value = xp.where(finite[..., None, None], value, 0)
        if not with_vectors:
            empty = xp.zeros((), types.dtype)
            s = xp.linalg.svd(value, compute_uv=False)
            return types.narrow(xp.where(finite[..., None], s, xp.nan)), empty, empty
        u, s, vh = xp.linalg.svd(value, full_matrices=full)
        u, vh = (xp.where(finite[..., None, None], vectors, xp.nan) for vectors in (u, vh))
        return types.narrow(xp.where(finite[..., None], s, xp.nan)), types.narrow(u), types.narrow(adjoint(vh))

    return run


def _qr_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if shape is None:
        return [None, None]
    rows, columns = shape[-2:]
    least = None if rows is None or columns is None else min(rows, columns)
    inner = rows if node.attr("full_matrices") else least
    return [(*shape[:-2], rows, inner), (*shape[:-2], inner, columns)]


@kernel("Qr", shape=_qr_shape)
def _qr(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    types = MatrixTypes(node, xp)
    mode = "complete" if node.attr("full_matrices") else "reduced"

    def run(matrix: Any) -> Any:
        _check_matrix(matrix, square=False)
        q, r = xp.linalg.qr(types.widen(matrix), mode)
        return types.narrow(q), types.narrow(r)

    return run
