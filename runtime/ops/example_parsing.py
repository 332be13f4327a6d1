"""Parsing of Examples: one or a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.example_codec import ExampleFault
from runtime.dtypes import DataType, base
from runtime.ops.example_features import (
    DenseFeature,
    ParserPool,
    check_default,
    dense,
    dense_shape,
    mistyped,
    ragged,
    sparse,
)
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.transfer import on_device

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__ = ["ExamplePlan"]

Run = Callable[..., Any]


class ExamplePlan:
    """What a node asks for: features by key, in the order of its outputs."""

    def __init__(self, node: Node, sparse_keys: Sequence[bytes], dense_keys: Sequence[bytes],
                 ragged_keys: Sequence[bytes]) -> None:
        self.sparse_types = [base(kind) for kind in node.attr("sparse_types")]
        self.dense_types = [base(kind) for kind in node.attr("Tdense")]
        self.ragged_types: list[DataType] = []
        self.split_types: list[DataType] = []
        if node.op in ("ParseExampleV2", "ParseExampleDatasetV2"):
            self.ragged_types = [base(kind) for kind in node.attr("ragged_value_types")]
            self.split_types = [base(kind) for kind in node.attr("ragged_split_types")]
        for name, keys, types in (("sparse_keys", sparse_keys, self.sparse_types),
                                  ("dense_keys", dense_keys, self.dense_types),
                                  ("ragged_keys", ragged_keys, self.ragged_types)):
            if len(keys) != len(types):
                raise InvalidArgument(f"len({name}) != len({name.replace('keys', 'types')}): {len(keys)} vs. "
                                      f"{len(types)}")
        shapes = node.attr("dense_shapes")
        if len(shapes) != len(dense_keys):
            raise InvalidArgument(f"len(dense_keys) != len(dense_shapes): {len(dense_keys)} vs. {len(shapes)}")
        self.features = [DenseFeature(key, kind, dense_shape(shape))
                         for key, kind, shape in zip(dense_keys, self.dense_types, shapes, strict=True)]
        self.keys = [*sparse_keys, *dense_keys, *ragged_keys]
        self.types = [*self.sparse_types, *self.dense_types, *self.ragged_types]
        self.pool = ParserPool(self.keys, self.types)

    def run(self, serialized: list[bytes], names: Sequence[bytes], defaults: Sequence[Any],
            single: bool = False) -> list[Any]:
        """Return the outputs: all indices, values and shapes of sparse features, the dense ones, ragged values and
        splits."""
        for number, (feature, default) in enumerate(zip(self.features, defaults, strict=True)):
            check_default(feature, number, default)
        try:
            counts, values, *_ = self.pool.parse(serialized)
        except ExampleFault as fault:
            first = len(self.sparse_types)
            raise mistyped(fault, self.keys, self.types, names, range(first, first + len(self.features)),
                           single) from None
        first, second = len(self.sparse_types), len(self.sparse_types) + len(self.features)
        triples = [sparse(counts[place], values[place]) for place in range(first)]
        dense_values = [dense(feature, counts[first + place], values[first + place], default, names, single)
                        for place, (feature, default) in enumerate(zip(self.features, defaults, strict=True))]
        pairs = [ragged(counts[second + place], values[second + place], kind)
                 for place, kind in enumerate(self.split_types)]
        if single:
            triples = [(indices[:, 1:], items, shape[1:]) for indices, items, shape in triples]
            dense_values = [value.reshape(value.shape[1:]) for value in dense_values]
            pairs = [(items, splits[:0]) for items, splits in pairs]  # one row has nothing to be told apart from
        return [*(part[0] for part in triples), *(part[1] for part in triples), *(part[2] for part in triples),
                *dense_values, *(part[0] for part in pairs), *(part[1] for part in pairs)]


class _KeptPlan:
    """The plan of a node whose keys are inputs: they hardly ever change."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: tuple[Any, ExamplePlan] | None = None

    def get(self, *keys: Sequence[bytes]) -> ExamplePlan:
        last = self._last
        if last is None or last[0] != keys:
            self._last = last = (keys, ExamplePlan(self._node, *keys))
        return last[1]


