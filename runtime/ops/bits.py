"""Bits of integers: shifts and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.dtypes import base, to_numpy
from runtime.ops.broadcasting import broadcasting
from runtime.ops.registry import kernel
from runtime.ops.shapes import broadcast, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


@kernel("LeftShift", "RightShift", shape=broadcast)
def _shift(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Shift by at least nothing and by at most all bits but one, where C leaves open what happens."""
    xp = env.xp
    dtype = to_numpy(base(node.input_types[0]))
    most = dtype.type(8 * dtype.itemsize - 1)
    shift = xp.left_shift if node.op == "LeftShift" else xp.right_shift
    return broadcasting(lambda x, y: shift(x, xp.clip(y, dtype.type(0), most)))


@kernel("PopulationCount", shape=like_input())
def _population_count(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    dtype = to_numpy(base(node.input_types[0]))
    unsigned = xp.dtype(f"u{dtype.itemsize}")
    return lambda x: xp.bitwise_count(x.view(unsigned))  # of a negative number it would count the magnitude's bits
