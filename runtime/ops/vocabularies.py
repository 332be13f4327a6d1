"""Weights of another vocabulary: which word was which before, and matrices with their rows and columns moved so."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, NotFound, Unimplemented
from runtime.checkpoint.bundle import BundleReader
from runtime.checkpoint.files import index_path
from runtime.checkpoint.slices import FULL, TensorSlice
from runtime.dtypes import DataType
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape
from runtime.ops.state.table import HashTable
from runtime.ops.table_files import LINE_NUMBER, WHOLE_LINE, fill_from_text_file

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

__all__: list[str] = []

Run = Callable[..., Any]


# Words


def _file_name(tensor: Any, which: str) -> str:
    if tensor.ndim:
        raise InvalidArgument(f"{which}_vocab_file should be a single string, but got {format_shape(tensor.shape)}")
    if not tensor.item():
        raise InvalidArgument("new vocab filename cannot be empty.")  # TensorFlow says so of both
    return os.fsdecode(tensor.item())


def _words(path: str, vocab_size: int, by_word: bool) -> HashTable:
    """Return a table from words to line numbers, or the other way round."""
    kinds = (DataType.STRING, DataType.INT64)
    table = HashTable(*(kinds if by_word else kinds[::-1]))
    columns = (WHOLE_LINE, LINE_NUMBER)
    key, value = columns if by_word else columns[::-1]
    fill_from_text_file(table, path, vocab_size=vocab_size, delimiter=b"\t", key_index=key, value_index=value, offset=0)
    return table


@kernel("GenerateVocabRemapping", shape=lambda node, shapes: [(int(node.attr("num_new_vocab")),), ()], host=(0, 1))
def remap_words(node: Node, env: KernelEnv) -> Run:
    files = env.session.files
    offset, count, old_size = (int(node.attr(name)) for name in ("new_vocab_offset", "num_new_vocab", "old_vocab_size"))

    def run(new_file: Any, old_file: Any) -> Any:
        new_path, old_path = _file_name(new_file, "new"), _file_name(old_file, "old")
        new = _words(files.check(new_path), -1, by_word=False)
        if offset + count > new.size():
            raise InvalidArgument("lookup table size must be larger than last new vocab entry's line")
        old = _words(files.check(old_path), old_size, by_word=True)
        missing = np.empty((), object)
        missing[()] = b""
        words = new.find(np.arange(offset, offset + count), missing)
        found = old.find(words, np.array(-1))
        return found, np.int32((found >= 0).sum())

    return run


# Matrices


def _places(remapping: Any) -> tuple[Any, Any]:
    """Return which new places have an old one, and which these are.

    Raises
    ------
    Unimplemented
        If one old place goes to two new ones.
    """
    new = np.nonzero(remapping >= 0)[0]
    old = remapping[new]
    first: dict[int, int] = {}
    for place, source in zip(new.tolist(), old.tolist(), strict=True):
        if first.setdefault(source, place) != place:
            raise Unimplemented(f"Old ID {source} is mapped to both new ID {first[source]} and {place}, which is not "
                                "supported.")
    return new, old


def _single(tensor: Any, name: str) -> Any:
    if tensor.size != 1:
        raise InvalidArgument(f"The `{name}` tensor must have exactly one element, got tensor of shape "
                              f"{format_shape(tensor.shape)}")
    return tensor.reshape(-1)[0]


def _matrix_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(int(node.attr("num_rows")), int(node.attr("num_cols")))]


@kernel("LoadAndRemapMatrix", shape=_matrix_shape, host=(0, 1, 2, 3, 4))
def load_and_remap_matrix(node: Node, env: KernelEnv) -> Run:
    files, xp = env.session.files, env.xp
    num_rows, num_cols = int(node.attr("num_rows")), int(node.attr("num_cols"))
    chunk = int(node.attr("max_rows_in_memory"))

    def run(path: Any, name: Any, row_remapping: Any, col_remapping: Any, initial: Any) -> Any:
        if row_remapping.ndim != 1:
            raise InvalidArgument("The `row_remapping` tensor must be 1-D, got a tensor of shape "
                                  f"{format_shape(row_remapping.shape)}")
        if row_remapping.size != num_rows:
            raise InvalidArgument(f"Size of row_remapping is {row_remapping.size} instead of being equal to "
                                  f"num_rows={num_rows}")
        rows, old_rows = _places(row_remapping)
        cols: Any = None
        old_cols: Any = None
        if col_remapping.size:
            if col_remapping.size != num_cols:
                raise InvalidArgument(f"Provided col_remapping, but its size is {col_remapping.size} instead of being "
                                      f"equal to num_cols={num_cols}")
            cols, old_cols = _places(col_remapping.reshape(-1))
        tensor = _single(name, "old_tensor_name")
        matrix = np.zeros((num_rows, num_cols), np.float32)
        prefix = os.fsdecode(_single(path, "ckpt_path"))
        if not os.path.exists(files.check(index_path(prefix))):
            raise NotFound(f"{index_path(prefix)}; No such file or directory")
        with BundleReader(prefix, files.check) as reader:
            shape = _check_matrix(reader, tensor, None if cols is not None else num_cols)
            for new, old in _chunks(rows, old_rows, shape[0], chunk):
                part = _rows(reader, tensor, old)
                if cols is None:
                    matrix[new] = part
                else:
                    known = old_cols < shape[1]
                    matrix[np.ix_(new, cols[known])] = part[:, old_cols[known]]
        _fill(matrix, rows, cols, initial.reshape(-1))
        return xp.asarray(matrix)

    return run


def _check_matrix(reader: BundleReader, name: bytes, num_cols: int | None) -> tuple[int, ...]:
    entry = reader.entry(name)
    text, shape = name.decode("utf-8", "replace"), entry.shape
    if entry.dtype != DataType.FLOAT:
        raise InvalidArgument(f"Tensor {text} has invalid type {entry.dtype.label} instead of expected type float")
    if len(shape) != 2:
        raise InvalidArgument(f"Tensor {text} has shape {format_shape(shape)} of invalid rank {len(shape)} instead of "
                              "expected shape of rank 2.")
    if num_cols is not None and num_cols != shape[1]:
        raise InvalidArgument(f"Tensor {text} has shape {format_shape(shape)}, where the size of its 2nd dimension is "
                              f"{shape[1]} instead of being equal to num_cols={num_cols}")
    return shape


def _chunks(new: Any, old: Any, num_rows: int, most: int) -> list[tuple[Any, Any]]:
    """Return new and old rows that exist, in pieces of at most `most` old rows (all at once when not positive)."""
    order = np.argsort(old, kind="stable")
    new, old = new[order], old[order]
    known = old < num_rows
    new, old = new[known], old[known]
    if most <= 0 or not len(old):
        return [(new, old)] if len(old) else []
    numbers = (old - old[0]) // most
    cuts = np.nonzero(numbers[1:] != numbers[:-1])[0] + 1
    return list(zip(np.split(new, cuts), np.split(old, cuts), strict=True))


def _rows(reader: BundleReader, name: bytes, old: Any) -> Any:
    first, last = int(old[0]), int(old[-1])
    part = reader.read(name, TensorSlice(((first, last - first + 1), (0, FULL))))
    return part[old - first]


def _fill(matrix: Any, rows: Any, cols: Any, initial: Any) -> None:
    """Fill what has no old place with the initial values, row by row.

    Raises
    ------
    InvalidArgument
        If there are not as many.
    """
    missing = np.ones(matrix.shape, bool)
    missing[rows if cols is None else np.ix_(rows, cols)] = False
    count = int(missing.sum())
    if initial.size < count:
        raise InvalidArgument(f"initializing_values contained {initial.size} elements, but more missing values remain.")
    if initial.size > count:
        raise InvalidArgument(f"initializing_values contained {initial.size} elements, but only {count} elements were "
                              "used to fill in missing values.")
    matrix[missing] = initial
