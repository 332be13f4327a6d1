"""Datasets whose elements a function makes, each of them from a state that another function has made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Error, OutOfRange
from runtime.ops.datasets.dataset import Dataset, DatasetIterator, Element, Signature, variant
from runtime.ops.datasets.functions import Captured, UserFunction
from runtime.ops.registry import kernel
from runtime.ops.shapes import scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.iteration import Iteration
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

logger = logging.getLogger(__name__)


class GeneratorDataset(Dataset):
    """What a function gives until it raises OutOfRange.

    Parameters
    ----------
    begin : Captured
        Makes the state when the first element is asked for.
    following : Captured
        Makes an element of it.
    end : Captured
        Is called with the state when there are no more, or when nobody reads any more.
    """

    name = "Generator"

    def __init__(self, signature: Signature, begin: Captured, following: Captured, end: Captured) -> None:
        super().__init__(signature)
        self.begin = begin
        self.following = following
        self.end = end

    def iterator(self, iteration: Iteration, prefix: str) -> DatasetIterator:
        return _GeneratorIterator(self, iteration, prefix)


class _GeneratorIterator(DatasetIterator):
    __slots__ = ("_dataset", "_ended", "_state")

    def __init__(self, dataset: GeneratorDataset, iteration: Iteration, prefix: str) -> None:
        super().__init__(dataset, iteration, prefix)
        self._dataset = dataset
        self._state: Element | None = None
        self._ended = False

    async def next(self) -> Element | None:
        dataset = self._dataset
        if self._ended:
            return None
        if self._state is None:
            self._state = tuple(await dataset.begin(self, ()))
        try:
            return tuple(await dataset.following(self, self._state))
        except OutOfRange:
            self._ended = True
        await dataset.end(self, self._state)
        return None

    def close(self) -> None:
        if self._state is not None and not self._ended:
            self._ended = True
            self._dataset.end.start(self, self._state, _note)


def _note(outputs: Any, error: BaseException | None) -> None:
    if error is not None:
        level = logging.WARNING if isinstance(error, Error) else logging.ERROR
        logger.log(level, "the finalize_func of a GeneratorDataset failed: %s", error)


@kernel("GeneratorDataset", shape=scalar)
def _generator(node: Node, env: KernelEnv) -> Run:
    signature = Signature.of(node)
    functions = [UserFunction(node, env, "init_func"), UserFunction(node, env, "next_func", signature.types),
                 UserFunction(node, env, "finalize_func")]
    first = len(node.attr("Tinit_func_args"))
    second = first + len(node.attr("Tnext_func_args"))

    def run(*arguments: Any) -> Any:
        parts = (arguments[:first], arguments[first:second], arguments[second:])
        return variant(GeneratorDataset(signature, *(
            function.capture(part) for function, part in zip(functions, parts, strict=True))))

    return run
