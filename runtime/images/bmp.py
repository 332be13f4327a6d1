"""BMP files without compression: 8, 24 and 32 bits per pixel."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument

__all__ = ["SIGNATURE", "decode"]

SIGNATURE = b"BM"
_HEADER_BYTES = 32


def decode(data: bytes, channels: int) -> np.ndarray[Any, Any]:
    """Return the pixels of a BMP file, uint8 (height, width, channels): 1 as stored, 3 RGB, 4 RGBA.

    Parameters
    ----------
    channels : int
        3, 4, or 0 for what the file has.

    Raises
    ------
    InvalidArgument
        If the file is damaged, or has pixels of other sizes.
    """
    if len(data) < _HEADER_BYTES:
        raise InvalidArgument(f"Incomplete bmp content, requires at least {_HEADER_BYTES} bytes to find the header "
                              f"size, width, height, and bpp, got {len(data)} bytes")
    (start,) = struct.unpack_from("<i", data, 10)
    width, height = struct.unpack_from("<ii", data, 18)
    (bits,) = struct.unpack_from("<H", data, 28)
    found = bits // 8
    if bits % 8 or found not in (1, 3, 4):
        raise InvalidArgument(f"Number of channels inherent in the image must be 1, 3 or 4, was {found}")
    rows = abs(height)
    if width <= 0:
        raise InvalidArgument("Width must be positive")
    if not rows:
        raise InvalidArgument("Height must be nonzero")
    row_bytes = (width * found + 3) // 4 * 4
    gap = len(data) - (start + row_bytes * rows)
    if start < 0 or gap:
        raise InvalidArgument("Input size should match (header_size + row_size * abs_height) but they differ by "
                              f"{gap}")
    stored = np.frombuffer(data, np.uint8, row_bytes * rows, start).reshape(rows, row_bytes)
    pixels = stored[:, :width * found].reshape(rows, width, found)
    if height > 0:  # the lowest row comes first
        pixels = pixels[::-1]
    order = [0] if found == 1 else [2, 1, 0, 3][:found]
    colours = pixels[..., order]
    if channels >= 3 and found == 1:
        colours = np.repeat(colours, 3, axis=-1)
    if channels == 3:
        colours = colours[..., :3]
    elif channels == 4 and found < 4:
        colours = np.concatenate((colours, np.full((rows, width, 1), 255, np.uint8)), axis=-1)
    return np.ascontiguousarray(colours)
