"""Tensors that leave for another device or task, and those that come from one.

A master puts such a pair in place of every edge that it cuts. Where the value goes, or comes from, is the business of
the step's exchange (`runtime.worker.exchange`); the key names the edge, and the frame and iteration that it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime._ext.executor import DEAD_VALUE
from runtime.dtypes import base
from runtime.ops.registry import kernel

if TYPE_CHECKING:
    from runtime._ext.executor import StepContext
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Done = Callable[[Any, "BaseException | None"], None]


def _key(node: Node) -> str:
    """Return a node's rendezvous key up to the frame and iteration."""
    parts = [node.attr("send_device").decode(), f"{node.attr('send_device_incarnation') % (1 << 64):016x}",
             node.attr("recv_device").decode(), node.attr("tensor_name").decode("utf-8", "surrogateescape")]
    for name, part in zip(("send_device", "send_device_incarnation", "recv_device", "tensor_name"), parts):
        if not part or ";" in part:
            raise InvalidArgument(f"attr {name} of {node.op} is {part!r}: it must be a name without ';'")
    return ";".join(parts) + ";"


def _exchange(step: StepContext, node: Node) -> Any:
    if step.exchange is None:
        raise InvalidArgument(f"{node.op} runs only in a graph that a master has registered with a worker")
    return step.exchange


@kernel("_Send", "_HostSend", transfer=True)
def send(node: Node, env: KernelEnv) -> Callable[..., None]:
    key = _key(node)
    kind = base(node.input_types[0])

    def run(step: StepContext, done: Done, where: str, is_dead: bool, *values: Any) -> None:
        _exchange(step, node).send(key + where, values[0] if values else None, kind, is_dead)
        done(None, None)

    return run


def _unknown(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None]


@kernel("_Recv", "_HostRecv", shape=_unknown, transfer=True)
def receive(node: Node, env: KernelEnv) -> Callable[..., None]:
    key = _key(node)
    kind = base(node.output_types[0])

    def run(step: StepContext, done: Done, where: str, is_dead: bool) -> None:
        def arrived(value: Any, dead: bool, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
            else:
                done(DEAD_VALUE if dead else value, None)

        _exchange(step, node).receive(key + where, kind, arrived, node.name)

    return run
