"""Summaries of tensors, images and sounds, as serialised Summary messages.

A value of a Summary has a tag (1), an image (4), a sound (6), the node's name (7), a tensor (8) and metadata (9).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor
from runtime.checkpoint.fields import bytes_field, varint_field
from runtime.dtypes import base
from runtime.images import png
from runtime.ops.objects import object_scalar
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, scalar
from runtime.ops.tensor_messages import tensor_message
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

__all__ = ["wav"]

Run = Callable[..., Any]

_NEARLY_ZERO = 1e-6
_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_COMPRESSION = -1
_DEFAULT_BAD_COLOUR = (255, 0, 0, 255)


def _summary(values: list[bytes]) -> Any:
    return object_scalar(b"".join(bytes_field(1, value) for value in values))


# Tensors


@kernel("TensorSummaryV2", shape=scalar, host=(0, 2))
def _tensor_summary_v2(node: Node, env: KernelEnv) -> Run:
    xp, kind = env.xp, base(node.input_types[1])

    def run(tag: Any, tensor: Any, metadata: Any) -> Any:
        if tag.ndim:
            raise InvalidArgument("tag must be scalar")
        if metadata.ndim:
            raise InvalidArgument("serialized_summary_metadata must be scalar")
        text = tag.item()
        return _summary([(bytes_field(1, text) if text else b"")
                         + bytes_field(8, tensor_message(as_numpy(xp, tensor), kind))
                         + bytes_field(9, metadata.item())])

    return run


@kernel("TensorSummary", shape=scalar)
def _tensor_summary(node: Node, env: KernelEnv) -> Run:
    xp, kind, name = env.xp, base(node.input_types[0]), node.name.encode()
    return lambda tensor: _summary([bytes_field(7, name)
                                    + bytes_field(8, tensor_message(as_numpy(xp, tensor), kind))])


# Images


@kernel("ImageSummary", shape=scalar, host=(0,))
def _image_summary(node: Node, env: KernelEnv) -> Run:
    xp, most = env.xp, int(node.attr("max_images"))
    if most < 1:
        raise InvalidArgument(f"Value for attr 'max_images' of {most} must be at least minimum 1")
    bad_colour = np.array(_DEFAULT_BAD_COLOUR, np.uint8)
    if "bad_color" in node.proto.attr:
        bad_colour = decode_tensor(node.proto.attr["bad_color"].tensor.SerializeToString())
        if bad_colour.dtype != np.uint8:
            raise InvalidArgument(f"bad_color must be uint8, got {bad_colour.dtype}")
    if bad_colour.ndim != 1:
        raise InvalidArgument(f"bad_color must be a vector, got shape {format_shape(bad_colour.shape)}")

    def run(tag: Any, tensor: Any) -> Any:
        if tag.ndim:
            raise InvalidArgument("Tags must be a scalar")
        if tensor.ndim != 4 or tensor.shape[3] not in _CHANNELS:
            raise InvalidArgument(f"Tensor must be 4-D with last dim 1, 3, or 4, not {format_shape(tensor.shape)}")
        batch, height, width, channels = tensor.shape
        if tensor.size >= 2**31:
            raise InvalidArgument(f"Tensor too large for summary {format_shape(tensor.shape)}")
        if bad_colour.size < channels:
            raise InvalidArgument(f"expected depth <= bad_color.size, got depth = {channels}, bad_color.size = "
                                  f"{bad_colour.size}")
        values = []
        for number in range(min(most, batch)):
            image = as_numpy(xp, tensor[number])
            pixels = image if image.dtype == np.uint8 else _as_pixels(image, bad_colour[:channels])
            name = tag.item() + b"/image" + (b"/%d" % number if most > 1 else b"")
            content = (_positive(1, height) + _positive(2, width) + varint_field(3, channels)
                       + bytes_field(4, png.encode(np.ascontiguousarray(pixels), _COMPRESSION)))
            values.append(bytes_field(1, name) + bytes_field(4, content))
        return _summary(values)

    return run


def _positive(number: int, value: int) -> bytes:
    """Return a field, or nothing for 0, the default."""
    return varint_field(number, value) if value else b""


def _as_pixels(image: Any, bad_colour: Any) -> npt.NDArray[np.uint8]:
    """Scale an image to bytes: from 0 to the largest value, or with 0 in the middle if there are values below."""
    dtype = image.dtype
    finite = np.isfinite(image.astype(np.float64)).all(axis=2)
    kept = image[finite].astype(np.float32)
    low, high = (float(kept.min()), float(kept.max())) if kept.size else (np.inf, -np.inf)
    if low < 0:
        largest, span, offset = max(abs(low), abs(high)), 127.0, 128.0
    else:
        largest, span, offset = high, 255.0, 0.0
    scale = dtype.type(0.0 if largest < _NEARLY_ZERO else np.float32(span) / np.float32(largest))
    pixels = np.empty(image.shape, np.uint8)
    pixels[~finite] = bad_colour
    pixels[finite] = (image[finite] * scale + dtype.type(offset)).astype(np.int32).astype(np.uint8)
    return pixels


# Sounds


def wav(samples: npt.NDArray[np.float32], rate_hz: int) -> bytes:
    """Return a sound as a WAV file of 16-bit samples.

    Parameters
    ----------
    samples : float32 (frames, channels)
        From -1 to 1; what lies beyond is cut off.
    rate_hz : int
    """
    frames, channels = samples.shape
    scaled = samples * np.float32(1 << 15)
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # halves away from zero
    data = np.clip(rounded, -32768, 32767).astype("<i2").tobytes()
    head = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    body: bytes = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@kernel("AudioSummaryV2", shape=scalar, host=(0, 2))
def _audio_summary(node: Node, env: KernelEnv) -> Run:
    xp, most = env.xp, int(node.attr("max_outputs"))
    if most < 1:
        raise InvalidArgument(f"Value for attr 'max_outputs' of {most} must be at least minimum 1")

    def run(tag: Any, tensor: Any, sample_rate: Any) -> Any:
        if tag.ndim:
            raise InvalidArgument("Tag must be a scalar")
        if not 2 <= tensor.ndim <= 3:
            raise InvalidArgument(f"Tensor must be 3-D or 2-D, got: {format_shape(tensor.shape)}")
        if sample_rate.ndim:
            raise InvalidArgument("sample_rate must be scalar")
        rate = float(sample_rate)
        if not rate > 0:
            raise InvalidArgument("sample_rate must be > 0")
        sounds = as_numpy(xp, tensor).reshape(*tensor.shape[:2], tensor.shape[2] if tensor.ndim == 3 else 1)
        batch, frames, channels = sounds.shape
        values = []
        for number in range(min(most, batch)):
            _check_sound(frames, channels, rate)
            name = tag.item() + b"/audio" + (b"/%d" % number if most > 1 else b"")
            content = (b"\x0d" + struct.pack("<f", rate) + varint_field(2, channels) + varint_field(3, frames)
                       + bytes_field(4, wav(sounds[number], max(1, round(rate)))) + bytes_field(5, b"audio/wav"))
            values.append(bytes_field(1, name) + bytes_field(6, content))
        return _summary(values)

    return run


def _check_sound(frames: int, channels: int, rate: float) -> None:
    if frames and not channels:
        raise InvalidArgument("audio is null")
    if not 0 < rate < 2**32:
        raise InvalidArgument(f"sample_rate must be in (0, 2^32), got: {rate:g}")
    if not 0 < channels < 2**16:
        raise InvalidArgument(f"num_channels must be in (0, 2^16), got: {channels}")
    if frames * channels * 2 + 36 >= 2**32:
        raise InvalidArgument("Provided channels and frames cannot be encoded as a WAV.")
