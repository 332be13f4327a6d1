"""Kernels of the special functions of statistics and analysis.

They are computed on the host in double precision (`runtime._ext.special_functions`) and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext import special_functions
from runtime._ext.errors import InvalidArgument
from runtime.dtypes import base, to_numpy
from runtime.ops.broadcasting import broadcasting
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast, format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_OF_ONE: dict[str, Callable[[Any], Any]] = {
    "Ndtri": special_functions.ndtri,
    "BesselI0": special_functions.bessel_i0,
    "BesselI1": special_functions.bessel_i1,
    "BesselI0e": special_functions.bessel_i0e,
    "BesselI1e": special_functions.bessel_i1e,
}
_OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "Igamma": special_functions.igamma,
    "Igammac": special_functions.igammac,
    "IgammaGradA": special_functions.igamma_grad_a,
    "Zeta": special_functions.zeta,
    "Polygamma": special_functions.polygamma,
}


def _rounded(function: Callable[..., Any], node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Return the function for the node's type: half and bfloat16 go through float32."""
    dtype = to_numpy(base(node.input_types[0]))
    wide = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)

    def run(*args: Any) -> Any:
        arrays = args if dtype == wide else [arg.astype(wide) for arg in args]
        return env.xp.asarray(function(*arrays).astype(dtype, copy=False))

    return run


@kernel(*_OF_ONE, shape=like_input(), host=(0,))
def _of_one(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _rounded(_OF_ONE[node.op], node, env)


@kernel(*_OF_TWO, shape=broadcast, host=(0, 1))
def _of_two(node: Node, env: KernelEnv) -> Callable[..., Any]:
    function = _rounded(_OF_TWO[node.op], node, env)
    return broadcasting(lambda x, y: function(*np.broadcast_arrays(x, y)))


def _betainc_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if any(shape is None for shape in shapes):
        return [None]
    return [next((shape for shape in shapes if shape), ())]


@kernel("Betainc", shape=_betainc_shape, host=(0, 1, 2))
def _betainc(node: Node, env: KernelEnv) -> Callable[..., Any]:
    function = _rounded(special_functions.betainc, node, env)

    def run(a: Any, b: Any, x: Any) -> Any:
        shapes = [value.shape for value in (a, b, x) if value.ndim]
        for name, value in (("b", b), ("x", x)):
            if shapes and value.ndim and value.shape != shapes[0]:
                first = "a" if a.ndim else "b"
                raise InvalidArgument(f"Shapes of {first} and {name} are inconsistent: {format_shape(shapes[0])} vs. "
                                      f"{format_shape(value.shape)}")
        return function(*np.broadcast_arrays(a, b, x))

    return run
