"""Image files as strings: what their bytes say the format is, decoded and encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import Internal, InvalidArgument, Unimplemented
from runtime.dtypes import DataType
from runtime.images import bmp, pillow, png
from runtime.ops.objects import as_object_array
from runtime.ops.registry import Shape, kernel
from runtime.ops.shapes import format_shape, scalar

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Array = np.ndarray[Any, Any]

_ALL_FRAMES = 2**31 - 1
_DCT_METHODS = ("", "INTEGER_FAST", "INTEGER_ACCURATE")

# --- reading ---------------------------------------------------------------------------------------------------------


def _format(data: bytes) -> str:
    """Return the name of the format that the first bytes of a file tell."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"GIF8"):
        return "GIF"
    if data.startswith(bmp.SIGNATURE):
        return "BMP"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        raise Unimplemented("JPEG XL files cannot be decoded here; use JPEG, PNG, GIF, BMP or WebP")
    raise InvalidArgument("Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.")


def _image_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    channels = int(node.attr("channels")) or None
    if node.op == "DecodeImage" and node.attr("expand_animations"):
        return [None]  # of an animation it has four dimensions
    return [(None, None, channels)]


@kernel("DecodeJpeg", "DecodePng", "DecodeImage", shape=_image_shape, host=(0,))
def _decode(node: Node, env: KernelEnv) -> Callable[..., Any]:
    """Decode any format, whatever the op's name says; only animations and BMP belong to `DecodeImage` alone."""
    xp = env.xp
    op = node.op
    channels = int(node.attr("channels"))
    if channels not in (0, 1, 3, 4):
        raise InvalidArgument(f"`channels` must be 0, 1, 3 or 4 but got {channels}")
    target = DataType.UINT8 if op == "DecodeJpeg" else node.attr("dtype")
    animated = op == "DecodeImage" and bool(node.attr("expand_animations"))
    ratio, recover = 1, False
    if op == "DecodeJpeg":
        ratio, recover = int(node.attr("ratio")), bool(node.attr("try_recover_truncated"))
        if ratio not in (1, 2, 4, 8):
            raise InvalidArgument(f"ratio must be 1, 2, 4, or 8, got {ratio}")
        if node.attr("dct_method").decode() not in _DCT_METHODS:
            raise InvalidArgument("dct_method must be one of {'', 'INTEGER_FAST', 'INTEGER_ACCURATE'}")

    def run(contents: Any) -> Any:
        if contents.ndim:
            raise InvalidArgument(f"`contents` must be scalar but got shape{format_shape(contents.shape)}")
        data: bytes = contents.item()
        if not data:
            raise InvalidArgument("Input is empty.")
        name = _format(data)
        if name == "JPEG":
            if channels == 4:
                raise InvalidArgument("JPEG does not support 4 channels")
            pixels = pillow.decode_jpeg(data, channels, ratio, recover)
        elif name == "PNG":
            pixels = png.decode(data, channels, wide=target != DataType.UINT8)
            if target == DataType.FLOAT:
                return xp.asarray(pixels.astype(np.float32) / np.float32(65535))
        elif name == "BMP":
            pixels = _from_bmp(data, op, channels)
        else:
            pixels = _from_frames(data, name, op, channels, animated)
        return xp.asarray(_as_type(pixels, target))

    return run


def _from_bmp(data: bytes, op: str, channels: int) -> Array:
    if op != "DecodeImage":
        raise InvalidArgument("Trying to decode BMP format using a wrong op. Use `decode_bmp` or `decode_image` "
                              f"instead. Op used: {op}")
    if channels == 1:
        raise InvalidArgument("`channels` must be 0, 3 or 4 for BMP, but got 1")
    return bmp.decode(data, channels)


def _from_frames(data: bytes, name: str, op: str, channels: int, animated: bool) -> Array:
    if name == "GIF" and channels not in (0, 3):
        raise InvalidArgument(f"channels must be 0 or 3 for GIF, got {channels}")
    if channels == 1:
        raise InvalidArgument(f"channels must be 0, 3 or 4 for {name}, got {channels}")
    if animated:
        return pillow.decode_frames(data, name, 3 if name == "GIF" else channels, _ALL_FRAMES)
    if op != "DecodeImage":
        count = pillow.count_frames(data, name)
        if count > 1:
            raise InvalidArgument(f"Got {count} frames, but animated gifs can only be decoded by tf.io.decode_gif or "
                                  "tf.io.decode_image")
    frame: Array = pillow.decode_frames(data, name, 3 if name == "GIF" else channels, 1)[0]
    return frame


def _as_type(pixels: Array, target: DataType) -> Array:
    """Return eight-bit pixels as another type: as sixteen bits in the upper half, as floats in [0, 1]."""
    if target == DataType.UINT16 and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(256)
    if target == DataType.FLOAT:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels


# --- writing ---------------------------------------------------------------------------------------------------------


@kernel("EncodeJpeg", shape=scalar, host=(0,))
def _encode_jpeg(node: Node, env: KernelEnv) -> Callable[..., Any]:
    wanted = node.attr("format").decode()
    quality = int(node.attr("quality"))
    if not 0 <= quality <= 100:
        raise InvalidArgument(f"quality must be in [0,100], got {quality}")
    density = int(node.attr("x_density")), int(node.attr("y_density"))
    options: dict[str, Any] = {
        "quality": quality, "progressive": bool(node.attr("progressive")), "optimize": bool(node.attr("optimize_size")),
        "chroma_downsampling": bool(node.attr("chroma_downsampling")),
        "centimetres": node.attr("density_unit") == b"cm", "xmp": node.attr("xmp_metadata"),
        "density": tuple(value & 0xFFFF for value in density),
    }

    def run(image: Any) -> Any:
        if image.ndim != 3:
            raise InvalidArgument(f"image must be 3-dimensional{format_shape(image.shape)}")
        channels = image.shape[2]
        if not wanted and channels not in (1, 3):
            raise InvalidArgument(f"image must have 1 or 3 channels, got {format_shape(image.shape)}")
        expected = {"grayscale": 1, "rgb": 3}.get(wanted, channels)
        if channels != expected:
            raise InvalidArgument(f"format {wanted} expects {expected} channels, got {format_shape(image.shape)}")
        if not image.size or max(image.shape[:2]) > 65535:
            raise Internal("JPEG encoding failed")
        return as_object_array(pillow.encode_jpeg(np.ascontiguousarray(image), **options))

    return run


def _files_shape(node: Node, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [None if shapes[0] is None or len(shapes[0]) < 3 else shapes[0][:-3]]


@kernel("EncodePng", shape=_files_shape, host=(0,))
def _encode_png(node: Node, env: KernelEnv) -> Callable[..., Any]:
    level = int(node.attr("compression"))
    if not -1 <= level <= 9:
        raise InvalidArgument(f"compression should be in [-1,9], got {level}")

    def run(images: Any) -> Any:
        if images.ndim < 3:
            raise InvalidArgument(f"images must be at least rank 3{format_shape(images.shape)}")
        if not 1 <= images.shape[-1] <= 4:
            raise InvalidArgument(f"image must have 1, 2, 3, or 4 channels, got {images.shape[-1]}")
        batch = images.shape[:-3]
        result = np.empty(batch, object)
        if result.size and not images.size:
            places = ", ".join(map(str, range(result.size)))
            raise Internal(f"PNG encoding failed at the following flattened batch indices: {places}")
        for place in np.ndindex(batch):
            result[place] = png.encode(images[place], level)
        return result

    return run
