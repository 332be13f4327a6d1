"""Parts of tensors: their specifications in text, and the keys under which their data is found."""

from __future__ import annotations

from dataclasses import dataclass

from runtime import wire
from runtime._ext.errors import Internal, InvalidArgument
from runtime.ops.shapes import format_shape

__all__ = ["FULL", "TensorSlice", "parse_shape_and_slice"]

FULL = -1
"""Length of an extent that takes a whole dimension."""

_BITS_PER_BYTE_OF_SIGNED = 7
_SMALLEST_TWO_BYTE = 64


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A box in a tensor: start and length along each dimension, (0, FULL) for all of it."""

    extents: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> TensorSlice:
        """Return the slice of a specification such as ``0,8:-``.

        Raises
        ------
        InvalidArgument
            If it is malformed.
        """
        extents = []
        for part in text.split(":") if text else ():
            if part == "-":
                extents.append((0, FULL))
                continue
            numbers = part.split(",")
            try:
                start, length = (int(number) for number in numbers)
            except ValueError:
                raise InvalidArgument(f"Expected a pair of numbers or '-' but got '{part}': string = {text}") from None
            if start < 0 or length <= 0:
                raise InvalidArgument(f"Expected non-negative start and positive length but got start = {start}, "
                                      f"length = {length}: string = {text}")
            extents.append((start, length))
        return cls(tuple(extents))

    @classmethod
    def from_proto(cls, data: bytes) -> TensorSlice:
        """Return the slice of a serialised TensorSliceProto."""
        message = wire.TensorSliceProto.FromString(data)
        return cls(tuple((extent.start, extent.length if extent.HasField("length") else FULL)
                         for extent in message.extent))

    def to_proto(self) -> bytes:
        """Return the slice as a serialised TensorSliceProto."""
        message = wire.TensorSliceProto()
        for start, length in self.extents:
            extent = message.extent.add()
            if length != FULL:
                extent.start, extent.length = start, length
        return bytes(message.SerializeToString())

    def __str__(self) -> str:
        return ":".join("-" if length == FULL else f"{start},{length}" for start, length in self.extents)

    @property
    def is_full(self) -> bool:
        """Tell whether it says to take everything."""
        return all(length == FULL for _, length in self.extents)

    def bounds(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Return start and end along each dimension of a tensor of that shape.

        Raises
        ------
        Internal
            If ranks differ or an extent leaves the tensor.
        """
        if len(shape) != len(self.extents):
            raise Internal(f"Mismatching ranks: shape = {format_shape(shape)}, slice = {self}")
        result = []
        for axis, ((start, length), size) in enumerate(zip(self.extents, shape, strict=True)):
            end = size if length == FULL else start + length
            if end > size:
                raise Internal(f"Extent in dimension {axis} out of bounds: shape = {format_shape(shape)}, "
                               f"slice = {self}")
            result.append((start, end))
        return tuple(result)

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the part of a tensor of shape `full`."""
        return tuple(end - start for start, end in self.bounds(full))

    def key(self, name: bytes) -> bytes:
        """Return the key of the part of a tensor of that name: it sorts before all names, by name and extents."""
        parts = [_ordered(0), _ordered_text(name), _ordered(len(self.extents))]
        for start, length in self.extents:
            parts += [_ordered_signed(start), _ordered_signed(length)]
        return b"".join(parts)


def parse_shape_and_slice(text: str) -> tuple[tuple[int, ...], TensorSlice]:
    """Return the shape of the whole tensor and the slice that ``16 3 0,8:-`` says.

    Raises
    ------
    InvalidArgument
        If it is malformed.
    """
    *dims, slice_text = text.split(" ")
    if not dims:
        raise InvalidArgument("Need least two elements in shape_and_slice specification: " + text)
    try:
        shape = tuple(int(dim) for dim in dims)
    except ValueError:
        raise InvalidArgument(f"Non numerical dimension in shape_and_slice: {text}") from None
    part = TensorSlice.parse(slice_text)
    part.bounds(shape)
    return shape, part


# Encodings whose byte order is the order of the values


def _ordered(value: int) -> bytes:
    """Return a number that is not negative: how many bytes follow, and these, the highest first."""
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(data)]) + data


def _ordered_text(text: bytes) -> bytes:
    """Return bytes with an end mark that sorts before every other byte."""
    escaped = bytearray()
    for byte in text:
        escaped.append(byte)
        if byte == 0x00:
            escaped.append(0xFF)
        elif byte == 0xFF:
            escaped.append(0x00)
    return bytes(escaped) + b"\x00\x01"


def _ordered_signed(value: int) -> bytes:
    """Return a signed number: the sign and, in unary, the length stand in the leading bits."""
    magnitude = ~value if value < 0 else value
    if magnitude < _SMALLEST_TWO_BYTE:
        return bytes([(0x80 ^ value) & 0xFF])
    length = magnitude.bit_length() // _BITS_PER_BYTE_OF_SIGNED + 1
    header = ((1 << length) - 1) << (16 - length)
    data = bytearray((value & ((1 << (8 * length)) - 1)).to_bytes(length, "big"))
    data[0] ^= header >> 8
    if length > 1:
        data[1] ^= header & 0xFF
    return bytes(data)
