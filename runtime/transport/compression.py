"""Compression of chunks: zlib, which is always there, and zstd by the extra of that name."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from runtime import wire
from runtime._ext.errors import DataLoss, InvalidArgument, Unimplemented

__all__ = ["compressor", "decompressor", "number_of"]

Compress = Callable[[memoryview], bytes]
Decompress = Callable[[memoryview, int], bytes]

# Faster than a network of 1 Gbit/s on one core; higher levels gain little on tensors.
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 1
_NAMES = {"": wire.runtime_v1.NONE, "zlib": wire.runtime_v1.ZLIB, "zstd": wire.runtime_v1.ZSTD}


def number_of(name: str | None) -> wire.runtime_v1.Compression:
    """Return the number on the wire of a compression by its name; None is none.

    Raises
    ------
    InvalidArgument
        There is none of that name.
    """
    number = _NAMES.get(name or "")
    if number is None:
        raise InvalidArgument(f"compression is {name!r}; it may be None, 'zlib' or 'zstd'")
    return number


def compressor(number: int) -> Compress | None:
    """Return what compresses a chunk; None for no compression.

    Raises
    ------
    Unimplemented
        The library is not installed.
    """
    if number == wire.runtime_v1.NONE:
        return None
    if number == wire.runtime_v1.ZLIB:
        return lambda data: zlib.compress(data, _ZLIB_LEVEL)
    compress: Compress = _zstd().ZstdCompressor(level=_ZSTD_LEVEL).compress
    return compress


def decompressor(number: int) -> Decompress | None:
    """Return ``decompress(data, raw_bytes)``, which never makes more than it should; None for no compression.

    Raises
    ------
    InvalidArgument
        No such compression is known.
    Unimplemented
        The library is not installed.
    """
    if number == wire.runtime_v1.NONE:
        return None
    if number == wire.runtime_v1.ZLIB:
        return _unzlib
    if number != wire.runtime_v1.ZSTD:
        raise InvalidArgument(f"Manifest.compression is {number}, which is not known here")
    library = _zstd()

    def unzstd(data: memoryview, raw_bytes: int) -> bytes:
        try:
            made: bytes = library.ZstdDecompressor().decompressobj().decompress(bytes(data))
        except library.ZstdError as error:
            raise DataLoss(f"Chunk.content is no valid zstd: {error}") from None
        return made

    def checked(data: memoryview, raw_bytes: int) -> bytes:
        # The frame says what it unpacks to; one that does not, or says otherwise, is not unpacked.
        try:
            announced = library.frame_content_size(bytes(data[:18]))
        except library.ZstdError as error:
            raise DataLoss(f"Chunk.content is no valid zstd: {error}") from None
        if announced != raw_bytes:
            raise DataLoss(f"Chunk.content unpacks to {announced} bytes; Chunk.raw_bytes is {raw_bytes}")
        return unzstd(data, raw_bytes)

    return checked


def _unzlib(data: memoryview, raw_bytes: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        made = unpacking.decompress(data, raw_bytes + 1)
    except zlib.error as error:
        raise DataLoss(f"Chunk.content is no valid zlib: {error}") from None
    if not unpacking.eof:
        raise DataLoss(f"Chunk.content of {len(data)} bytes does not end after the {raw_bytes} bytes of "
                       "Chunk.raw_bytes")
    return made


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise Unimplemented("compression with zstd needs the package zstandard: pip install 'tensor-runtime[zstd]'"
                            ) from error
    return zstandard
