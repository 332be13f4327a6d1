"""Ops that read a whole dataset in one node: reduce, and the only element."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Error, InvalidArgument
from runtime.ops.datasets.dataset import Dataset, DatasetIterator, Element, Signature, dataset_of, kept
from runtime.ops.datasets.functions import UserFunction
from runtime.ops.datasets.iteration import Iteration, Reader
from runtime.ops.datasets.iterators import marked, outputs_of
from runtime.ops.datasets.task import PAUSE, PAUSE_EVERY
from runtime.ops.registry import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]
Answer = Callable[[Any, "BaseException | None"], None]


def _declared(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return list(node.attr("output_shapes"))


def _read_whole(node: Node, env: KernelEnv, step: StepContext, done: Answer, dataset: Dataset, read: Reader) -> None:
    """Read a dataset with a coroutine, within a step, and answer with what it gives."""
    signature = Signature.of(node)
    iteration = Iteration(dataset, env.session)

    def finish(element: Any, error: BaseException | None) -> None:
        iteration.close()
        result = None
        if error is None:
            try:
                result = outputs_of(element, signature)
            except Error as problem:
                error = problem
        done(result, None if error is None else marked(error, node))

    iteration.pull(step, finish, read)


@kernel("ReduceDataset", shape=_declared, asynchronous=True)
def _reduce(node: Node, env: KernelEnv) -> Run:
    count = len(node.attr("Tstate"))
    function = UserFunction(node, env, "f", Signature.of(node).types)

    def run(step: StepContext, done: Answer, source: Any, *arguments: Any) -> None:
        dataset = dataset_of(source)
        captured = function.capture(arguments[count:])

        async def fold(iterator: DatasetIterator) -> Element:
            state = kept(arguments[:count])
            turns = 0
            while (element := await iterator.next()) is not None:
                state = tuple(await captured(iterator, (*state, *element)))
                turns += 1
                if not turns % PAUSE_EVERY:
                    await PAUSE
            return state

        _read_whole(node, env, step, done, dataset, fold)

    return run


@kernel("DatasetToSingleElement", shape=_declared, asynchronous=True)
def _single_element(node: Node, env: KernelEnv) -> Run:
    async def only(iterator: DatasetIterator) -> Element:
        element = await iterator.next()
        if element is None:
            raise InvalidArgument("Dataset was empty.")
        if await iterator.next() is not None:
            raise InvalidArgument("Dataset had more than one element.")
        return element

    def run(step: StepContext, done: Answer, source: Any) -> None:
        _read_whole(node, env, step, done, dataset_of(source), only)

    return run
