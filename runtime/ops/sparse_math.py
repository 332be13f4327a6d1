"""Arithmetic of sparse tensors: products, reductions, sums and element-wise ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Internal, InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.row_sums import sum_rows
from runtime.ops.shapes import format_shape, like_input, unknown
from runtime.ops.sparse_indices import check_indices_valid, keys, sorted_order
from runtime.ops.sparse_tensors import check_sparse

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

def _accumulator(xp: Any, array: Any) -> Any:
    """Return 16-bit floats as float32: rounding would add up."""
    return array.astype(xp.float32) if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array


# Products


@kernel("SparseTensorDenseMatMul", shape=lambda node, shapes: [(None, None)])
def _sparse_dense_matmul(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    adjoint_a, adjoint_b = node.attr("adjoint_a"), node.attr("adjoint_b")

    def run(indices: Any, values: Any, shape: Any, b: Any) -> Any:
        _check_matmul(indices, values, shape, b)
        rows, columns = (int(item) for item in shape)
        inner_a, inner_b = rows if adjoint_a else columns, b.shape[1 if adjoint_b else 0]
        if inner_a != inner_b:
            raise InvalidArgument(f"Cannot multiply A and B because inner dimension does not match: {inner_a} vs. "
                                  f"{inner_b}.  Did you forget a transpose?  Dimensions of A: [{rows}, {columns}).  "
                                  f"Dimensions of B: {format_shape(b.shape)}")
        height = columns if adjoint_a else rows
        out, inner = (indices[:, 1], indices[:, 0]) if adjoint_a else (indices[:, 0], indices[:, 1])
        for name, array, column, limit in (("k", inner, 0 if adjoint_a else 1, inner_b),
                                           ("m", out, 1 if adjoint_a else 0, height)):
            bad = (array < 0) | (array >= limit)
            if bool(bad.any()):
                place = int(xp.argmax(bad))
                raise InvalidArgument(f"{name} ({int(array[place])}) from index[{place},{column}] out of bounds "
                                      f"(>={limit})")
        if values.dtype.kind == "c":
            values = values.conj() if adjoint_a else values
            b = b.conj() if adjoint_b else b
        return sum_rows(xp, height, out, b.T if adjoint_b else b, inner, values).astype(values.dtype, copy=False)

    return run


def _check_matmul(indices: Any, values: Any, shape: Any, b: Any) -> None:
    if b.ndim != 2:
        raise InvalidArgument("Tensor 'b' is not a matrix")
    if shape.ndim != 1:
        raise InvalidArgument("Tensor 'a_shape' is not a vector")
    if shape.shape[0] != 2:
        raise InvalidArgument("Tensor 'a_shape' must have 2 elements")
    if values.ndim != 1:
        raise InvalidArgument("Tensor 'a_values' is not a vector")
    if indices.ndim != 2:
        raise InvalidArgument("Tensor 'a_indices' is not a matrix")
    if indices.shape[0] != values.shape[0]:
        raise InvalidArgument("Number of rows of a_indices does not match number of entries in a_values")
    if indices.shape[1] != shape.shape[0]:
        raise InvalidArgument("Number of columns of a_indices does not match number of entries in a_shape")


@kernel("SparseMatMul", shape=lambda node, shapes: [(None, None)])
def _sparse_matmul(node: Node, env: KernelEnv) -> Run:
    """Multiply dense matrices of which one is said to hold many zeros; nothing is gained from them here."""
    xp = env.xp
    transpose_a, transpose_b = node.attr("transpose_a"), node.attr("transpose_b")

    def run(a: Any, b: Any) -> Any:
        for name, matrix in (("a", a), ("b", b)):
            if matrix.ndim != 2:
                raise InvalidArgument(f"{name} is not a matrix")
        left = (a.T if transpose_a else a).astype(xp.float32, copy=False)
        right = (b.T if transpose_b else b).astype(xp.float32, copy=False)
        if left.shape[1] != right.shape[0]:
            raise InvalidArgument(f"Matrix size incompatible: a: {format_shape(a.shape)}, b: {format_shape(b.shape)}")
        return xp.matmul(left, right)

    return run


# Reductions


def _groups(xp: Any, indices: Any, dims: Sequence[int], axes: Any) -> tuple[list[int], Any]:
    """Return the axes that stay, and for each entry the number of its group in the reduced shape."""
    rank = len(dims)
    reduced = set()
    for axis in axes.reshape(-1).tolist():
        if not -rank <= axis < rank:
            raise InvalidArgument(f"Invalid reduction dimension {axis}, for input with {rank} dimensions.")
        reduced.add(axis % rank)
    kept = [axis for axis in range(rank) if axis not in reduced]
    numbers, = keys(xp, [dims[axis] for axis in kept], indices[:, kept])
    return kept, numbers


def _reduced(xp: Any, name: str, numbers: Any, values: Any) -> tuple[Any, Any]:
    """Return the groups that have entries, rising, and what their values come to."""
    order = sorted_order(xp, numbers)
    if order is not None:
        numbers, values = numbers[order], values[order]
    if not numbers.size:
        return numbers, values
    starts = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), numbers[1:] != numbers[:-1]]))
    wide = _accumulator(xp, values) if name == "Sum" else values
    totals = (xp.add if name == "Sum" else xp.maximum).reduceat(wide, starts)
    return numbers[starts], totals.astype(values.dtype, copy=False)


def _check_reduction(xp: Any, indices: Any, values: Any, shape: Any) -> None:
    check_sparse(indices, values, shape)
    check_indices_valid(xp, indices, shape.tolist(), ordered=False)


def _register_reduction(name: str) -> None:
    @kernel(f"SparseReduce{name}", shape=unknown, host=(2, 3))
    def dense(node: Node, env: KernelEnv) -> Run:
        xp, keep = env.xp, node.attr("keep_dims")

        def run(indices: Any, values: Any, shape: Any, axes: Any) -> Any:
            _check_reduction(xp, indices, values, shape)
            dims = shape.tolist()
            kept, numbers = _groups(xp, indices, dims, axes)
            size = math.prod(dims[axis] for axis in kept)
            result = xp.zeros(size, values.dtype)
            found, totals = _reduced(xp, name, numbers, values)
            result[found] = totals
            return result.reshape([dim if axis in kept else 1 for axis, dim in enumerate(dims)] if keep
                                  else [dims[axis] for axis in kept])

        return run

    @kernel(f"SparseReduce{name}Sparse", shape=lambda node, shapes: [(None, None), (None,), (None,)], host=(2, 3))
    def sparse(node: Node, env: KernelEnv) -> Run:
        xp, keep = env.xp, node.attr("keep_dims")

        def run(indices: Any, values: Any, shape: Any, axes: Any) -> tuple[Any, Any, Any]:
            _check_reduction(xp, indices, values, shape)
            dims = shape.tolist()
            kept, numbers = _groups(xp, indices, dims, axes)
            order = sorted_order(xp, numbers)
            ordered = numbers if order is None else numbers[order]
            found, totals = _reduced(xp, name, numbers, values)
            starts = xp.searchsorted(ordered, found)
            rows = starts if order is None else order[starts]
            if keep:
                positions = indices[rows]
                positions[:, [axis for axis in range(len(dims)) if axis not in kept]] = 0
                target = [dim if axis in kept else 1 for axis, dim in enumerate(dims)]
            else:
                positions, target = indices[rows][:, kept], [dims[axis] for axis in kept]
            return positions, totals, xp.asarray(target, dtype=xp.int64)

        return run


for _name in ("Sum", "Max"):
    _register_reduction(_name)


@kernel("SparseSoftmax", shape=like_input(1))
def _sparse_softmax(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, values: Any, shape: Any) -> Any:
        check_sparse(indices, values, shape)
        dims = shape.tolist()
        if len(dims) < 2:
            raise InvalidArgument(f"Input should have rank >= 2, but received shape: "
                                  f"{','.join(map(str, dims))}")
        check_indices_valid(xp, indices, dims, ordered=False)
        if not values.size:
            return values
        numbers, = keys(xp, dims[:-1], indices[:, :-1])
        order = sorted_order(xp, numbers)
        if order is not None:
            numbers, values = numbers[order], values[order]
        starts = xp.concatenate([xp.ones(1, bool), numbers[1:] != numbers[:-1]])
        group = xp.cumsum(starts) - 1
        begins = xp.flatnonzero(starts)
        wide = _accumulator(xp, values)
        powers = xp.exp(wide - xp.maximum.reduceat(wide, begins)[group])
        result = (powers / xp.add.reduceat(powers, begins)[group]).astype(values.dtype, copy=False)
        if order is None:
            return result
        restored = xp.empty_like(result)
        restored[order] = result
        return restored

    return run


# Two sparse tensors


def _merge(xp: Any, dims: Sequence[int], a_indices: Any, b_indices: Any) -> tuple[Any, Any, Any]:
    """Return the positions of either tensor in order, and where the entries of each one went."""
    a_keys, b_keys = keys(xp, dims, a_indices, b_indices)
    both = xp.concatenate([a_keys, b_keys])
    found, first, places = xp.unique(both, return_index=True, return_inverse=True)
    places = places.reshape(-1)
    joined = xp.concatenate([a_indices, b_indices])
    return joined[first], places[:a_keys.size], places[a_keys.size:]


def _both(a: Any, b: Any) -> str:
    return f"{format_shape(a.shape)} and {format_shape(b.shape)}"


def _check_pair(a: Sequence[Any], b: Sequence[Any]) -> list[int]:
    """Check two sparse tensors of one shape, and return it."""
    (a_indices, a_values, a_shape), (b_indices, b_values, b_shape) = a, b
    if a_indices.ndim != 2 or b_indices.ndim != 2:
        raise InvalidArgument(f"Input indices should be matrices but received shapes: {_both(a_indices, b_indices)}")
    if a_values.ndim != 1 or b_values.ndim != 1:
        raise InvalidArgument(f"Input values should be vectors but received shapes: {_both(a_values, b_values)}")
    if a_shape.ndim != 1 or b_shape.ndim != 1:
        raise InvalidArgument(f"Input shapes should be a vector but received shapes {_both(a_shape, b_shape)}")
    counts, sizes = (a_indices.shape[0], b_indices.shape[0]), (a_values.shape[0], b_values.shape[0])
    if counts != sizes:
        raise InvalidArgument(f"Expected {counts[0]} and {counts[1]} non-empty input values, got {sizes[0]} and "
                              f"{sizes[1]}")
    for indices, shape in ((a_indices, a_shape), (b_indices, b_shape)):
        if indices.shape[1] != shape.shape[0]:
            raise InvalidArgument(f"Index rank ({indices.shape[1]}) and shape rank ({shape.shape[0]}) do not match")
    return _same_dims(a_shape, b_shape)


def _same_dims(a_shape: Any, b_shape: Any) -> list[int]:
    a_dims: list[int] = a_shape.tolist()
    b_dims: list[int] = b_shape.tolist()
    if len(a_dims) != len(b_dims):
        raise InvalidArgument(f"Operands should have the same ranks; got shapes: {format_shape(tuple(a_dims))} and "
                              f"{format_shape(tuple(b_dims))}")
    for axis, (left, right) in enumerate(zip(a_dims, b_dims)):
        if left != right:
            raise InvalidArgument(f"Operands' shapes do not match: got {left} and {right} for dimension {axis}")
    return a_dims


@kernel("SparseAdd", shape=lambda node, shapes: [(None, None), (None,), shapes[2]])
def _sparse_add(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(a_indices: Any, a_values: Any, a_shape: Any, b_indices: Any, b_values: Any, b_shape: Any,
            threshold: Any) -> tuple[Any, Any, Any]:
        dims = _check_pair((a_indices, a_values, a_shape), (b_indices, b_values, b_shape))
        if threshold.ndim:
            raise InvalidArgument("The magnitude threshold must be a scalar: got shape "
                                  f"{format_shape(threshold.shape)}")
        positions, a_places, b_places = _merge(xp, dims, a_indices, b_indices)
        total = xp.zeros(positions.shape[0], a_values.dtype)
        total[a_places] = a_values
        total[b_places] += b_values
        common = xp.zeros(total.shape, bool)
        common[a_places] = True
        common &= xp.isin(xp.arange(total.size), b_places)
        kept = ~common | (xp.abs(total) >= threshold)  # what only one of them has is kept, however small
        if not bool(kept.all()):
            positions, total = positions[kept], total[kept]
        return positions, total, a_shape

    return run


@kernel("SparseAddGrad", shape=lambda node, shapes: [
    None if not shapes[1] else shapes[1][:1], None if not shapes[2] else shapes[2][:1]])
def _sparse_add_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(grad: Any, a_indices: Any, b_indices: Any, sum_indices: Any) -> tuple[Any, Any]:
        if a_indices.ndim != 2 or b_indices.ndim != 2 or sum_indices.ndim != 2:
            raise InvalidArgument("Input indices should be matrices but received shapes: "
                                  f"{_both(a_indices, b_indices)} and {format_shape(sum_indices.shape)}")
        if grad.ndim != 1:
            raise InvalidArgument(f"Input backprop_val_grad should be a vector but received shape: "
                                  f"{format_shape(grad.shape)}")
        rank = a_indices.shape[1]
        if b_indices.shape[1] != rank or sum_indices.shape[1] != rank:
            raise InvalidArgument("The densified operands should have the same ndims; for A, B, sum got: "
                                  f"{rank}{b_indices.shape[1]}{sum_indices.shape[1]}")
        if grad.size != sum_indices.shape[0]:
            raise InvalidArgument(f"# elements of backprop_val_grad and # rows of sum_indices should match (#nnz of "
                                  f"sum): got {grad.size} and {sum_indices.shape[0]}")
        dims = [1 + max((int(part[:, axis].max()) for part in (a_indices, b_indices, sum_indices) if part.size),
                        default=0) for axis in range(rank)]
        a_keys, b_keys, sum_keys = keys(xp, dims, a_indices, b_indices, sum_indices)
        order = sorted_order(xp, sum_keys)
        if order is not None:
            sum_keys, grad = sum_keys[order], grad[order]
        return _looked_up(xp, sum_keys, grad, a_keys), _looked_up(xp, sum_keys, grad, b_keys)

    return run


@kernel("SparseSliceGrad", shape=lambda node, shapes: [None if not shapes[1] else shapes[1][:1]])
def _sparse_slice_grad(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(grad: Any, indices: Any, start: Any, out_indices: Any) -> Any:
        _check_slice_grad(grad, indices, start, out_indices)
        moved = out_indices + start
        dims = [1 + max((int(part[:, axis].max()) for part in (indices, moved) if part.size), default=0)
                for axis in range(indices.shape[1])]
        wanted, known = keys(xp, dims, indices, moved)
        order = sorted_order(xp, known)
        if order is not None:
            known, grad = known[order], grad[order]
        used = int(xp.isin(known, wanted).sum())
        if used < grad.size:
            raise Internal("Elements of backprop_val_grad aren't all propagated. Num elements:"
                           f"{grad.size}, used: {used}")
        return _looked_up(xp, known, grad, wanted)

    return run


def _check_slice_grad(grad: Any, indices: Any, start: Any, out_indices: Any) -> None:
    if indices.ndim != 2 or out_indices.ndim != 2:
        raise InvalidArgument(f"Input indices should be matrices but received shapes: {_both(indices, out_indices)}")
    if grad.ndim != 1:
        raise InvalidArgument("Input backprop_val_grad should be a vector but received shape: "
                              f"{format_shape(grad.shape)}")
    if start.ndim != 1:
        raise InvalidArgument(f"Input starts should be a vector but received shape: {format_shape(start.shape)}")
    rank = indices.shape[1]
    if out_indices.shape[1] != rank:
        raise InvalidArgument(f"The input and output should have the same ndims: got: {rank} and "
                              f"{out_indices.shape[1]}")
    if out_indices.shape[0] > indices.shape[0]:
        raise InvalidArgument("# rows of output_indices should be not greater than of input_indices, got "
                              f"{out_indices.shape[0]} and {indices.shape[0]}")
    if grad.size != out_indices.shape[0]:
        raise InvalidArgument("# elements of backprop_val_grad and # rows of output_indices should match (#nnz of "
                              f"sum): got {grad.size} and {out_indices.shape[0]}")
    if start.size != rank:
        raise InvalidArgument(f"input_start has {start.size} elements, the tensor {rank} dimensions")


def _looked_up(xp: Any, known: Any, values: Any, wanted: Any) -> Any:
    """Return for each wanted key the value of the equal one among rising known keys, else 0."""
    if not known.size:
        return xp.zeros(wanted.shape, values.dtype)
    places = xp.minimum(xp.searchsorted(known, wanted), known.size - 1)
    return xp.where(known[places] == wanted, values[places], values.dtype.type(0))


def _register_extremum(op: str, ufunc_name: str) -> None:
    @kernel(op, shape=lambda node, shapes: [(None, None), (None,)])
    def bind(node: Node, env: KernelEnv) -> Run:
        xp = env.xp
        ufunc = getattr(xp, ufunc_name)

        def run(a_indices: Any, a_values: Any, a_shape: Any, b_indices: Any, b_values: Any,
                b_shape: Any) -> tuple[Any, Any]:
            check_sparse(a_indices, a_values, a_shape)
            check_sparse(b_indices, b_values, b_shape)
            dims = _same_dims(a_shape, b_shape)
            positions, a_places, b_places = _merge(xp, dims, a_indices, b_indices)
            left = xp.zeros(positions.shape[0], a_values.dtype)
            right = xp.zeros(positions.shape[0], a_values.dtype)
            left[a_places], right[b_places] = a_values, b_values
            return positions, ufunc(left, right)

        return run


_register_extremum("SparseSparseMaximum", "maximum")
_register_extremum("SparseSparseMinimum", "minimum")


# A sparse tensor and a dense one


def _register_cwise(name: str, ufunc_name: str) -> None:
    @kernel(f"SparseDenseCwise{name}", shape=like_input(1))
    def bind(node: Node, env: KernelEnv) -> Run:
        xp = env.xp
        ufunc = getattr(xp, ufunc_name)

        def run(indices: Any, values: Any, shape: Any, dense: Any) -> Any:
            check_sparse(indices, values, shape)
            dims = shape.tolist()
            fits = dense.ndim <= len(dims) and all(
                have in (1, want) for have, want in zip(dense.shape[::-1], dims[::-1]))
            if not fits:
                raise InvalidArgument("SparseDenseBinaryOpShared broadcasts dense to sparse only; got incompatible "
                                      f"shapes: [{','.join(map(str, dims))}] vs. "
                                      f"[{','.join(map(str, dense.shape))}]")
            check_indices_valid(xp, indices, dims, ordered=False)
            offset = len(dims) - dense.ndim
            picked = dense[tuple(indices[:, offset + axis] if dim != 1 else 0
                                 for axis, dim in enumerate(dense.shape))]
            if name == "Div" and values.dtype.kind in "iu":
                return _quotient(xp, values, picked)
            return ufunc(values, picked).astype(values.dtype, copy=False)

        return run


def _quotient(xp: Any, values: Any, divisors: Any) -> Any:
    """Divide integers with truncation toward zero."""
    if bool((xp.asarray(divisors) == 0).any()):
        raise InvalidArgument("SparseDenseCwiseDiv cannot divide by zero,but input dense tensor contains zero ")
    quotient = values // divisors
    return quotient + ((values % divisors != 0) & ((values < 0) != (divisors < 0))).astype(values.dtype)


for _name, _ufunc_name in (("Mul", "multiply"), ("Add", "add"), ("Div", "divide")):
    _register_cwise(_name, _ufunc_name)


@kernel("SparseTensorDenseAdd", shape=like_input(3))
def _sparse_dense_add(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(indices: Any, values: Any, shape: Any, b: Any) -> Any:
        check_sparse(indices, values, shape)
        dims = tuple(shape.tolist())
        if len(dims) != b.ndim:
            raise InvalidArgument(f"Two operands have different ranks; received: {len(dims)} and {b.ndim}")
        for axis, (left, right) in enumerate(zip(dims, b.shape)):
            if left != right:
                raise InvalidArgument(f"Dimension {axis} does not equal (no broadcasting is supported): sparse side "
                                      f"{left} vs dense side {right}")
        bad = (indices < 0) | (indices >= xp.asarray(dims, dtype=indices.dtype))
        if bool(bad.any()):
            row, axis = (int(item) for item in xp.argwhere(bad)[0])
            raise InvalidArgument(f"Sparse tensor has an invalid index on dimension {axis}: a_indices({row},{axis}) = "
                                  f"{int(indices[row, axis])}, dense tensor shape: {' '.join(map(str, b.shape))}")
        result = xp.array(b, order="C", copy=True)
        if values.size:
            numbers, = keys(xp, dims, indices)
            xp.add.at(result.reshape(-1), numbers, values)
        return result

    return run
