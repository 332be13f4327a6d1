"""Ops whose work lies outside a task's graph: the client's functions, the process, other members of a group.

What cannot be done says so when it runs; the rest of a graph that holds such a node is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Aborted, InvalidArgument, Unimplemented
from runtime.ops.registry import kernel
from runtime.ops.shapes import unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__: list[str] = []

Run = Callable[..., Any]


@kernel("PyFunc", "EagerPyFunc", "PyFuncStateless", shape=unknown)
def call_the_client(node: Node, env: KernelEnv) -> Run:
    """Refuse as a TensorFlow server of another process does: the function is registered with its own process."""
    token = node.attr("token").decode("utf-8", "replace")

    def run(*inputs: Any) -> Any:
        raise InvalidArgument(f"ValueError: Could not find callback with key={token} in the registry.")

    return run


@kernel("Abort")
def abort(node: Node, env: KernelEnv) -> Run:
    """End the step. TensorFlow ends the process; this one serves others, too."""
    text = node.attr("error_msg").decode("utf-8", "replace") or f"Abort '{node.name}'"

    def run() -> None:
        raise Aborted(text)

    return run


# Collectives: a group of one needs nobody else


def _check_group(node: Node) -> None:
    """Check that a group has one member, which is all that a task with one device can bring together.

    Raises
    ------
    Unimplemented
    """
    size = int(node.attr("group_size"))
    if size <= 0:
        raise InvalidArgument(f"group_size must be positive integer got {size}")
    if size > 1:
        raise Unimplemented(f"{node.op} '{node.name}' is for a group of {size} members; this task has one device, and "
                            "groups do not span tasks here")


def _own_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]]


@kernel("CollectiveReduce", "CollectiveBcastSend", shape=_own_shape)
def collective_of_one(node: Node, env: KernelEnv) -> Run:
    if node.op == "CollectiveBcastSend" and node.attr("shape") is None:
        raise InvalidArgument(f"the shape of CollectiveBcastSend '{node.name}' must be known")

    def run(value: Any) -> Any:
        _check_group(node)
        return value

    return run


@kernel("CollectiveBcastRecv", shape=lambda node, shapes: [node.attr("shape")])
def collective_receive(node: Node, env: KernelEnv) -> Run:
    def run() -> Any:
        _check_group(node)
        raise InvalidArgument(f"CollectiveBcastRecv '{node.name}' is the only member of its group: nobody sends")

    return run
