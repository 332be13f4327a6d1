"""Sets: the last dimension of a tensor holds the members, the others say which set; and distances between sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.edit_distance import edit_distances
from runtime._ext.errors import InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown
from runtime.ops.sparse_indices import check_indices_valid, keys, sorted_order, unravel

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


def _distinct(numbers: Any) -> Any:
    """Return the distinct numbers in order; numpy's own function counts in a table here, which takes far longer."""
    ordered = np.sort(numbers)
    return ordered[np.concatenate([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])]


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "a-b": lambda a, b: np.setdiff1d(a, b, assume_unique=True),
    "b-a": lambda a, b: np.setdiff1d(b, a, assume_unique=True),
    "intersection": lambda a, b: np.intersect1d(a, b, assume_unique=True),
    "union": lambda a, b: _distinct(np.concatenate([a, b])),
}


class _Members:
    """The members of many sets: which set each is in, and the members themselves."""

    def __init__(self, groups: Any, values: Any, shape: tuple[int, ...]) -> None:
        self.groups = groups
        self.values = values
        self.shape = shape


def _from_dense(array: Any) -> _Members:
    if array.ndim < 2:
        raise InvalidArgument(f"Shape rank {array.ndim} < 2.")
    count = math.prod(array.shape[:-1])
    return _Members(np.repeat(np.arange(count), array.shape[-1]), array.reshape(-1), array.shape[:-1])


def _from_sparse(indices: Any, values: Any, shape: Any, *, validate: bool) -> _Members:
    if indices.ndim != 2:
        raise InvalidArgument(f"Expected indices to be a matrix, got shape {format_shape(indices.shape)}")
    if values.ndim != 1:
        raise InvalidArgument(f"Expected values to be a vector, got shape {format_shape(values.shape)}")
    if shape.ndim != 1:
        raise InvalidArgument(f"Expected shape to be a vector, got shape {format_shape(shape.shape)}")
    if indices.shape[0] != values.shape[0] or indices.shape[1] != shape.shape[0]:
        raise InvalidArgument(f"Indices of shape {format_shape(indices.shape)} do not fit {values.shape[0]} values in "
                              f"{shape.shape[0]} dimensions")
    dims = tuple(shape.tolist())
    if len(dims) < 2:
        raise InvalidArgument(f"Shape rank {len(dims)} < 2.")
    check_indices_valid(np, indices, dims, ordered=validate)
    groups, = keys(np, dims[:-1], indices[:, :-1])
    return _Members(groups, values, dims[:-1])


def _coded(*members: Any) -> tuple[Any, list[Any]]:
    """Return the distinct members of all in order, and for each argument the place of its members among them."""
    joined = np.concatenate(members)
    distinct, codes = np.unique(joined, return_inverse=True)
    cuts = np.cumsum([len(part) for part in members])[:-1]
    return distinct, np.split(codes.reshape(-1).astype(np.int64), cuts)


