"""Compiled CPU kernels: asked once per node when a step is compiled, they serve the common dtypes of the hot ops.

Each kernel module has ``OPS``, the op types it knows something about, and ``select(op, input_types, output_types,
attr)`` like the function here. A new module is added to `MODULES` and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime._ext.kernel_abi import CompiledKernel

__all__ = ["MODULES", "select"]

Selector = Callable[[str, Sequence[int], Sequence[int], Callable[..., Any]], "CompiledKernel | None"]

MODULES: tuple[str, ...] = (
    "runtime._ext.kernels.elementwise",
    "runtime._ext.kernels.activations",
    "runtime._ext.kernels.transcendental",
    "runtime._ext.kernels.special_functions",
    "runtime._ext.kernels.softmax",
    "runtime._ext.kernels.batch_norm",
    "runtime._ext.kernels.casts",
    "runtime._ext.kernels.reductions",
    "runtime._ext.kernels.shaping",
    "runtime._ext.kernels.arranging",
    "runtime._ext.kernels.picking",
    "runtime._ext.kernels.matmul",
    "runtime._ext.kernels.convolution",
    "runtime._ext.kernels.conv_depthwise",
    "runtime._ext.kernels.pooling",
    "runtime._ext.kernels.optimizers",
    "runtime._ext.kernels.variables",
    "runtime._ext.kernels.step_arrays",
    "runtime._ext.kernels.tensor_lists",
)
"""Names of the kernel modules, asked in this order."""


@cache
def _selectors() -> dict[str, list[Selector]]:
    table: dict[str, list[Selector]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for op in module.OPS:
            table.setdefault(op, []).append(module.select)
    return table


def select(
    op: str, input_types: Sequence[int], output_types: Sequence[int], attr: Callable[..., Any]
) -> CompiledKernel | None:
    """Return a compiled kernel for a node, or None where its Python definition has to do.

    Parameters
    ----------
    input_types, output_types : sequence of int
        DataType numbers; references carry the reference offset (100). An input that the op declares by value arrives
        as an array even where the edge carries a reference.
    attr : callable
        ``attr(name)`` returns an attr as `Node.attr` does.
    """
    for selector in _selectors().get(op, ()):
        try:
            kernel = selector(op, input_types, output_types, attr)
        except OverflowError:  # an attr that no C integer holds: the definition says what is wrong with it
            continue
        if kernel is not None:
            return kernel
    return None
