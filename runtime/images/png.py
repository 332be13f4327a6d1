"""PNG files: all colour types and depths, read with libpng's conversions, written with adaptive filters."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.png_filters import unfilter

__all__ = ["SIGNATURE", "decode", "encode"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Array = np.ndarray[Any, Any]

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row and the steps of both, of the seven passes of an interlaced image."""

_GREY_WEIGHTS = (9797, 19234, 3737)
"""Parts in 32768 of red, green and blue in grey, as libpng rounds them."""
_MOST_ELEMENTS = 2**31 - 1
_HEADER = struct.Struct(">IIBBBBB")


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        return _CHANNELS[self.colour]

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of so many pixels, without the byte of its filter."""
        return (columns * self.channels * self.depth + 7) // 8

    @property
    def pixel_bytes(self) -> int:
        return max(self.channels * self.depth // 8, 1)


def decode(data: bytes, channels: int, wide: bool) -> Array:
    """Return the pixels of a PNG file.

    Parameters
    ----------
    channels : int
        1 grey, 2 grey and alpha, 3 RGB, 4 RGBA, 0 as the file has it (a palette counts as colours).
    wide : bool
        Whether 16 bits per value are wanted: eight bits are spread over them; else the low half is dropped.

    Returns
    -------
    ndarray of uint8 or uint16, shape (height, width, channels)

    Raises
    ------
    InvalidArgument
        If the file is damaged or not PNG.
    MemoryError
        If memory does not hold the pixels.
    """
    wrong = InvalidArgument(f"Invalid PNG data, size {len(data)}")
    header, chunks = _parse(data)
    transparent = b"tRNS" in chunks
    if not channels:
        channels = 3 + transparent if header.colour == _PALETTE else header.channels
    if header.width * header.height * channels > min(_MOST_ELEMENTS, sys.maxsize):
        raise InvalidArgument(f"PNG size too large for int: {header.width} by {header.height}")
    np.empty((header.height, header.width, max(channels, header.channels) * (header.depth + 7) // 8), np.uint8)
    try:
        values = _values(header, chunks[b"IDAT"])
        colours, alpha = _colours(header, values, chunks)
    except (zlib.error, ValueError, KeyError, IndexError, struct.error):
        raise wrong from None
    return _converted(colours, alpha, channels, header, wide)


def _parse(data: bytes) -> tuple[_Header, dict[bytes, bytes]]:
    """Return the header and the chunks that matter, checked; parts of the image data are joined."""
    unreadable = InvalidArgument("Invalid PNG. Failed to initialize decoder.")
    if not data.startswith(SIGNATURE):
        raise unreadable
    found: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            parts.append(content)
        elif kind in (b"IHDR", b"PLTE", b"tRNS"):
            found.setdefault(kind, content)
    found[b"IDAT"] = b"".join(parts)
    try:
        width, height, depth, colour, compression, filtering, interlacing = _HEADER.unpack(found.get(b"IHDR", b""))
    except struct.error:
        raise unreadable from None
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlacing > 1 or not width or not height:
        raise unreadable
    if colour == _PALETTE and (b"PLTE" not in found or len(found[b"PLTE"]) % 3):
        raise unreadable
    return _Header(width, height, depth, colour, bool(interlacing)), found


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4:place + 8], place + 8 + length
        if end + 4 > len(data):
            return
        content = data[place + 8:end]
        # A damaged chunk of pixels is found by its own check sum; without it the pixels would be noise.
        (check,) = struct.unpack_from(">I", data, end)
        if kind in (b"IHDR", b"IDAT", b"PLTE") and zlib.crc32(data[place + 4:end]) != check:
            raise InvalidArgument(f"Invalid PNG data, size {len(data)}")
        yield kind, content
        if kind == b"IEND":
            return
        place = end + 4


def _values(header: _Header, packed: bytes) -> Array:
    """Return the numbers of the image, uint8 or uint16 (height, width, channels of the file)."""
    sizes = [(header.height, header.width)]
    if header.interlaced:
        sizes = [(max(-(-(header.height - row) // row_step), 0), max(-(-(header.width - column) // step), 0))
                 for column, row, step, row_step in _PASSES]
    lengths = [rows * (header.row_bytes(columns) + 1) if rows and columns else 0 for rows, columns in sizes]
    content = zlib.decompressobj().decompress(packed, sum(lengths) or 1)
    if len(content) < sum(lengths):
        raise ValueError("too few pixels")
    view, place = memoryview(content), 0
    if not header.interlaced:
        return _pass(header, view, *sizes[0])
    result = np.zeros((header.height, header.width, header.channels), np.uint16 if header.depth == 16 else np.uint8)
    for (column, row, step, row_step), (rows, columns), length in zip(_PASSES, sizes, lengths, strict=True):
        if length:
            result[row::row_step, column::step] = _pass(header, view[place:place + length], rows, columns)
            place += length
    return result


def _pass(header: _Header, content: memoryview, rows: int, columns: int) -> Array:
    row_bytes = header.row_bytes(columns)
    plain = np.frombuffer(unfilter(content, rows, row_bytes, header.pixel_bytes), np.uint8).reshape(rows, row_bytes)
    if header.depth == 16:
        return plain.view(">u2").astype(np.uint16).reshape(rows, columns, header.channels)
    if header.depth < 8:
        bits = np.unpackbits(plain, axis=1).reshape(rows, -1, header.depth)
        weights = (1 << np.arange(header.depth - 1, -1, -1)).astype(np.uint8)
        plain = (bits * weights).sum(axis=2, dtype=np.uint8)[:, :columns]
    return plain.reshape(rows, columns, header.channels)


def _colours(header: _Header, values: Array, chunks: dict[bytes, bytes]) -> tuple[Array, Array | None]:
    """Return grey or RGB values, and the alpha values where the file has some."""
    dtype = values.dtype.type
    opaque = dtype(np.iinfo(dtype).max)
    marks = chunks.get(b"tRNS")
    if header.colour == _PALETTE:
        palette = np.zeros((256, 3), np.uint8)  # a colour that the palette lacks is black
        colours = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[:256]
        palette[:len(colours)] = colours
        index = values[..., 0]
        table = np.full(256, 255, np.uint8)
        if marks is None:
            return palette[index], None
        table[:len(marks)] = np.frombuffer(marks, np.uint8)[:256]
        return palette[index], table[index][..., None]
    colours = values
    if header.colour in (_GREY_ALPHA, _RGBA):
        return values[..., :-1], values[..., -1:]
    alpha = None
    if marks is not None:
        key = np.array(struct.unpack(f">{header.channels}H", marks))
        alpha = np.where((values == key).all(axis=-1, keepdims=True), dtype(0), opaque)
    if header.depth < 8:
        colours = values * dtype(255 // (2**header.depth - 1))
    return colours, alpha


def _converted(colours: Array, alpha: Array | None, channels: int, header: _Header, wide: bool) -> Array:
    """Return the pixels with the channels and the width that are asked for."""
    dtype = colours.dtype
    if channels < 3 and colours.shape[-1] == 3:
        total = (colours.astype(np.uint32) * np.array(_GREY_WEIGHTS, np.uint32)).sum(-1, np.uint32, keepdims=True)
        colours = ((total + (16384 if dtype.itemsize == 2 else 0)) >> 15).astype(dtype)
    elif channels >= 3 and colours.shape[-1] == 1:
        colours = np.repeat(colours, 3, axis=-1)
    if channels % 2 == 0:
        if alpha is None:
            # Of few bits, libpng's filler has no more than those.
            alpha = np.full((*colours.shape[:2], 1), 2**header.depth - 1, dtype)
        colours = np.concatenate((colours, alpha), axis=-1)
    if wide and dtype == np.uint8:
        return colours.astype(np.uint16) * np.uint16(257)
    if not wide and dtype == np.uint16:
        return (colours >> np.uint16(8)).astype(np.uint8)
    return np.ascontiguousarray(colours)


# --- writing ---------------------------------------------------------------------------------------------------------

_COLOUR_OF = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB, 4: _RGBA}


def encode(image: Array, level: int) -> bytes:
    """Return an image as a PNG file.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width, channels)
        With 1 to 4 channels, and at least one pixel.
    level : int
        Of zlib: 0 fastest to 9 smallest, -1 its usual one.
    """
    height, width, channels = image.shape
    depth = 8 * image.dtype.itemsize
    header = _HEADER.pack(width, height, depth, _COLOUR_OF[channels], 0, 0, 0)
    rows = np.ascontiguousarray(image, image.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    packed = zlib.compress(_filtered(rows, channels * depth // 8).tobytes(), level)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _filtered(rows: Array, step: int) -> Array:
    """Return the rows behind their filters: for each row the filter whose differences are smallest."""
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], corner[:, step:] = rows[:, :-step], above[:, :-step]
    guesses = (np.zeros_like(rows), left, above, ((left.astype(np.uint16) + above) // 2).astype(np.uint8),
               _nearest(left, above, corner))
    best = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    least = np.full(rows.shape[0], np.inf)
    for number, guess in enumerate(guesses):
        differences = rows - guess
        size = np.abs(differences.view(np.int8).astype(np.int16)).sum(axis=1)
        smaller = size < least
        least = np.where(smaller, size, least)
        best[smaller, 0], best[smaller, 1:] = number, differences[smaller]
    return best


def _nearest(left: Array, above: Array, corner: Array) -> Array:
    """Return, for every byte, the neighbour that is nearest to left + above - corner."""
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    first = (to_left <= to_above) & (to_left <= to_corner)
    return np.where(first, left, np.where(to_above <= to_corner, above, corner))
