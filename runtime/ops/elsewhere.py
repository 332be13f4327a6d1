"""Ops whose work lies outside a task's graph: the client's functions, the process.

What cannot be done says so when it runs; the rest of a graph that holds such a node is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import Aborted, InvalidArgument
from runtime.ops.registry import kernel
from runtime.ops.shapes import unknown

if TYPE_CHECKING:
    from runtime.graph.node import Node
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
