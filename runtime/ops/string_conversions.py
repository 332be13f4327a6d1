"""Numbers to text and back, formatting, and buckets by fingerprint."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.fingerprint import fingerprint_buckets
from runtime.dtypes import DataType, base, to_numpy
from runtime.ops.objects import map_objects, object_scalar
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import like_input, scalar
from runtime.ops.summarize import summarize_ends

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["parse_number"]

_FLOATS = frozenset({DataType.HALF, DataType.BFLOAT16, DataType.FLOAT, DataType.DOUBLE})
_COMPLEX = frozenset({DataType.COMPLEX64, DataType.COMPLEX128})
_INTEGER_TEXT = re.compile(rb"\s*([+-]?)0*(\d+?)\s*")
_FLOAT_TEXT = re.compile(rb"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf(inity)?|nan)\s*", re.IGNORECASE)
_HEX_FLOAT_TEXT = re.compile(rb"\s*[+-]?0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)([pP][+-]?\d+)?\s*")


# --- numbers to text -------------------------------------------------------------------------------------------------


@kernel("AsString", shape=like_input())
def _as_string(node: Node, env: KernelEnv) -> Callable[..., Any]:
    kind = base(node.input_types[0])
    if kind is DataType.STRING:
        return lambda value: value
    if kind is DataType.BOOL:
        return lambda value: map_objects(lambda item: b"true" if item else b"false", value)
    function = _number_format(node, kind)
    return lambda value: map_objects(function, value)


def _number_format(node: Node, kind: DataType) -> Callable[[Any], bytes]:
    precision, width = int(node.attr("precision")), int(node.attr("width"))
    scientific, shortest = bool(node.attr("scientific")), bool(node.attr("shortest"))
    fill = node.attr("fill").decode("utf-8", "replace")
    inexact = kind in _FLOATS or kind in _COMPLEX
    if not inexact and (scientific or shortest or precision >= 0):
        raise InvalidArgument("scientific and shortest format not supported for datatype " + kind.label
                              if scientific or shortest else "precision not supported for datatype " + kind.label)
    if scientific and shortest:
        raise InvalidArgument("Cannot select both scientific and shortest notation")
    if len(fill) > 1:
        raise InvalidArgument("Fill string must be one or fewer characters")
    if fill and fill not in " +-0#":
        raise InvalidArgument(f"Fill argument not supported: {fill}")
    spec = "%" + fill + (str(width) if width > -1 else "")
    if not inexact:
        spec += "d"
        return lambda item: (spec % int(item)).encode()
    if precision > -1:
        spec += f".{precision}"
    spec += "e" if scientific else "g" if shortest else "f"
    if kind in _COMPLEX:
        return lambda item: f"({_formatted(spec, item.real)},{_formatted(spec, item.imag)})".encode()
    return lambda item: _formatted(spec, item).encode()


def _formatted(spec: str, value: Any) -> str:
    """Format as C does: it shows the sign of a NaN, and fills what is no number with blanks instead of zeros."""
    number = float(value)
    if not np.isfinite(number):
        spec = spec.replace("%0", "%", 1)
    text = spec % number
    return "-" + text if number != number and np.signbit(number) else text


# --- text to numbers -------------------------------------------------------------------------------------------------


@kernel("StringToNumber", shape=like_input())
def _string_to_number(node: Node, env: KernelEnv) -> Callable[..., Any]:
    dtype = to_numpy(node.output_types[0])
    if dtype.kind == "f":
        return lambda text: map_objects(lambda item: _parse_float(item, dtype), text, dtype)
    limits = np.iinfo(dtype)
    return lambda text: map_objects(lambda item: _parse_integer(item, int(limits.min), int(limits.max)), text, dtype)


def parse_number(text: bytes, dtype: np.dtype[Any]) -> Any:
    """Return the number of a dtype that a text spells.

    Raises
    ------
    InvalidArgument
        If it spells none that the dtype holds.
    """
    if dtype.kind == "f":
        return _parse_float(text, dtype)
    limits = np.iinfo(dtype)
    return _parse_integer(text, int(limits.min), int(limits.max))


def _not_a_number(text: bytes) -> InvalidArgument:
    return InvalidArgument(f"StringToNumberOp could not correctly convert string: {text.decode('utf-8', 'replace')}")


def _parse_integer(text: bytes, low: int, high: int) -> int:
    found = _INTEGER_TEXT.fullmatch(text)
    if found is None or len(found[2]) > 20:  # more digits than any value has
        raise _not_a_number(text)
    value = int(found[1] + found[2])
    if not low <= value <= high or (low == 0 and found[1] == b"-"):
        raise _not_a_number(text)
    return value


def _parse_float(text: bytes, dtype: Any) -> Any:
    if _FLOAT_TEXT.fullmatch(text):
        return dtype.type(text)
    if _HEX_FLOAT_TEXT.fullmatch(text):
        return dtype.type(float.fromhex(text.decode()))
    raise _not_a_number(text)


# --- buckets ---------------------------------------------------------------------------------------------------------


@kernel("StringToHashBucketFast", shape=like_input())
def _hash_bucket_fast(node: Node, env: KernelEnv) -> Callable[..., Any]:
    buckets = int(node.attr("num_buckets"))
    if buckets < 1:
        raise InvalidArgument(f"num_buckets must be at least 1, not {buckets}")
    return lambda text: fingerprint_buckets(text, buckets)


# --- formatting ------------------------------------------------------------------------------------------------------


def _format_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return scalar(node, shapes)


@kernel("StringFormat", shape=_format_shape)
def _string_format(node: Node, env: KernelEnv) -> Callable[..., Any]:
    template, placeholder = bytes(node.attr("template")), bytes(node.attr("placeholder"))
    count = int(node.attr("summarize"))
    kinds = [base(kind) for kind in node.input_types]
    pieces = template.split(placeholder) if placeholder else [template]
    if len(pieces) - 1 != len(kinds):
        raise InvalidArgument(f"num placeholders in template and num inputs must match: {len(pieces) - 1} vs. "
                              f"{len(kinds)}")

    def run(*values: Any) -> Any:
        parts = [pieces[0]]
        for piece, value, kind in zip(pieces[1:], values, kinds, strict=True):
            parts.append(summarize_ends(value, kind, count))
            parts.append(piece)
        return object_scalar(b"".join(parts))

    return run
