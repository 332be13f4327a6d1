"""String ops. Strings are bytes; arrays of them are object arrays and always on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument, OutOfRange
from runtime.ops.broadcasting import incompatible
from runtime.ops.objects import filled, map_objects, object_scalar
from runtime.ops.regex import compile_regex
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import broadcast_shapes, format_shape, like_input, scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv


def _join_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if None in shapes:
        return [None]
    return [next((shape for shape in shapes if shape), ())]


@kernel("StringJoin", shape=_join_shape)
def _string_join(node: Node, env: KernelEnv) -> Callable[..., Any]:
    separator = bytes(node.attr("separator"))

    def run(*parts: Any) -> Any:
        shape = next((part.shape for part in parts if part.ndim), ())
        for part in parts:
            if part.ndim and part.shape != shape:
                raise InvalidArgument(f"Input shapes do not match: {format_shape(shape)} vs. "
                                      f"{format_shape(part.shape)}")
        columns = [np.broadcast_to(part, shape).reshape(-1) for part in parts]
        return filled(shape, (separator.join(row) for row in zip(*columns, strict=True)))

    return run


def _check_scalars(**values: Any) -> None:
    for name, value in values.items():
        if value.ndim:
            raise InvalidArgument(f"{name} must be a scalar, got shape {format_shape(value.shape)}")


@kernel("ShardedFilename", shape=scalar, host=(1, 2))
def _sharded_filename(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(basename: Any, shard: Any, num_shards: Any) -> Any:
        _check_scalars(basename=basename, shard=shard, num_shards=num_shards)
        return object_scalar(basename[()] + b"-%05d-of-%05d" % (int(shard), int(num_shards)))

    return run


@kernel("ShardedFilespec", shape=scalar, host=(1,))
def _sharded_filespec(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(basename: Any, num_shards: Any) -> Any:
        _check_scalars(basename=basename, num_shards=num_shards)
        return object_scalar(basename[()] + b"-?????-of-%05d" % int(num_shards))

    return run


# --- regular expressions ---------------------------------------------------------------------------------------------


@kernel("StaticRegexFullMatch", shape=like_input())
def _static_full_match(node: Node, env: KernelEnv) -> Callable[..., Any]:
    regex = compile_regex(bytes(node.attr("pattern")))
    return lambda text: map_objects(regex.full_match, text, np.bool_)


@kernel("RegexFullMatch", shape=like_input(), host=(1,))
def _full_match(node: Node, env: KernelEnv) -> Callable[..., Any]:

    def run(text: Any, pattern: Any) -> Any:
        if pattern.ndim:
            raise InvalidArgument(f"Pattern must be scalar, but received {format_shape(pattern.shape)}")
        return map_objects(compile_regex(pattern[()]).full_match, text, np.bool_)

    return run


@kernel("StaticRegexReplace", shape=like_input())
def _static_replace(node: Node, env: KernelEnv) -> Callable[..., Any]:
    regex = compile_regex(bytes(node.attr("pattern")))
    rewrite = bytes(node.attr("rewrite"))
    everywhere = bool(node.attr("replace_global"))
    return lambda text: map_objects(lambda item: regex.replace(item, rewrite, everywhere), text)


@kernel("RegexReplace", shape=like_input(), host=(1, 2))
def _replace(node: Node, env: KernelEnv) -> Callable[..., Any]:
    everywhere = bool(node.attr("replace_global"))

    def run(text: Any, pattern: Any, rewrite: Any) -> Any:
        if pattern.ndim:
            raise InvalidArgument(f"Pattern must be scalar, but received {format_shape(pattern.shape)}")
        if rewrite.ndim:
            raise InvalidArgument(f"Rewrite must be scalar, but received {format_shape(rewrite.shape)}")
        regex = compile_regex(pattern[()])
        return map_objects(lambda item: regex.replace(item, rewrite[()], everywhere), text)

    return run


# --- letters and lengths ---------------------------------------------------------------------------------------------


def _by_encoding(node: Node, of_text: Callable[[str], str], of_bytes: Callable[[bytes], bytes]) -> Callable[..., Any]:
    encoding = bytes(node.attr("encoding"))
    if encoding not in (b"", b"utf-8"):
        raise InvalidArgument("only utf-8 or '' (no encoding) is supported, received "
                              + encoding.decode("utf-8", "replace"))
    if encoding:
        return lambda text: map_objects(lambda item: of_text(item.decode("utf-8", "replace")).encode(), text)
    return lambda text: map_objects(of_bytes, text)


@kernel("StringLower", shape=like_input())
def _lower(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _by_encoding(node, str.lower, bytes.lower)


@kernel("StringUpper", shape=like_input())
def _upper(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return _by_encoding(node, str.upper, bytes.upper)


@kernel("StringStrip", shape=like_input())
def _strip(node: Node, env: KernelEnv) -> Callable[..., Any]:
    return lambda text: map_objects(bytes.strip, text)


def _characters(text: bytes) -> list[int]:
    """Return where the UTF-8 characters of a string begin, and its length."""
    starts = [index for index, byte in enumerate(text) if byte & 0xC0 != 0x80]
    return [*starts, len(text)]


@kernel("StringLength", shape=like_input())
def _length(node: Node, env: KernelEnv) -> Callable[..., Any]:
    if node.attr("unit") == b"UTF8_CHAR":
        return lambda text: map_objects(lambda item: len(_characters(item)) - 1, text, np.int32)
    return lambda text: map_objects(len, text, np.int32)


def _substr_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [broadcast_shapes(shapes[0], shapes[1])]


@kernel("Substr", shape=_substr_shape)
def _substr(node: Node, env: KernelEnv) -> Callable[..., Any]:
    by_character = node.attr("unit") == b"UTF8_CHAR"

    def one(text: bytes, position: int, length: int, index: int) -> bytes:
        bounds = _characters(text) if by_character else range(len(text) + 1)
        size = len(bounds) - 1
        if not -size <= position <= size:
            shown = "" if by_character else f" b'{_printable(text)}'"
            raise InvalidArgument(f"pos {position} out of range for string{shown} at index {index}")
        begin = position + size if position < 0 else position
        if length < 0:  # as an unsigned number of bytes it is more than there are
            length = 0 if by_character else size
        return text[bounds[begin]:bounds[min(begin + length, size)]]

    def run(text: Any, position: Any, length: Any) -> Any:
        if position.shape != length.shape:
            raise InvalidArgument(f"pos and len should have the same shape, got: {format_shape(position.shape)} vs. "
                                  f"{format_shape(length.shape)}")
        try:
            texts, positions, lengths = np.broadcast_arrays(text, position, length)
        except ValueError:
            raise incompatible(text.shape, position.shape) from None
        values = (one(item, int(begin), int(count), index) for index, (item, begin, count) in
                  enumerate(zip(texts.flat, positions.flat, lengths.flat, strict=True)))
        return filled(texts.shape, values)

    return run


def _printable(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


# --- splitting and joining -------------------------------------------------------------------------------------------


def _sparse_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None, 2), (None,), (2,)]


def _as_sparse(rows: list[list[bytes]]) -> list[Any]:
    indices = [(row, column) for row, parts in enumerate(rows) for column in range(len(parts))]
    values = [part for parts in rows for part in parts]
    widest = max((len(parts) for parts in rows), default=0)
    return [np.array(indices, np.int64).reshape(-1, 2), filled((len(values),), values),
            np.array([len(rows), widest], np.int64)]


def _split_any(text: bytes, delimiters: bytes, skip_empty: bool) -> list[bytes]:
    """Split at every byte that is one of the delimiters; with none, between all bytes."""
    if not text:
        return []
    if not delimiters:
        return [text[index:index + 1] for index in range(len(text))]
    parts = []
    start = 0
    for index, byte in enumerate(text):
        if byte in delimiters:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part] if skip_empty else parts


@kernel("StringSplit", shape=_sparse_shape, host=(1,))
def _string_split(node: Node, env: KernelEnv) -> Callable[..., Any]:
    skip_empty = bool(node.attr("skip_empty"))

    def run(text: Any, delimiter: Any) -> Any:
        if text.ndim != 1:
            raise InvalidArgument(f"input must be a vector, got shape: {format_shape(text.shape)}")
        if delimiter.ndim:
            raise InvalidArgument(f"delimiter must be a scalar, got shape: {format_shape(delimiter.shape)}")
        return _as_sparse([_split_any(item, delimiter[()], skip_empty) for item in text])

    return run


@kernel("StringSplitV2", shape=_sparse_shape, host=(1,))
def _string_split_v2(node: Node, env: KernelEnv) -> Callable[..., Any]:
    most = int(node.attr("maxsplit"))

    def one(text: bytes, separator: bytes) -> list[bytes]:
        if most == 0:
            return [text]
        if separator:
            return text.split(separator, most)
        parts = text.split(None, most)
        # The last split that is allowed leaves a rest, even when nothing is left.
        return [*parts, b""] if len(parts) == most else parts

    def run(text: Any, separator: Any) -> Any:
        if text.ndim != 1:
            raise InvalidArgument(f"input must be a vector, got shape: {format_shape(text.shape)}")
        if separator.ndim:
            raise InvalidArgument(f"sep must be a scalar, got shape: {format_shape(separator.shape)}")
        return _as_sparse([one(item, separator[()]) for item in text])

    return run


def _reduce_join_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if node.attr("keep_dims") and shapes[0] is not None:
        return [(None,) * len(shapes[0])]
    return [None]


@kernel("ReduceJoin", shape=_reduce_join_shape, host=(1,))
def _reduce_join(node: Node, env: KernelEnv) -> Callable[..., Any]:
    separator = bytes(node.attr("separator"))
    keep = bool(node.attr("keep_dims"))

    def run(text: Any, axes_value: Any) -> Any:
        rank = text.ndim
        axes: list[int] = []
        for axis in axes_value.reshape(-1).tolist():
            if not -rank <= axis < rank:
                raise OutOfRange(f"Invalid reduction dimension {axis} for input with {rank} dimension(s)")
            real = axis + rank if axis < 0 else axis
            if real in axes:
                raise InvalidArgument(f"Duplicate reduction dimension {real}")
            axes.append(real)
        if not axes:
            return text
        kept = [axis for axis in range(rank) if axis not in axes]
        # The axes are joined in the order given: the first one named changes fastest.
        moved = text.transpose(kept + axes[::-1])
        rows = moved.reshape(tuple(text.shape[axis] for axis in kept) + (-1,)) if moved.size else None
        shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(text.shape)) if keep else tuple(
            text.shape[axis] for axis in kept)
        count = int(np.prod([text.shape[axis] for axis in kept], dtype=np.int64))
        if rows is None:
            return filled(shape, [b""] * count)
        return filled(shape, (separator.join(row) for row in rows.reshape(count, -1)))

    return run
