"""Strings to code points and back."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import to_numpy
from runtime.ops.objects import filled
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.ops.registry import Shape
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]
CodePoints = npt.NDArray[np.int64]

_COLLECT = "runtime.collect"
_SELF_CONTAINED = ("utf-8", "utf-16-be", "utf-32-be")
"""Encodings that keep no state between characters, and whose characters' lengths follow from the code points."""
_found = threading.local()


def _collect(error: UnicodeError) -> tuple[str, int]:
    """Note where bytes are no character, and go on behind them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _found.places.append((error.start, error.end))
    return "", error.end


codecs.register_error(_COLLECT, _collect)


def _codec(name: str) -> str:
    """Return what Python calls an encoding.

    Raises
    ------
    InvalidArgument
        If it knows none of that name.
    """
    plain = {"UTF-16": "utf-16-be", "UTF-32": "utf-32-be"}.get(name.upper(), name.replace(" ", "-"))
    try:
        codec = codecs.lookup(plain)
    except LookupError:
        codec = None
    if codec is None or not codec._is_text_encoding:
        raise InvalidArgument(f"Could not create converter for input encoding: {name}")
    return codec.name


class _Decoder:
    """Decodes strings of one encoding as a node's attrs say."""

    def __init__(self, node: Node) -> None:
        self.codec = _codec(node.attr("input_encoding").decode("utf-8", "replace"))
        self.errors = node.attr("errors").decode()
        self.filler = int(node.attr("replacement_char"))
        if not 0 <= self.filler <= 0x10FFFF or 0xD800 <= self.filler < 0xE000:
            raise InvalidArgument("replacement_char out of unicode codepoint range")
        self.controls = bool(node.attr("replace_control_characters"))

    def decode(self, text: bytes) -> tuple[CodePoints, CodePoints]:
        """Return the code points of a string, and the bytes at which they begin."""
        _found.places = []
        decoded = text.decode(self.codec, _COLLECT)
        places = _found.places
        if not places:
            points = _code_points(decoded)
            starts = _starts(points, self.codec, decoded)
        else:
            if self.errors == "strict":
                raise InvalidArgument("Invalid formatting on input string")
            points, starts = self._around(text, places)
        if self.controls:
            points, starts = self._without_controls(points, starts)
        return points, starts

    def decode_all(self, texts: Sequence[bytes]) -> tuple[CodePoints, CodePoints, CodePoints]:
        """Return how many code points each string has, all of them in a row, and where they begin in their strings."""
        at_once = self._decode_at_once(texts)
        if at_once is not None:
            return at_once
        pairs = [self.decode(text) for text in texts]
        counts = np.array([points.size for points, _ in pairs], np.int64)
        return counts, _joined([points for points, _ in pairs]), _joined([starts for _, starts in pairs])

    def _decode_at_once(self, texts: Sequence[bytes]) -> tuple[CodePoints, CodePoints, CodePoints] | None:
        """Decode many strings as one, which is several times faster; None where that would not do.

        It would not where something is no character, or a character begins in one string and ends in the next.
        """
        if len(texts) < 2 or self.codec not in _SELF_CONTAINED or self.controls:
            return None
        try:
            decoded = b"".join(texts).decode(self.codec)
        except UnicodeDecodeError:
            return None
        points = _code_points(decoded)
        starts = _starts(points, self.codec, decoded)
        ends = np.cumsum([len(text) for text in texts])
        bounds = np.searchsorted(starts, ends)  # how many code points begin before each string ends
        inner = bounds[bounds < starts.size]
        if (starts[inner] != ends[:inner.size]).any():
            return None
        counts = np.diff(bounds, prepend=0)
        return counts, points, starts - np.repeat(np.concatenate([[0], ends[:-1]]), counts)

    def _around(self, text: bytes, places: Sequence[tuple[int, int]]) -> tuple[CodePoints, CodePoints]:
        """Decode the pieces between what is no character, and put the filler or nothing in its place."""
        points, starts, position = [], [], 0
        for start, end in (*places, (len(text), len(text))):
            piece = text[position:start].decode(self.codec)
            points.append(_code_points(piece))
            starts.append(_starts(points[-1], self.codec, piece) + position)
            if self.errors == "replace" and end > start:
                points.append(np.array([self.filler]))
                starts.append(np.array([start]))
            position = end
        return np.concatenate(points), np.concatenate(starts)

    def _without_controls(self, points: CodePoints, starts: CodePoints) -> tuple[CodePoints, CodePoints]:
        control = points <= 0x1F
        if self.errors == "ignore":
            return points[~control], starts[~control]
        return np.where(control, self.filler, points), starts


