"""Matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.broadcasting import broadcasts as broadcast_fits
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast_shapes, format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

_SMALL_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16})


def product_function(xp: Any, input_types: Sequence[int], output_type: int) -> Callable[[Any, Any], Any]:
    """Return the matrix product of two arrays whose shapes fit.

    Half and bfloat16 are multiplied and summed in float32 and rounded once; inputs of another type than the output's
    are cast to it first.
    """
    matmul = xp.matmul
    out = base(output_type)
    dtype = to_numpy(out)
    wide = xp.float32 if out in _SMALL_FLOATS else dtype
    if all(to_numpy(kind) == wide for kind in input_types):
        return matmul  # type: ignore[no-any-return]

    def run(x: Any, y: Any) -> Any:
        return xp.asarray(matmul(x.astype(wide), y.astype(wide))).astype(dtype)

    return run


def _mat_mul_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    a, b = shapes
    rows = None if a is None or len(a) != 2 else a[1 if node.attr("transpose_a") else 0]
    columns = None if b is None or len(b) != 2 else b[0 if node.attr("transpose_b") else 1]
    return [(rows, columns)]


@kernel("MatMul", shape=_mat_mul_shape)
def _mat_mul(node: Node, env: KernelEnv) -> Callable[..., Any]:
    product = product_function(env.xp, node.input_types, node.output_types[0])
    transpose_a, transpose_b = bool(node.attr("transpose_a")), bool(node.attr("transpose_b"))

    def run(a: Any, b: Any) -> Any:
        if a.ndim != 2 or b.ndim != 2:
            raise _no_matrix(a, b)
        left = a.T if transpose_a else a
        right = b.T if transpose_b else b
        if left.shape[1] != right.shape[0]:
            raise InvalidArgument(f"Matrix size-incompatible: In[0]: {format_shape(a.shape)}, "
                                  f"In[1]: {format_shape(b.shape)}")
        return product(left, right)

    return run


def _no_matrix(a: Any, b: Any) -> InvalidArgument:
    if a.ndim != b.ndim:
        return InvalidArgument("In[0] and In[1] has different ndims: "
                               f"{format_shape(a.shape)} vs. {format_shape(b.shape)}")
    return InvalidArgument(f"In[0] is not a matrix. Instead it has shape {format_shape(a.shape)}")


def _batch_mat_mul_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    x, y = shapes
    if x is None or y is None or len(x) < 2 or len(y) < 2:
        return [None]
    batch = broadcast_shapes(x[:-2], y[:-2])
    if batch is None:
        return [None]
    return [(*batch, x[-1 if node.attr("adj_x") else -2], y[-2 if node.attr("adj_y") else -1])]


@kernel("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", shape=_batch_mat_mul_shape)
def _batch_mat_mul(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    product = product_function(xp, node.input_types, node.output_types[0])
    adjoint_x, adjoint_y = bool(node.attr("adj_x")), bool(node.attr("adj_y"))
    broadcasts = node.op != "BatchMatMul"

    def adjoint(value: Any) -> Any:
        swapped = value.swapaxes(-1, -2)
        return swapped.conj() if value.dtype.kind == "c" else swapped

    def run(x: Any, y: Any) -> Any:
        if not broadcasts:
            if x.ndim != y.ndim:
                raise InvalidArgument("In[0] and In[1] has different ndims: "
                                      f"{format_shape(x.shape)} vs. {format_shape(y.shape)}")
            for axis in range(x.ndim - 2):
                if x.shape[axis] != y.shape[axis]:
                    raise InvalidArgument(f"In[0].dim({axis}) and In[1].dim({axis}) must be the same: "
                                          f"{format_shape(x.shape)} vs {format_shape(y.shape)}")
        for index, value in enumerate((x, y)):
            if value.ndim < 2:
                raise InvalidArgument(f"In[{index}] ndims must be >= 2: {value.ndim}")
        if not broadcast_fits(x.shape[:-2], y.shape[:-2]):
            raise InvalidArgument("In[0] and In[1] must have compatible batch dimensions: "
                                  f"{format_shape(x.shape)} vs. {format_shape(y.shape)}")
        left = adjoint(x) if adjoint_x else x
        right = adjoint(y) if adjoint_y else y
        if left.shape[-1] != right.shape[-2]:
            raise InvalidArgument(f"Matrix size-incompatible: In[0]: {format_shape(x.shape)}, "
                                  f"In[1]: {format_shape(y.shape)}")
        return product(left, right)

    return run
