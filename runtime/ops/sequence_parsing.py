"""Parsing of SequenceExamples: a context as an Example has it, and lists of features that go on from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    name_of,
    places_within,
    ragged,
    sparse,
    splits_of,
    text_of,
)
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, unknown
from runtime.ops.transfer import on_device

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


class _Keys:
    """The keys of a node by kind of feature; the fourth to sixth are those of feature lists."""

    __slots__ = ("context_dense", "context_ragged", "context_sparse", "list_dense", "list_ragged", "list_sparse")

    def __init__(self, *keys: Sequence[bytes]) -> None:
        (self.context_sparse, self.context_dense, self.context_ragged, self.list_sparse, self.list_dense,
         self.list_ragged) = map(list, keys)


class _Plan:
    """What a node asks for, in the order of its outputs."""

    def __init__(self, node: Node, keys: _Keys) -> None:
        self.keys = keys
        self.context_sparse_types = _types(node, "context_sparse_types")
        self.context_dense_types = _types(node, "Tcontext_dense")
        self.context_ragged_types = _types(node, "context_ragged_value_types")
        self.context_splits = _types(node, "context_ragged_split_types")
        self.list_sparse_types = _types(node, "feature_list_sparse_types")
        self.list_dense_types = _types(node, "feature_list_dense_types")
        self.list_ragged_types = _types(node, "feature_list_ragged_value_types")
        self.list_splits = _types(node, "feature_list_ragged_split_types")
        for name, types in (("context_sparse", self.context_sparse_types), ("context_dense", self.context_dense_types),
                            ("context_ragged", self.context_ragged_types), ("list_sparse", self.list_sparse_types),
                            ("list_dense", self.list_dense_types), ("list_ragged", self.list_ragged_types)):
            found: list[bytes] = getattr(keys, name)
            if len(found) != len(types):
                full = name.replace("list", "feature_list")
                raise InvalidArgument(f"len({full}_keys) != len({full}_types): {len(found)} vs. {len(types)}")
        self.context_features = _features(node, "context_dense_shapes", keys.context_dense, self.context_dense_types)
        self.list_features = _features(node, "feature_list_dense_shapes", keys.list_dense, self.list_dense_types)
        self.all_keys = [*keys.context_sparse, *keys.context_dense, *keys.context_ragged]
        self.list_keys = [*keys.list_sparse, *keys.list_dense, *keys.list_ragged]
        self.all_types = [*self.context_sparse_types, *self.context_dense_types, *self.context_ragged_types]
        self.list_types = [*self.list_sparse_types, *self.list_dense_types, *self.list_ragged_types]
        self.pool = ParserPool(self.all_keys, self.all_types, self.list_keys, self.list_types)

    def run(self, serialized: list[bytes], names: Sequence[bytes], defaults: Sequence[Any], may_lack: Sequence[bool],
            single: bool = False) -> list[Any]:
        """Return the outputs.

        Parameters
        ----------
        may_lack : sequence of bool
            For each dense feature list whether one that is missing counts as empty.
        """
        for number, (feature, default) in enumerate(zip(self.context_features, defaults, strict=True)):
            check_default(feature, number, default)
        try:
            counts, values, frames, frame_counts, list_values = self.pool.parse(serialized)
        except ExampleFault as fault:
            first = len(self.context_sparse_types)
            mine = self._of_ragged(fault, names)
            if mine is not None:
                raise mine from None
            raise mistyped(fault, [*self.all_keys, *self.list_keys], [*self.all_types, *self.list_types], names,
                           range(first, first + len(self.context_features))) from None
        outputs = self._context(counts, values, names, defaults, single)
        return outputs + self._lists(frames, frame_counts, list_values, names, may_lack, single)

    def _of_ragged(self, fault: ExampleFault, names: Sequence[bytes]) -> InvalidArgument | None:
        """Return the error for a ragged feature of another type, which has words of its own; None for the others."""
        keys, kinds = [*self.all_keys, *self.list_keys], [*self.all_types, *self.list_types]
        count = len(self.all_keys)
        if count - len(self.context_ragged_types) <= fault.feature < count:
            place = f"Context feature: {text_of(keys[fault.feature])}.  "
        elif fault.feature >= len(keys) - len(self.list_ragged_types):
            place = f"Feature list: {text_of(keys[fault.feature])}, Index: {fault.example}.  "
        else:
            return None
        return InvalidArgument(f"Name: {name_of(names, fault.example)}, {place}Data types don't match. Expected type: "
                               f"{kinds[fault.feature].label}")

    def _context(self, counts: Any, values: list[Any], names: Sequence[bytes], defaults: Sequence[Any],
                 single: bool) -> list[Any]:
        first = len(self.context_sparse_types)
        second = first + len(self.context_features)
        triples = [sparse(counts[place], values[place]) for place in range(first)]
        dense_values = [dense(feature, counts[first + place], values[first + place], default, names)
                        for place, (feature, default) in enumerate(zip(self.context_features, defaults, strict=True))]
        pairs = [ragged(counts[second + place], values[second + place], kind)
                 for place, kind in enumerate(self.context_splits)]
        if single:
            triples = [(indices[:, 1:], items, shape[1:]) for indices, items, shape in triples]
            dense_values = [value.reshape(value.shape[1:]) for value in dense_values]
            pairs = [(items, splits[1:].reshape(())) for items, splits in pairs]  # one row: where it ends
        return [*_by_part(triples, 3), *dense_values, *_by_part(pairs, 2)]

    def _lists(self, frames: Any, frame_counts: list[Any], values: list[Any], names: Sequence[bytes],
               may_lack: Sequence[bool], single: bool) -> list[Any]:
        first = len(self.list_sparse_types)
        second = first + len(self.list_features)
        triples = [_sparse_list(frames[place], frame_counts[place], values[place]) for place in range(first)]
        pairs = []
        for place, (feature, lacking) in enumerate(zip(self.list_features, may_lack, strict=True), first):
            pairs.append(_dense_list(feature, frames[place], frame_counts[place], values[place], names, lacking))
        ragged_lists = [(values[place], splits_of(frames[place], kind), splits_of(frame_counts[place], kind))
                        for place, kind in enumerate(self.list_splits, second)]
        if single:
            triples = [(indices[:, 1:], items, shape[1:]) for indices, items, shape in triples]
            pairs = [(value[0], steps.reshape(())) for value, steps in pairs]
            ragged_lists = [(items, outer[1:].reshape(()), inner) for items, outer, inner in ragged_lists]
        return [*_by_part(triples, 3), *_by_part(pairs, 2), *_by_part(ragged_lists, 3)]


def _types(node: Node, name: str) -> list[DataType]:
    return [base(kind) for kind in node.attr(name, [])] if "ragged" in name else [
        base(kind) for kind in node.attr(name)]


def _features(node: Node, name: str, keys: Sequence[bytes], types: Sequence[DataType]) -> list[DenseFeature]:
    shapes = node.attr(name)
    if len(shapes) != len(keys):
        raise InvalidArgument(f"len({name}) is {len(shapes)}, there are {len(keys)} keys")
    return [DenseFeature(key, kind, dense_shape(shape)) for key, kind, shape in zip(keys, types, shapes, strict=True)]


def _by_part(groups: Sequence[tuple[Any, ...]], width: int) -> list[Any]:
    """Return the first parts of all groups, then the second ones, and so on."""
    return [group[part] for part in range(width) for group in groups]


def _sparse_list(frames: Any, counts: Any, values: Any) -> tuple[Any, Any, Any]:
    """Return a sparse tensor by example, step and place."""
    steps, present = np.maximum(frames, 0), np.maximum(counts, 0)
    owners = np.repeat(np.arange(frames.size), steps)
    indices = np.stack([np.repeat(owners, present), np.repeat(places_within(steps), present), places_within(present)],
                       axis=1)
    shape = [frames.size, int(steps.max(initial=0)), int(present.max(initial=0))]
    return indices, values, np.array(shape, np.int64)


def _dense_list(feature: DenseFeature, frames: Any, counts: Any, values: Any, names: Sequence[bytes],
                may_lack: bool) -> tuple[Any, Any]:
    """Return a list by example and step, padded at the end, and the number of steps of each example."""
    if not may_lack and (frames < 0).any():
        example = int((frames < 0).argmax())
        raise InvalidArgument(
            f"Name: {name_of(names, example)}, Feature list '{text_of(feature.key)}' is required but could not be "
            "found.  Did you mean to include it in feature_list_dense_missing_assumed_empty or "
            "feature_list_dense_defaults?")
    steps = np.maximum(frames, 0)
    owners, places = np.repeat(np.arange(frames.size), steps), places_within(steps)
    wrong = np.maximum(counts, 0) != feature.row_size
    if wrong.any():
        frame = int(wrong.argmax())
        raise InvalidArgument(
            f"Name: {name_of(names, int(owners[frame]))}, Key: {text_of(feature.key)}, Index: {int(places[frame])}.  "
            f"Number of {feature.datatype.label} values != expected.  values size: {max(0, int(counts[frame]))} but "
            f"output shape: {format_shape(feature.shape)}")
    shape: list[Any] = [frames.size, int(steps.max(initial=0)), *feature.shape]
    result = np.full(shape, b"", object) if feature.datatype is DataType.STRING else np.zeros(shape, values.dtype)
    result[owners, places] = values.reshape(-1, *shape[2:])
    return result, steps


def _check_batch(serialized: Any, names: Any) -> None:
    if serialized.ndim > 1:
        raise InvalidArgument(f"Expected serialized to be a scalar or vector, got shape: "
                              f"{format_shape(serialized.shape)}")
    if names.size and names.shape != serialized.shape:
        raise InvalidArgument(f"Expected names have the same shape as serialized: name.shape="
                              f"{format_shape(names.shape)}, serialized.shape={format_shape(serialized.shape)}")


@kernel("ParseSequenceExampleV2", shape=unknown, host=tuple(range(9)))
def _parse_sequence_v2(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    last: tuple[Any, _Plan] | None = None

    def run(serialized: Any, names: Any, *rest: Any) -> list[Any]:
        nonlocal last
        _check_batch(serialized, names)
        keys = [array.reshape(-1).tolist() for array in rest[:6]]
        kept = last
        if kept is None or kept[0] != keys:
            last = kept = (keys, _Plan(node, _Keys(*keys)))
        plan, may_lack, defaults = kept[1], rest[6], rest[7:]
        if may_lack.size != len(plan.list_features):
            raise InvalidArgument("Expected feature_list_dense_missing_assumed_empty to have one element for each of "
                                  f"the {len(plan.list_features)} dense feature lists, got {may_lack.size}")
        return on_device(xp, plan.run(serialized.reshape(-1).tolist(), names.reshape(-1).tolist(), defaults,
                                       may_lack.reshape(-1).tolist(), single=serialized.ndim == 0))

    return run


@kernel("ParseSequenceExample", shape=unknown, host=(0, 1))
def _parse_sequence(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    keys = _Keys(node.attr("context_sparse_keys"), node.attr("context_dense_keys"), [],
                 node.attr("feature_list_sparse_keys"), node.attr("feature_list_dense_keys"), [])
    plan = _Plan(node, keys)
    optional = set(node.attr("feature_list_dense_missing_assumed_empty"))
    may_lack = [key in optional for key in keys.list_dense]

    def run(serialized: Any, names: Any, *defaults: Any) -> list[Any]:
        _check_batch(serialized, names)
        return on_device(xp, plan.run(serialized.reshape(-1).tolist(), names.reshape(-1).tolist(), defaults, may_lack,
                                       single=serialized.ndim == 0))

    return run


@kernel("ParseSingleSequenceExample", shape=unknown, host=tuple(range(256)))
def _parse_single_sequence(node: Node, env: KernelEnv) -> Run:
    xp = env.xp
    counts = [node.attr(name) for name in ("Ncontext_sparse", "Ncontext_dense", "Nfeature_list_sparse",
                                           "Nfeature_list_dense")]
    last: tuple[Any, _Plan] | None = None

    def run(serialized: Any, optional: Any, *rest: Any) -> list[Any]:
        nonlocal last
        if serialized.ndim:
            raise InvalidArgument(f"Expected serialized to be a scalar, got shape: {format_shape(serialized.shape)}")
        position, keys = 0, []
        for count in counts:
            arrays = rest[position:position + count]
            position += count
            for array in arrays:
                if array.ndim:
                    raise InvalidArgument(f"Expected a key to be a scalar, got shape: {format_shape(array.shape)}")
            keys.append([array.item() for array in arrays])
        kept = last
        if kept is None or kept[0] != keys:
            last = kept = (keys, _Plan(node, _Keys(keys[0], keys[1], [], keys[2], keys[3], [])))
        missing = set(optional.reshape(-1).tolist())
        defaults, name = rest[position:-1], rest[-1]
        outputs = kept[1].run([serialized.item()], name.reshape(-1).tolist()[:1], defaults,
                              [key in missing for key in keys[3]], single=True)
        return on_device(xp, outputs[:len(node.output_types)])  # without the numbers of steps

    return run
