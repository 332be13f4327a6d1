"""What image files do to memory, and what happens without Pillow."""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import pytest

from runtime._ext.png_filters import unfilter
from runtime.errors import InvalidArgument, Unimplemented
from runtime.images import pillow, png


def test_jpeg_without_pillow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Unimplemented, match=r"JPEG needs Pillow.*tensor-runtime\[images\]"):
        pillow.decode_jpeg(b"\xff\xd8\xff", 0)


def test_png_needs_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(png.decode(png.encode(image, 6), 0, wide=False), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 2), (1, 9, 3), (33, 21, 4)])
def test_what_is_written_is_read(shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    np.testing.assert_array_equal(png.decode(png.encode(image, 9), 0, wide=dtype is np.uint16), image)


def _claiming(width: int, height: int) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1 << 16))
    return png.SIGNATURE + b"".join(struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
                                    for part in (content, data, b"IEND"))


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (40000, 40000), (2000, 2000)])
def test_a_small_file_of_a_large_image_is_refused(width: int, height: int) -> None:
    with pytest.raises(InvalidArgument, match="PNG size too large|Invalid PNG data"):
        png.decode(_claiming(width, height), 0, wide=False)


def test_a_jpeg_file_of_an_enormous_image_is_refused() -> None:
    small = pillow.encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality=50, progressive=False, optimize=False,
                               chroma_downsampling=True, centimetres=False, density=(1, 1), xmp=b"")
    frame = small.index(b"\xff\xc0")
    huge = small[:frame + 5] + struct.pack(">HH", 65500, 65500) + small[frame + 9:]
    with pytest.raises(InvalidArgument, match="JPEG file is refused"):
        pillow.decode_jpeg(huge, 0)


def test_a_truncated_jpeg_file_is_recovered_where_asked() -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = pillow.encode_jpeg(image, quality=90, progressive=False, optimize=False, chroma_downsampling=True,
                              centimetres=False, density=(1, 1), xmp=b"")
    whole = pillow.decode_jpeg(data, 0)
    with pytest.raises(InvalidArgument, match="Invalid JPEG data"):
        pillow.decode_jpeg(data[:len(data) // 2], 0)
    part = pillow.decode_jpeg(data[:len(data) // 2], 0, recover=True)
    assert part.shape == whole.shape
    np.testing.assert_array_equal(part[:15], whole[:15])


def test_filters_are_bounded_by_the_data() -> None:
    assert unfilter(b"", 0, 5, 1) == b""
    assert unfilter(b"\0\0", 2, 0, 1) == b""
    assert unfilter(b"\1\5\1\2\1\1", 2, 2, 1) == b"\5\6\6\7"
    for data, rows, row_bytes, pixel_bytes in ((b"\0\1", 1, 2, 1), (b"\0" * 9, 3, 3, 1), (b"\0\1", -1, 1, 1),
                                               (b"\0\1", 1, -1, 1), (b"\0\1", 1, 1, 0), (b"\0\1", 1, 2**62, 1)):
        with pytest.raises(ValueError, match="do not hold"):
            unfilter(data, rows, row_bytes, pixel_bytes)
    with pytest.raises(ValueError, match="row 1 names the unknown filter 7"):
        unfilter(b"\0\1\7\2", 2, 1, 1)
