"""User functions of datasets: compiled with their node, called for elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Cancelled, Error, InvalidArgument
from runtime.dtypes import base
from runtime.ops.datasets.dataset import Element, kept

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.datasets.dataset import DatasetIterator
    from runtime.step.environment import CompiledFunction, KernelEnv

__all__ = ["Captured", "UserFunction"]


class UserFunction:
    """A function that a dataset's node names.

    Parameters
    ----------
    node : Node
    env : KernelEnv
    attr : str
        The attr that names it.
    outputs : sequence of DataType, optional
        What it must return; anything when not given.

    Raises
    ------
    InvalidArgument
        If it returns something else.
    """

    def __init__(self, node: Node, env: KernelEnv, attr: str, outputs: Sequence[int] | None = None) -> None:
        self.op = node.op
        self.path = f"{env.path}{node.name}/"
        self.compiled: CompiledFunction = env.compile_function(node.attr(attr))
        found = self.compiled.output_types
        if outputs is not None and list(found) != list(outputs):
            raise InvalidArgument(f"{node.op} '{node.name}': {attr} has results of types {_labels(found)}, but "
                                  f"{_labels(outputs)} are needed")

    def capture(self, arguments: Sequence[Any], number: int | None = None) -> Captured:
        """Return the function with what it takes behind the element's components.

        Parameters
        ----------
        number : int, optional
            The dataset's, for messages; without it errors stay as they are.
        """
        return Captured(self, kept(arguments), number)


def _labels(types: Sequence[int]) -> str:
    return "[" + ", ".join(base(kind).label for kind in types) + "]"


class Captured:
    """A user function of one dataset, with the tensors that it captured."""

    __slots__ = ("_arguments", "_function", "_number")

    def __init__(self, function: UserFunction, arguments: Element, number: int | None) -> None:
        self._function = function
        self._arguments = arguments
        self._number = number

    @property
    def is_asynchronous(self) -> bool:
        """Tell whether a call may wait."""
        return self._function.compiled.is_asynchronous

    def start(self, caller: DatasetIterator, element: Element,
              done: Callable[[Any, BaseException | None], None]) -> None:
        """Run it apart from what the caller's reading does, when that has ended; ``done`` is called once."""
        caller.iteration.leave(self._function.compiled, (*element, *self._arguments), done)

    async def __call__(self, caller: DatasetIterator, element: Element) -> list[Any]:
        """Run it for an element.

        Raises
        ------
        Error
            What the function raises, with the iterator named.
        """
        function = self._function
        args = (*element, *self._arguments)
        wanted = function.compiled.input_types
        if len(args) != len(wanted):
            raise InvalidArgument(f"the function of {function.op} takes {len(wanted)} tensors, but an element and what "
                                  f"was captured are {len(args)}")
        try:
            return await caller.iteration.call(function.compiled, args)
        except Cancelled:
            raise
        except Error as error:
            # The path of the call is left out of the node's name: the function's own graph has it by that name.
            message = error.message.replace("{{node " + function.path, "{{node ")
            if self._number is None:
                raise type(error)(message) from error
            raise type(error)(f"Error in user-defined function passed to {function.op}:{self._number} transformation "
                              f"with iterator: {caller.prefix}: {message}") from error