def _as_sparse(found: Any, distinct: Any, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Return sets, given as rising numbers of set and member, as a sparse tensor."""
    groups, codes = np.divmod(found, max(1, distinct.size))
    counts = np.bincount(groups, minlength=1)
    places = np.arange(groups.size) - (np.cumsum(counts) - counts)[groups]
    indices = np.concatenate([unravel(np, groups, shape), places[:, None]], axis=1)
    return indices, distinct[codes], np.array([*shape, int(counts.max(initial=0))], np.int64)


def _operate(operation: str, a: _Members, b: _Members) -> tuple[Any, Any, Any]:
    if a.shape != b.shape:
        raise InvalidArgument(f"Mismatched group shapes {format_shape(a.shape)} vs {format_shape(b.shape)}.")
    distinct, (a_codes, b_codes) = _coded(a.values, b.values)
    width = max(1, distinct.size)
    a_sets, b_sets = _distinct(a.groups * width + a_codes), _distinct(b.groups * width + b_codes)
    return _as_sparse(_OPERATIONS[operation](a_sets, b_sets), distinct, a.shape)


def _operation(node: Node) -> str:
    name: str = node.attr("set_operation").decode("utf-8", "replace").lower()
    if name not in _OPERATIONS:
        raise InvalidArgument(f"Invalid set_operation {name}.")
    return name


def _set_shapes(node: Node, shapes: Sequence[Any]) -> Sequence[Any]:
    return [(None, None), (None,), (None,)]


@kernel("DenseToDenseSetOperation", shape=_set_shapes, host=(0, 1))
def _dense_to_dense(node: Node, env: KernelEnv) -> Run:
    operation = _operation(node)
    return lambda a, b: _operate(operation, _from_dense(a), _from_dense(b))


@kernel("DenseToSparseSetOperation", shape=_set_shapes, host=(0, 1, 2, 3))
def _dense_to_sparse(node: Node, env: KernelEnv) -> Run:
    operation, validate = _operation(node), bool(node.attr("validate_indices"))
    return lambda a, *b: _operate(operation, _from_dense(a), _from_sparse(*b, validate=validate))


@kernel("SparseToSparseSetOperation", shape=_set_shapes, host=(0, 1, 2, 3, 4, 5))
def _sparse_to_sparse(node: Node, env: KernelEnv) -> Run:
    operation, validate = _operation(node), bool(node.attr("validate_indices"))
    return lambda *parts: _operate(operation, _from_sparse(*parts[:3], validate=validate),
                                   _from_sparse(*parts[3:], validate=validate))


@kernel("SetSize", shape=unknown, host=(0, 1, 2))
def _set_size(node: Node, env: KernelEnv) -> Run:
    validate = bool(node.attr("validate_indices"))

    def run(indices: Any, values: Any, shape: Any) -> Any:
        members = _from_sparse(indices, values, shape, validate=validate)
        distinct, (codes,) = _coded(members.values)
        width = max(1, distinct.size)
        groups = _distinct(members.groups * width + codes) // width
        count = math.prod(members.shape)
        return np.bincount(groups, minlength=count).astype(np.int32).reshape(members.shape)

    return run


# Sequences


@kernel("EditDistance", shape=unknown, host=(0, 1, 2, 3, 4, 5))
def _edit_distance(node: Node, env: KernelEnv) -> Run:
    normalize = bool(node.attr("normalize"))

    def run(a_indices: Any, a_values: Any, a_shape: Any, b_indices: Any, b_values: Any, b_shape: Any) -> Any:
        _check_sequences(a_indices, a_values, a_shape, b_indices, b_values, b_shape)
        dims = [max(left, right) for left, right in zip(a_shape.tolist()[:-1], b_shape.tolist()[:-1])]
        for name, indices in (("hypothesis", a_indices), ("truth", b_indices)):
            if indices.size and (int(indices.min()) < 0 or (indices[:, :-1] >= np.array(dims, np.int64)).any()):
                raise InvalidArgument(f"{name}_indices lie outside of the output's shape {format_shape(tuple(dims))}")
        count = math.prod(dims)
        _, codes = _coded(a_values, b_values)
        parts, lengths = [], []
        for indices, mine in ((a_indices, codes[0]), (b_indices, codes[1])):
            groups, = keys(np, dims, indices[:, :-1])
            order = sorted_order(np, groups)
            parts.append(mine if order is None else mine[order])
            lengths.append(np.bincount(groups, minlength=count).astype(np.int64))
        distances = edit_distances(parts[0], lengths[0], parts[1], lengths[1]).astype(np.float32)
        if normalize:
            truth = lengths[1].astype(np.float32)
            # Nothing against nothing is no distance; anything against nothing is infinitely far.
            distances = np.where(distances == 0, np.float32(0), distances / truth)
        return distances.astype(np.float32, copy=False).reshape(dims)

    return run


def _check_sequences(a_indices: Any, a_values: Any, a_shape: Any, b_indices: Any, b_values: Any, b_shape: Any) -> None:
    for name, indices, values, shape in (("hypothesis", a_indices, a_values, a_shape),
                                         ("truth", b_indices, b_values, b_shape)):
        if indices.ndim != 2:
            raise InvalidArgument(f"{name}_indices should be a matrix, but got shape: {format_shape(indices.shape)}")
        if values.ndim != 1:
            raise InvalidArgument(f"{name}_values should be a vector, but got shape: {format_shape(values.shape)}")
        if shape.ndim != 1:
            raise InvalidArgument(f"{name}_shape should be a vector, but got shape: {format_shape(shape.shape)}")
        if indices.shape[0] != values.shape[0]:
            raise InvalidArgument(f"{name}_values has {values.shape[0]} elements, {name}_indices {indices.shape[0]} "
                                  "rows")
        if indices.shape[1] != shape.shape[0]:
            raise InvalidArgument(f"{name}_shape has {shape.shape[0]} elements, {name}_indices {indices.shape[1]} "
                                  "columns")
    if a_shape.shape != b_shape.shape or not a_shape.size:
        raise InvalidArgument("truth_shape and hypothesis_shape must have the same rank of at least 1, got "
                              f"{b_shape.size} and {a_shape.size}")
