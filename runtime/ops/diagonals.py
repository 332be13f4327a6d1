"""Bands and diagonals of matrices.

A band of diagonals ``k = (low, high)`` is packed as rows, the highest first, each as long as the longest; the `align`
attr says to which end the shorter ones above and below the main diagonal are pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime._ext.errors import InvalidArgument
from runtime.ops.indexing import zeros
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, like_input

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


@kernel("MatrixBandPart", shape=like_input(), host=(1, 2))
def _matrix_band_part(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    datatype = node.output_types[0]

    def run(matrix: Any, num_lower: Any, num_upper: Any) -> Any:
        if matrix.ndim < 2:
            raise InvalidArgument(f"input must be at least 2-dim, received shape: {format_shape(matrix.shape)}")
        rows, columns = matrix.shape[-2:]
        for name, value, limit in (("num_lower", num_lower, rows), ("num_upper", num_upper, columns)):
            if value.ndim:
                raise InvalidArgument(f"{name} must be scalar, got shape {format_shape(value.shape)}")
            if int(value) > limit:
                raise InvalidArgument(f"{name} must be negative or less or equal to number of "
                                      f"{'rows' if name == 'num_lower' else 'columns'} ({limit}) got: {int(value)}")
        lower, upper = int(num_lower), int(num_upper)
        offset = xp.arange(columns)[None, :] - xp.arange(rows)[:, None]
        band = xp.ones((rows, columns), bool)
        if lower >= 0:
            band &= offset >= -lower
        if upper >= 0:
            band &= offset <= upper
        if band.all():
            return matrix
        return xp.where(band, matrix, zeros(xp, (), datatype))

    return run


# --- diagonal tensors ------------------------------------------------------------------------------------------------


@kernel("Diag", shape=lambda node, shapes: [None if shapes[0] is None else (*shapes[0], *shapes[0])])
def _diag(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp

    def run(diagonal: Any) -> Any:
        if diagonal.ndim < 1:
            raise InvalidArgument("Input must be at least rank 1, got 0")
        size = diagonal.size
        result = xp.zeros((size, size), diagonal.dtype)
        where = xp.arange(size)
        result[where, where] = diagonal.reshape(-1)
        return result.reshape(diagonal.shape + diagonal.shape)

    return run


def _diag_part_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None else shapes[0][:len(shapes[0]) // 2]]


@kernel("DiagPart", shape=_diag_part_shape)
def _diag_part(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(tensor: Any) -> Any:
        rank = tensor.ndim
        if rank % 2:
            raise InvalidArgument("The rank of the tensor should be" + " " * 42 + "even and positive, got shape "
                                  + format_shape(tensor.shape))
        if not rank:
            return tensor
        half = tensor.shape[:rank // 2]
        for axis, dim in enumerate(half):
            if tensor.shape[axis + rank // 2] != dim:
                raise InvalidArgument(f"Invalid shape {format_shape(tensor.shape)}: dimensions {axis} and "
                                      f"{axis + rank // 2} do not match.")
        size = tensor[(0,) * (rank // 2)].size if tensor.size else 0
        return tensor.reshape(size, size).diagonal().reshape(half)

    return run


# --- packed bands ----------------------------------------------------------------------------------------------------


def _band(k: Any) -> tuple[int, int]:
    """Return the lowest and the highest diagonal of a ``k`` input."""
    numbers = k.reshape(-1).tolist()
    if k.ndim > 1 or not 1 <= len(numbers) <= 2:
        raise InvalidArgument("diag_index must be a scalar or vector, received shape: " + format_shape(k.shape)
                              if k.ndim > 1 else
                              f"diag_index must have only one or two elements, received {len(numbers)} elements.")
    low, high = numbers[0], numbers[-1]
    if low > high:
        raise InvalidArgument(f"lower_diag_index must not be larger than upper_diag_index: {low} > {high}")
    return low, high


def _length(rows: int, columns: int, diagonal: int) -> int:
    return min(rows + min(diagonal, 0), columns - max(diagonal, 0))


def _longest(rows: int, columns: int, low: int, high: int) -> int:
    return min(rows + min(high, 0), columns - max(low, 0))


class _Layout:
    """Where the elements of a packed band lie, in the matrix and in the packed rows.

    Attributes
    ----------
    rows, columns : array of int
        Place of each element in the matrix.
    line, offset : array of int
        Its row and its place in that row when packed.
    """

    def __init__(self, xp: Any, shape: Sequence[int], band: tuple[int, int], align: bytes) -> None:
        num_rows, num_columns = shape
        low, high = band
        longest = _longest(num_rows, num_columns, low, high)
        upper_left, lower_left = align.startswith(b"LEFT"), align.endswith(b"LEFT")
        rows, columns, line, offset = [], [], [], []
        for number, diagonal in enumerate(range(high, low - 1, -1)):
            length = _length(num_rows, num_columns, diagonal)
            to_left = upper_left if diagonal >= 0 else lower_left
            shift = 0 if to_left else longest - length
            steps = xp.arange(length)
            rows.append(steps - min(diagonal, 0))
            columns.append(steps + max(diagonal, 0))
            line.append(xp.full(length, number))
            offset.append(steps + shift)
        self.rows, self.columns = xp.concatenate(rows), xp.concatenate(columns)
        self.line, self.offset = xp.concatenate(line), xp.concatenate(offset)


def _align(node: Node) -> bytes:
    return bytes(node.attr("align")) if node.op.endswith("V3") else b"LEFT_LEFT"


def _check_range(low: int, high: int, rows: int, columns: int, after: str) -> None:
    for name, diagonal in (("lower_diag_index", low), ("upper_diag_index", high)):
        if not (-rows < diagonal < columns or diagonal == 0):
            raise InvalidArgument(f"{name} is out of bound: {diagonal}{after} It must be between {-rows} and {columns}")


def _diagonal_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if node.op == "MatrixDiag":
        return [None if not shapes[0] else (*shapes[0], shapes[0][-1])]
    return [None]


@kernel("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", shape=_diagonal_shape, host=(1, 2, 3))
def _matrix_diag(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    align = _align(node)
    datatype = node.output_types[0]

    def run(diagonal: Any, k: Any = None, num_rows: Any = None, num_cols: Any = None, padding: Any = None) -> Any:
        low, high = (0, 0) if k is None else _band(k)
        if diagonal.ndim < 1:
            raise InvalidArgument(f"diagonal must be at least 1-dim, received shape: {format_shape(diagonal.shape)}")
        if padding is not None and padding.ndim:
            raise InvalidArgument(f"padding_value must be a scalar, received shape: {format_shape(padding.shape)}")
        count = high - low + 1
        if count > 1 and (diagonal.ndim < 2 or diagonal.shape[-2] != count):
            raise InvalidArgument("The number of diagonals provided in the input does not match the lower_diag_index "
                                  "and upper_diag_index range.")
        batch = diagonal.shape[:-2] if count > 1 else diagonal.shape[:-1]
        longest = diagonal.shape[-1]
        for name, number in (("num_rows", num_rows), ("num_cols", num_cols)):
            if number is not None and number.ndim:
                raise InvalidArgument(f"{name} must be a scalar, received shape: {format_shape(number.shape)}")
        rows, columns = _matrix_size(longest, low, high, -1 if num_rows is None else int(num_rows),
                                     -1 if num_cols is None else int(num_cols))
        result = zeros(xp, (*batch, rows, columns), datatype)
        if padding is not None:
            result[...] = padding
        layout = _Layout(xp, (rows, columns), (low, high), align)
        packed = diagonal.reshape((*batch, count, longest))
        result[..., layout.rows, layout.columns] = packed[..., layout.line, layout.offset]
        return result

    return run


def _matrix_size(longest: int, low: int, high: int, rows: int, columns: int) -> tuple[int, int]:
    """Return the size of a matrix whose diagonals have a length; -1 stands for as small as can be."""
    least_rows, least_columns = longest - min(high, 0), longest + max(low, 0)
    if rows != -1 and rows < least_rows:
        raise InvalidArgument("The number of rows is too small.")
    if columns != -1 and columns < least_columns:
        raise InvalidArgument("The number of columns is too small.")
    if rows == -1 and columns == -1:
        side = max(least_rows, least_columns)
        return side, side
    rows = least_rows if rows == -1 else rows
    columns = least_columns if columns == -1 else columns
    if rows != least_rows and columns != least_columns:
        raise InvalidArgument("The number of rows or columns is not consistent with the specified d_lower, d_upper, "
                              "and diagonal.")
    return rows, columns


def _diagonal_part_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    if node.op != "MatrixDiagPart" or shape is None:
        return [None]
    rows, columns = shape[-2:]
    return [(*shape[:-2], None if rows is None or columns is None else min(rows, columns))]


@kernel("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3", shape=_diagonal_part_shape, host=(1,))
def _matrix_diag_part(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    align = _align(node)

    def run(matrix: Any, k: Any = None, padding: Any = None) -> Any:
        low, high = (0, 0) if k is None else _band(k)
        if matrix.ndim < 2:
            raise InvalidArgument(f"input must be at least 2-dim, received shape: {format_shape(matrix.shape)}")
        rows, columns = matrix.shape[-2:]
        _check_range(low, high, rows, columns, ".")
        if padding is not None and padding.ndim:
            raise InvalidArgument(f"padding_value must be a scalar, received shape: {format_shape(padding.shape)}")
        if low == high:
            return matrix.diagonal(low, -2, -1)
        layout = _Layout(xp, (rows, columns), (low, high), align)
        batch = matrix.shape[:-2]
        result = xp.empty((*batch, high - low + 1, _longest(rows, columns, low, high)), matrix.dtype)
        result[...] = padding
        result[..., layout.line, layout.offset] = matrix[..., layout.rows, layout.columns]
        return result

    return run


@kernel("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3", shape=like_input(), host=(2,))
def _matrix_set_diag(node: Node, env: KernelEnv) -> Callable[..., Any]:
    xp = env.xp
    align = _align(node)

    def run(matrix: Any, diagonal: Any, k: Any = None) -> Any:
        low, high = (0, 0) if k is None else _band(k)
        if matrix.ndim < 2:
            raise InvalidArgument(f"input must be at least 2-dim, received shape: {format_shape(matrix.shape)}")
        if diagonal.ndim < 1:
            raise InvalidArgument(f"diagonal must be at least 1-dim, received shape: {format_shape(diagonal.shape)}")
        rows, columns = matrix.shape[-2:]
        _check_range(low, high, rows, columns, "")
        count = high - low + 1
        longest = _longest(rows, columns, low, high)
        expected = (*matrix.shape[:-2], *((count,) if count > 1 else ()), longest)
        if diagonal.shape != expected:
            raise InvalidArgument("Either first dimensions of diagonal don't match input.shape[:-2], or "
                                  "diagonal.shape[:-1] is not equal to the longests diagonal in range "
                                  "[lower_diag_index:upper_diag_index].\n"
                                  f"Input shape: {format_shape(matrix.shape)}\n"
                                  f"Diagonal shape: {format_shape(diagonal.shape)}\n"
                                  f"Expected diagonal shape: {format_shape(expected)}")
        result = xp.array(matrix)
        layout = _Layout(xp, (rows, columns), (low, high), align)
        packed = diagonal.reshape((*matrix.shape[:-2], count, longest))
        result[..., layout.rows, layout.columns] = packed[..., layout.line, layout.offset]
        return result

    return run