def _shapes(node: Node, batch: tuple[int | None, ...], sparse_rank: int, num_ragged: int) -> list[Shape]:
    count = len(node.attr("sparse_types"))
    dense_shapes = [None if shape is None else (*batch, *shape) for shape in node.attr("dense_shapes")]
    return [*[(None, sparse_rank)] * count, *[(None,)] * count, *[(sparse_rank,)] * count, *dense_shapes,
            *[(None,)] * (2 * num_ragged)]


def _v2_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if shapes[0] is None:
        return [None] * len(node.output_types)
    num_ragged = len(node.attr("ragged_value_types"))
    return _shapes(node, shapes[0], 1 + len(shapes[0]), num_ragged)


@kernel("ParseExampleV2", shape=_v2_shape, host=(0, 1, 2, 3, 4))
def _parse_example_v2(node: Node, env: KernelEnv) -> Run:
    xp, plans = env.xp, _KeptPlan(node)

    def run(serialized: Any, names: Any, sparse_keys: Any, dense_keys: Any, ragged_keys: Any,
            *defaults: Any) -> list[Any]:
        if serialized.ndim > 1:
            raise InvalidArgument("Expected serialized to be a scalar or vector, got shape: "
                                  f"{format_shape(serialized.shape)}")
        _check_names(names, serialized)
        for name, keys in (("dense_keys", dense_keys), ("sparse_keys", sparse_keys), ("ragged_keys", ragged_keys)):
            if keys.ndim != 1:
                raise InvalidArgument(f"Expected {name} to be a vector, got shape: {format_shape(keys.shape)}")
        plan = plans.get(sparse_keys.tolist(), dense_keys.tolist(), ragged_keys.tolist())
        single = serialized.ndim == 0
        outputs = plan.run(serialized.reshape(-1).tolist(), names.reshape(-1).tolist(), defaults, single)
        return on_device(xp, outputs)

    return run


def _check_names(names: Any, serialized: Any) -> None:
    if names.size and names.shape != serialized.shape:
        raise InvalidArgument("Expected names have the same shape as serialized: name.shape="
                              f"{format_shape(names.shape)}, serialized.shape={format_shape(serialized.shape)}")


def _v1_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return _shapes(node, (shapes[0] or (None,))[:1], 2, 0)


@kernel("ParseExample", shape=_v1_shape, host=tuple(range(256)))
def _parse_example(node: Node, env: KernelEnv) -> Run:
    xp, plans = env.xp, _KeptPlan(node)
    num_sparse, num_dense = node.attr("Nsparse"), node.attr("Ndense")

    def run(serialized: Any, names: Any, *rest: Any) -> list[Any]:
        if serialized.ndim != 1:
            raise InvalidArgument("Expected serialized to be a vector, got shape: "
                                  f"{format_shape(serialized.shape)}")
        _check_names(names, serialized)
        keys = []
        for name, arrays in (("sparse_keys", rest[:num_sparse]), ("dense_keys", rest[num_sparse:][:num_dense])):
            for number, array in enumerate(arrays):
                if array.ndim:
                    raise InvalidArgument(f"Expected {name}[{number}] to be a scalar, got shape: "
                                          f"{format_shape(array.shape)}")
            keys.append([array.item() for array in arrays])
        plan = plans.get(*keys, [])
        outputs = plan.run(serialized.tolist(), names.reshape(-1).tolist(), rest[num_sparse + num_dense:])
        return on_device(xp, outputs)

    return run


@kernel("ParseSingleExample", shape=lambda node, shapes: _shapes(node, (), 1, 0), host=(0,))
def _parse_single_example(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    plan = ExamplePlan(node, node.attr("sparse_keys"), node.attr("dense_keys"), [])

    def run(serialized: Any, *defaults: Any) -> list[Any]:
        if serialized.ndim:
            raise InvalidArgument(f"Expected serialized to be a scalar, got shape: {format_shape(serialized.shape)}")
        return on_device(xp, plan.run([serialized.item()], [], defaults, single=True))

    return run
