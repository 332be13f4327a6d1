"""Cases of image files: made here, read by both sides; written by both sides, read here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from runtime.images import pillow, png
from tests.ops.case import Case, op_case

SMOOTH_JPEG = 4
"""How far values of a JPEG image may be from TensorFlow's: decoders round transforms and colours in their own way."""


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from _read_png()
    yield from _damaged()
    yield from _read_jpeg()
    yield from _read_bmp()
    yield from _read_gif()
    yield from _written()


def picture(height: int, width: int, channels: int, dtype: Any = np.uint8) -> np.ndarray:
    """Return a picture with gradients, edges and some noise."""
    rows, columns, parts = np.mgrid[0:height, 0:width, 0:channels]
    values = (rows * 7 + columns * 5 + parts * 40) % 256 + np.random.default_rng(3).integers(0, 8, rows.shape)
    return (np.clip(values, 0, 255) * (257 if dtype == np.uint16 else 1)).astype(dtype)


def smooth(height: int, width: int) -> np.ndarray:
    """Return a picture without edges, of which a JPEG file keeps nearly all."""
    rows, columns = np.mgrid[0:height, 0:width]
    parts = (rows * 200 // height + 20, columns * 200 // width + 30, 200 - rows * 90 // height)
    return np.stack(parts, axis=-1).astype(np.uint8)


def saved(image: np.ndarray, kind: str, **options: Any) -> bytes:
    """Return a file as Pillow writes it."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, kind, **options)
    return file.getvalue()


def chunked(width: int, height: int, depth: int, colour: int, packed: bytes, *more: tuple[bytes, bytes],
            interlaced: int = 0) -> bytes:
    """Return a PNG file of rows that are filtered already."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    middle = b"".join(chunk(*part) for part in more)
    return (png.SIGNATURE + chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(packed))
            + chunk(b"IEND", b""))


def _low_depths() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(5)
    palette = random.integers(0, 256, 3 * 16).astype(np.uint8).tobytes()
    for depth in (1, 2, 4, 8):
        row_bytes = (11 * depth + 7) // 8
        rows = random.integers(0, 256 if depth < 8 else 16, (7, row_bytes + 1)).astype(np.uint8)
        rows[:, 0] = 0
        yield f"grey of {depth} bits", chunked(11, 7, depth, 0, rows.tobytes())
        yield f"grey of {depth} bits, one clear", chunked(11, 7, depth, 0, rows.tobytes(), (b"tRNS", b"\0\1"))
        table = (b"PLTE", palette[:3 * min(2**depth, 16)])
        yield f"palette of {depth} bits", chunked(11, 7, depth, 3, rows.tobytes(), table)
        yield f"palette of {depth} bits, two clear", chunked(11, 7, depth, 3, rows.tobytes(), table,
                                                             (b"tRNS", b"\0\x80"))


