"""What says how elements are made, and none of them: options, thread pools, rewrites; datasets wrapped in a variant.

Elements are made here without threads of their own and without rewrites, so that these only check what they are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.datasets.dataset import Dataset, dataset_of, integer
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]


@kernel("OptionsDataset", "ModelDataset", "FinalizeDataset", "RewriteDataset", "OptimizeDataset", "OptimizeDatasetV2",
        "NonSerializableDataset", shape=scalar)
def _hand_on(node: Node, env: KernelEnv) -> Run:
    def run(source: Any, *settings: Any) -> Any:
        dataset_of(source)
        return source

    return run


def _register_limit(op: str, name: str) -> None:
    @kernel(op, shape=scalar, host=(1,))
    def bind(node: Node, env: KernelEnv) -> Run:
        def run(source: Any, limit: Any) -> Any:
            dataset_of(source)
            if integer(limit, name) < 0:
                raise InvalidArgument(f"`{name}` must be >= 0")
            return source

        return run


_register_limit("MaxIntraOpParallelismDataset", "max_intra_op_parallelism")
_register_limit("PrivateThreadPoolDataset", "num_threads")


@dataclass(frozen=True, slots=True)
class WrappedDataset:
    """A dataset that no op takes for one until it is unwrapped."""

    dataset: Dataset


@kernel("WrapDatasetVariant", shape=scalar)
def _wrap(node: Node, env: KernelEnv) -> Run:
    return lambda source: object_scalar(WrappedDataset(dataset_of(source)))


@kernel("UnwrapDatasetVariant", shape=scalar)
def _unwrap(node: Node, env: KernelEnv) -> Run:
    def run(wrapped: Any) -> Any:
        found = wrapped.item() if wrapped.ndim == 0 else None
        if not isinstance(found, WrappedDataset):
            raise InvalidArgument("Tensor must be a WrappedDataset variant object.")
        return object_scalar(found.dataset)

    return run
