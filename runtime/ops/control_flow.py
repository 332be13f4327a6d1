"""The frame-based control flow ops: Switch, Merge and the loops' Enter, Exit, NextIteration, LoopCond; DeviceIndex.

The dataflow executor carries these out itself, since they decide what runs and not what is computed. Here is what
else is known of them: the shapes, and what is left of those that act as plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Internal
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import like_input, scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__: list[str] = []


def _switch_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]] * len(node.output_types)


def _merge_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """Keep what all inputs agree on; a loop's Merge has an input that is not known yet."""
    known = shapes[0]
    for shape in shapes[1:]:
        if known is None or shape is None or len(shape) != len(known):
            return [None, ()]
        known = tuple(left if left == right else None for left, right in zip(known, shape, strict=True))
    return [known, ()]


@kernel("Switch", "RefSwitch", "_SwitchN", shape=_switch_shape)
@kernel("Merge", "RefMerge", shape=_merge_shape)
@kernel("Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "RefNextIteration", shape=like_input())
def _control(node: Node, env: KernelEnv) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        raise Internal(f"{node.op} '{node.name}' was called as a function; only the dataflow executor can run it")

    return run


@kernel("LoopCond", shape=like_input())
@kernel("RefIdentity", shape=like_input())
def _identity(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda value: value


@kernel("DeviceIndex", shape=scalar)
def _device_index(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Tell which of some types of devices this one is of; the number of types when of none. Branches hang on it."""
    names = [name.decode("utf-8", "replace") for name in node.attr("device_names")]
    kind = env.device.device_type
    index = np.int32(names.index(kind) if kind in names else len(names))
    return lambda: index