def _all_filters() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(6)
    for depth, colour, step in ((8, 0, 1), (8, 2, 3), (8, 4, 2), (8, 6, 4), (16, 0, 2), (16, 2, 6), (16, 6, 8)):
        rows = random.integers(0, 256, (10, 9 * step + 1)).astype(np.uint8)
        rows[:, 0] = np.arange(10) % 5
        yield f"{depth} bits, colour {colour}", chunked(9, 10, depth, colour, rows.tobytes())
    key = struct.pack(">HHH", 1, 2, 3)
    rows = np.tile(np.array([1, 2, 3, 4, 5, 6], np.uint8), (2, 1))
    yield "one colour clear", chunked(2, 2, 8, 2, np.insert(rows, 0, 0, axis=1).tobytes(), (b"tRNS", key))
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for width, height in ((11, 9), (3, 2), (1, 1)):
        for depth, colour, samples in ((8, 2, 3), (16, 0, 1), (1, 0, 1)):
            packed = b""
            for column, row, step, row_step in passes:
                rows, columns = max(-(-(height - row) // row_step), 0), max(-(-(width - column) // step), 0)
                if rows and columns:
                    part = random.integers(0, 256, (rows, (columns * samples * depth + 7) // 8 + 1)).astype(np.uint8)
                    part[:, 0] = random.integers(0, 5, rows)
                    packed += part.tobytes()
            yield f"interlaced {width} {height} {depth}", chunked(width, height, depth, colour, packed, interlaced=1)


def _read_png() -> Iterator[Case]:
    for label, data in (*_low_depths(), *_all_filters()):
        for channels in (0, 1, 3, 4):
            for dtype in (np.uint8, np.uint16):
                yield op_case("DecodePng", data, name=label, channels=channels, dtype=dtype)
    for channels in (1, 2, 3, 4):
        data = png.encode(picture(9, 13, channels), -1)
        yield op_case("DecodePng", data, name=f"ours of {channels}")
        for dtype in (np.uint8, np.uint16, np.float32):
            yield op_case("DecodeImage", data, name=f"ours of {channels}", dtype=dtype)
        yield op_case("DecodeJpeg", data, name=f"ours of {channels}")
        yield op_case("DecodePng", png.encode(picture(9, 13, channels, np.uint16), 9), name=f"wide of {channels}",
                      dtype=np.uint16)


def _damaged() -> Iterator[Case]:
    good = png.encode(picture(9, 13, 3), -1)
    for label, data in (("empty", b""), ("text", b"no image"), ("short", good[:60]), ("header", good[:20]),
                        ("bits", good[:50] + bytes([good[50] ^ 255]) + good[51:]),
                        ("filter", chunked(1, 1, 8, 0, b"\x09\0")), ("few", chunked(3, 3, 8, 2, b"\0\0")),
                        ("palette", chunked(1, 1, 8, 3, b"\0\x09", (b"PLTE", b"\0\0\0")))):
        yield op_case("DecodePng", data, name=label)
        yield op_case("DecodeImage", data, name=label)
    for channels in (2, 5):
        yield op_case("DecodePng", good, channels=channels)
    yield op_case("DecodePng", np.array([good], object))
    jpeg = saved(smooth(20, 30), "JPEG")
    yield op_case("DecodeJpeg", jpeg[:len(jpeg) - 40], name="short", text=False)
    yield op_case("DecodeJpeg", jpeg[:30], name="header", text=False)
    yield op_case("DecodeJpeg", jpeg, channels=4)
    yield op_case("DecodeJpeg", jpeg, ratio=3)
    yield op_case("DecodeJpeg", jpeg, dct_method="unknown")


def _close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Return how decoded JPEG images differ by more than their decoders do."""
    mine, other = ours[0], theirs[0]
    if mine.shape != other.shape:
        return f"the shape is {mine.shape}, TensorFlow's {other.shape}"
    scale = {np.dtype(np.uint16): 256, np.dtype(np.float32): 1 / 255}.get(mine.dtype, 1)
    apart = np.abs(mine.astype(np.float64) - other.astype(np.float64)).max(initial=0) / scale
    return "" if apart <= SMOOTH_JPEG else f"values differ by {apart}, more than {SMOOTH_JPEG}"


def _read_jpeg() -> Iterator[Case]:
    files = {"colour": saved(smooth(33, 47), "JPEG", quality=95), "grey": saved(smooth(33, 47)[..., :1], "JPEG"),
             "progressive": saved(smooth(33, 47), "JPEG", progressive=True), "one pixel": saved(smooth(1, 1), "JPEG"),
             "444": saved(smooth(16, 5), "JPEG", subsampling=0)}
    for label, data in files.items():
        for channels in (0, 1, 3):
            yield op_case("DecodeJpeg", data, name=label, channels=channels, compare=_close)
        for ratio in (2, 4, 8):
            yield op_case("DecodeJpeg", data, name=label, ratio=ratio, compare=_close)
    data = files["colour"]
    for method in ("INTEGER_FAST", "INTEGER_ACCURATE"):
        yield op_case("DecodeJpeg", data, dct_method=method, compare=_close)
    for dtype in (np.uint8, np.uint16, np.float32):
        yield op_case("DecodeImage", data, dtype=dtype, compare=_close)
    yield op_case("DecodePng", data, compare=_close)


def _bmp(bits: int, height: int = 3, width: int = 3) -> bytes:
    row = (width * bits // 8 + 3) // 4 * 4
    pixels = bytes(i % 256 for i in range(row * abs(height)))
    return (b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(pixels), 0, 0, 0, 0) + pixels)


def _read_bmp() -> Iterator[Case]:
    for bits in (8, 24, 32):
        for height in (3, -2):
            yield op_case("DecodeImage", _bmp(bits, height), name=f"{bits} {height}")
    for dtype in (np.uint16, np.float32):
        yield op_case("DecodeImage", _bmp(24), dtype=dtype)
    yield op_case("DecodeImage", _bmp(16), name="16")
    yield op_case("DecodeImage", _bmp(24), channels=1)
    for bits in (8, 24, 32):
        for channels in (3, 4):
            yield op_case("DecodeImage", _bmp(bits), name=f"{bits}", channels=channels)
    for label, data in (("short", _bmp(24)[:50]), ("long", _bmp(24) + b"12"), ("header", _bmp(24)[:20]),
                        ("no width", _bmp(24, 2, 0)), ("no height", _bmp(24, 0))):
        yield op_case("DecodeImage", data, name=label)
    yield op_case("DecodeJpeg", _bmp(24))


def _read_gif() -> Iterator[Case]:
    frames = [Image.fromarray(picture(6, 7, 3) // 64 * 64 + shift).quantize(32) for shift in (0, 20, 40)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    animation = file.getvalue()
    one = io.BytesIO()
    frames[0].save(one, "GIF")
    for data in (animation, one.getvalue()):
        for expand in (False, True):
            yield op_case("DecodeImage", data, expand_animations=expand)
        yield op_case("DecodeImage", data, channels=3)
        yield op_case("DecodeImage", data, channels=4)
        yield op_case("DecodeImage", data, dtype=np.float32)
    yield op_case("DecodeJpeg", one.getvalue())
    yield op_case("DecodePng", animation, text=False)
    yield op_case("DecodeImage", animation[:30], name="short", text=False)


def _read_webp() -> Iterator[Case]:
    for channels in (3, 4):
        data = saved(picture(9, 13, channels), "WEBP", lossless=True, exact=True)
        for wanted in (0, 3, 4):
            yield op_case("DecodeImage", data, name=f"{channels}", channels=wanted, expand_animations=False)


def _same_png(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Return whether two files hold different images; how they are packed is up to the writer."""
    for mine, other in zip(ours[0].reshape(-1), theirs[0].reshape(-1), strict=True):
        for wide in (False, True):
            if not np.array_equal(png.decode(mine, 0, wide), png.decode(other, 0, wide)):
                return "the files hold different images"
    return "" if ours[0].shape == theirs[0].shape else "the shapes differ"


def _same_jpeg(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    mine, other = ours[0].item(), theirs[0].item()
    if mine[:20] != other[:20]:
        return f"the head is {mine[:20]!r}, TensorFlow's {other[:20]!r}"
    if (b"a remark" in mine) != (b"a remark" in other):
        return "one has metadata, the other has not"
    return _close([pillow.decode_jpeg(mine, 0)], [pillow.decode_jpeg(other, 0)])


def _written() -> Iterator[Case]:
    for dtype in (np.uint8, np.uint16):
        for channels in (1, 2, 3, 4):
            yield op_case("EncodePng", picture(7, 9, channels, dtype), compare=_same_png)
        for level in (0, 1, 9):
            yield op_case("EncodePng", picture(7, 9, 3, dtype), compression=level, compare=_same_png)
    many = np.stack([picture(4, 5, 3), picture(4, 5, 3) // 2])
    yield op_case("EncodePng", many, compare=_same_png)
    yield op_case("EncodePng", many[:0], compare=_same_png)
    yield op_case("EncodePng", picture(4, 5, 5))
    yield op_case("EncodePng", picture(4, 5, 3)[0])
    yield op_case("EncodePng", picture(4, 5, 3)[:0])
    yield op_case("EncodePng", picture(4, 5, 3), compression=10)
    colour, grey = smooth(24, 40), smooth(24, 40)[..., :1]
    for image in (colour, grey):
        for options in ({}, {"quality": 100}, {"quality": 30}, {"progressive": True}, {"optimize_size": True},
                        {"chroma_downsampling": False}, {"xmp_metadata": "a remark"},
                        {"density_unit": "cm", "x_density": 77, "y_density": 55}):
            yield op_case("EncodeJpeg", image, compare=_same_jpeg, **options)
    yield op_case("EncodeJpeg", colour, format="rgb", compare=_same_jpeg)
    yield op_case("EncodeJpeg", colour, quality=0, compare=_same_jpeg)
    yield op_case("EncodeJpeg", colour, format="grayscale")
    yield op_case("EncodeJpeg", colour, quality=101)
    yield op_case("EncodeJpeg", colour[..., :2])
    yield op_case("EncodeJpeg", colour[0])
    yield op_case("EncodeJpeg", colour[:0])
