"""JPEG, GIF and WebP files by Pillow, the extra ``images``; imported when the first such file is met."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from runtime._ext.errors import InvalidArgument, Unimplemented

__all__ = ["decode_frames", "decode_jpeg", "encode_jpeg"]

Array = np.ndarray[Any, Any]

_END_OF_IMAGE = b"\xff\xd9"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_MOST_IN_SEGMENT = 65533
_APP0_END = 20
"""Where the first segment of a JPEG file ends, which says that it is one and how dense the pixels lie."""


def _library(what: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise Unimplemented(f"{what} needs Pillow, which is not installed; install tensor-runtime[images]") from None
    return Image


def _open(data: bytes, what: str) -> Any:
    library = _library(what)
    try:
        return library.open(io.BytesIO(data), formats=[what])
    except library.DecompressionBombError as error:
        raise InvalidArgument(f"the {what} file is refused: {error}") from None
    except (OSError, ValueError, SyntaxError, struct.error):
        return None


def _reserve(count: int, image: Any, channels: int) -> None:
    """Fail before anything is decoded where memory does not hold the pixels."""
    np.empty((count, image.height, image.width, channels), np.uint8)


# --- JPEG ------------------------------------------------------------------------------------------------------------


def decode_jpeg(data: bytes, channels: int, ratio: int = 1, recover: bool = False) -> Array:
    """Return the pixels of a JPEG file, uint8 (height, width, channels).

    Parameters
    ----------
    channels : int
        1 grey, 3 RGB, 0 as the file has it.
    ratio : int
        1, 2, 4 or 8: by how much the image is made smaller while it is decoded.
    recover : bool
        Whether what is there of a truncated file is returned, the rest in grey.

    Raises
    ------
    InvalidArgument
        If the file is damaged.
    """
    wrong = InvalidArgument("jpeg::Uncompress failed. Invalid JPEG data or crop window.")
    image = _open(data + _END_OF_IMAGE if recover else data, "JPEG")
    if image is None:
        raise wrong
    mode = "L" if channels == 1 or (channels == 0 and image.mode == "L") else "RGB"
    _reserve(1, image, len(mode))
    if ratio > 1 or mode == "L":
        image.draft(mode, (max(image.width // ratio, 1), max(image.height // ratio, 1)))
    try:
        image.load()
    except (OSError, ValueError, SyntaxError):
        raise wrong from None
    scale = image.decoderconfig[0] if image.decoderconfig else 1
    if scale < ratio:  # an image that is smaller than one step of the ratio
        image = image.reduce(ratio // max(scale, 1))
    if image.mode != mode:
        image = image.convert(mode)
    return np.array(image).reshape(image.height, image.width, len(mode))


def encode_jpeg(image: Array, *, quality: int, progressive: bool, optimize: bool, chroma_downsampling: bool,
                centimetres: bool, density: tuple[int, int], xmp: bytes) -> bytes:
    """Return an image, uint8 (height, width, 1 or 3), as a JPEG file.

    Parameters
    ----------
    quality : int
        0 to 100.
    density : tuple of int
        Pixels per inch, or per centimetre, across and down.
    xmp : bytes
        What stands in the file as XMP metadata; empty for none.
    """
    library = _library("JPEG")
    grey = image.shape[2] == 1
    picture = library.fromarray(image[..., 0] if grey else image)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=max(quality, 1), progressive=progressive, optimize=optimize,
                 subsampling=0 if grey or not chroma_downsampling else 2, dpi=density)
    data = file.getvalue()
    unit = struct.pack(">BHH", 2 if centimetres else 1, *density)
    head, rest = data[:13] + unit + data[18:_APP0_END], data[_APP0_END:]
    if not xmp:
        return head + rest
    content = _XMP_HEAD + xmp
    if len(content) > _MOST_IN_SEGMENT:
        raise InvalidArgument(f"xmp_metadata has {len(xmp)} bytes, a JPEG file holds "
                              f"{_MOST_IN_SEGMENT - len(_XMP_HEAD)} of it")
    return head + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + rest


# --- GIF and WebP ----------------------------------------------------------------------------------------------------


def decode_frames(data: bytes, what: str, channels: int, most: int) -> Array:
    """Return the frames of a GIF or WebP file, uint8 (frames, height, width, channels).

    Parameters
    ----------
    what : str
        ``GIF`` or ``WEBP``.
    channels : int
        3 RGB, 4 RGBA, 0 RGB or, where the file has it, RGBA.
    most : int
        How many frames are returned at most; more of them are an error unless this is 1.

    Raises
    ------
    InvalidArgument
        If the file is damaged.
    """
    image = _open(data, what)
    if image is None:
        raise InvalidArgument(f"Invalid {what} data, size {len(data)}")
    mode = "RGBA" if channels == 4 or (channels == 0 and image.mode == "RGBA") else "RGB"
    try:
        count = min(getattr(image, "n_frames", 1), most)
        _reserve(count, image, len(mode))
        frames = np.empty((count, image.height, image.width, len(mode)), np.uint8)
        for number in range(count):
            image.seek(number)
            frames[number] = np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError):
        raise InvalidArgument(f"Invalid {what} data, size {len(data)}") from None
    return frames


def count_frames(data: bytes, what: str) -> int:
    """Return how many frames a file has; 1 where that cannot be told."""
    image = _open(data, what)
    try:
        return int(getattr(image, "n_frames", 1))
    except (OSError, ValueError, SyntaxError, EOFError):
        return 1
