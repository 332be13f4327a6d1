"""Datasets of the features of Examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.ops.datasets.batching import positive
from runtime.ops.datasets.dataset import (
    Dataset,
    DatasetIterator,
    Element,
    Signature,
    UnaryDataset,
    UnaryIterator,
    dataset_of,
    integer,
    kept,
    variant,
)
from runtime.ops.example_parsing import ExamplePlan
from runtime.ops.objects import filled, object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar
from runtime.ops.values.ragged_variant import RaggedVariant
from runtime.ops.values.tensor_variant import TensorVariant

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_AUTOTUNE = -1


class ParseExampleDataset(UnaryDataset):
    """The features of batches of serialized Examples, in the order of their keys.

    A sparse feature is a vector of three variants: indices, values and shape. A ragged one is one variant.

    Parameters
    ----------
    plan : ExamplePlan
        Has the sparse features first, the ragged ones last.
    defaults : tuple
        Of the dense features.
    """

    name = "ParseExample"

    def __init__(self, signature: Signature, source: Dataset, plan: ExamplePlan, defaults: Element) -> None:
        super().__init__(signature, source)
        self.plan = plan
        self.defaults = defaults
        self.order = sorted(range(len(plan.keys)), key=lambda place: plan.keys[place])

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _ParseExampleIterator(self, iteration, prefix)

    def parse(self, element: Element) -> Element:
        """Return the features of an element."""
        serialized = [text for component in element for text in component.reshape(-1).tolist()]
        found = self.plan.run(serialized, [], self.defaults)
        count = len(self.plan.sparse_types)
        features = [_packed(kind, *parts) for kind, *parts in zip(
            self.plan.sparse_types, found[:count], found[count:2 * count], found[2 * count:3 * count], strict=True)]
        ragged = 3 * count + len(self.plan.features)
        features += found[3 * count:ragged]
        kinds = self.plan.ragged_types
        features += [object_scalar(RaggedVariant((splits,), values, kind)) for kind, values, splits in zip(
            kinds, found[ragged:ragged + len(kinds)], found[ragged + len(kinds):], strict=True)]
        return tuple(features[place] for place in self.order)


def _packed(kind: DataType, indices: Any, values: Any, shape: Any) -> Any:
    return filled((3,), [TensorVariant(indices, DataType.INT64), TensorVariant(values, kind),
                         TensorVariant(shape, DataType.INT64)])


class _ParseExampleIterator(UnaryIterator):
    __slots__ = ("_dataset",)

    def __init__(self, dataset: ParseExampleDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset

    async def next(self) -> Element | None:
        element = await self._source.next()
        return None if element is None else self._dataset.parse(element)


@kernel("ParseExampleDatasetV2", shape=scalar)
def _parse_example(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    plan = ExamplePlan(node, node.attr("sparse_keys"), node.attr("dense_keys"), node.attr("ragged_keys"))

    def run(source: Any, num_parallel_calls: Any, *defaults: Any) -> Any:
        if integer(num_parallel_calls, "num_parallel_calls") != _AUTOTUNE:
            positive(num_parallel_calls, "num_parallel_calls", "num_parallel_calls")
        _check_defaults(plan, defaults)
        return variant(ParseExampleDataset(signature, dataset_of(source), plan, kept(defaults)))

    return run


def _check_defaults(plan: ExamplePlan, defaults: Sequence[Any]) -> None:
    if len(defaults) != len(plan.dense_types):
        raise InvalidArgument(f"Expected len(dense_defaults) == len(dense_keys) but got: {len(defaults)} vs. "
                              f"{len(plan.dense_types)}")