def _code_points(text: str) -> CodePoints:
    return np.frombuffer(text.encode("utf-32-le"), np.int32).astype(np.int64)


def _starts(points: CodePoints, codec: str, text: str) -> CodePoints:
    """Return where in the encoded text each code point begins."""
    if codec == "utf-8":
        widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    elif codec.startswith("utf-16"):
        widths = 2 + 2 * (points > 0xFFFF)
    elif codec.startswith("utf-32"):
        widths = np.full(points.shape, 4)
    else:
        widths = np.array([len(character.encode(codec)) for character in text], np.int64)
    ends: CodePoints = np.cumsum(widths)
    return ends - widths


def _decode_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [(None,)] * len(node.output_types)


@kernel("UnicodeDecode", "UnicodeDecodeWithOffsets", shape=_decode_shape)
def _unicode_decode(node: Node, env: KernelEnv) -> Run:
    decoder, dtype = _Decoder(node), to_numpy(node.attr("Tsplits"))
    with_offsets = node.op == "UnicodeDecodeWithOffsets"
    xp = env.xp

    def run(texts: Any) -> list[Any]:
        counts, points, starts = decoder.decode_all(texts.reshape(-1).tolist())
        splits = np.zeros(counts.size + 1, dtype)
        np.cumsum(counts, out=splits[1:])
        outputs = [splits, points.astype(np.int32)]
        if with_offsets:
            outputs.append(starts)
        return [xp.asarray(output) for output in outputs]

    return run


def _joined(parts: Sequence[CodePoints]) -> CodePoints:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


_ENCODINGS = {"UTF-8": "utf-8", "UTF-16-BE": "utf-16-be", "UTF-32-BE": "utf-32-be"}


@kernel("UnicodeEncode", shape=lambda node, shapes: [(None,)], host=(0, 1))
def _unicode_encode(node: Node, env: KernelEnv) -> Run:
    errors, codec = node.attr("errors").decode(), _ENCODINGS[node.attr("output_encoding").decode()]
    filler = int(node.attr("replacement_char"))
    if not 0 <= filler <= 0x10FFFF or 0xD800 <= filler < 0xE000:
        raise InvalidArgument("replacement_char out of unicode codepoint range")

    def run(values: Any, splits: Any) -> Any:
        _check_splits(values, splits)
        points = values.astype(np.int64)
        bounds = splits.astype(np.int64)
        bad = ~_is_character(points)
        if bad.any():
            if errors == "strict":
                raise InvalidArgument("Code point is out of range for Unicode, or is a surrogate.")
            if errors == "replace":
                points = np.where(bad, filler, points)
            else:
                kept = np.concatenate([[0], np.cumsum(~bad)])
                points, bounds = points[~bad], kept[bounds]
        text = points.astype("<u4").tobytes().decode("utf-32-le")
        cuts = bounds.tolist()
        return filled((len(cuts) - 1,), (text[start:end].encode(codec) for start, end in zip(cuts, cuts[1:])))

    return run


def _is_character(points: CodePoints) -> Any:
    """Tell which numbers are code points that can be encoded: in range, and no surrogates."""
    return (points >= 0) & (points <= 0x10FFFF) & ~((points >= 0xD800) & (points < 0xE000))


def _check_splits(values: Any, splits: Any) -> None:
    if values.ndim != 1 or splits.ndim != 1:
        raise InvalidArgument(f"input_values and input_splits must be vectors, got shapes {format_shape(values.shape)} "
                              f"and {format_shape(splits.shape)}")
    if not splits.size:
        raise InvalidArgument("Input_splits should contain elements, but given input_values has 0 elements")
    if int(splits[0]) != 0:
        raise InvalidArgument("First value in input_splits must be zero.")
    if int(splits[-1]) != values.size:
        raise InvalidArgument("Last value in input_splits must be equal to length of input_tensor.")
    if (splits[1:] < splits[:-1]).any():
        raise InvalidArgument("Values in input_splits must be equal or in ascending order.")
