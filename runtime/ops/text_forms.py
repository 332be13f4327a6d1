"""Strings in other forms: base64, code points, hashes, and texts joined by segment."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._ext.errors import InvalidArgument
from runtime._ext.fingerprint import fingerprints
from runtime._ext.string_hashes import murmur_buckets, siphash_buckets
from runtime.ops.objects import filled, map_objects
from runtime.ops.registry import kernel
from runtime.ops.shapes import format_shape, like_input
from runtime.ops.transfer import as_numpy

if TYPE_CHECKING:
    from runtime.graph.node import Node
    from runtime.step.environment import KernelEnv

Run = Callable[..., Any]

_BASE64 = re.compile(rb"[A-Za-z0-9_-]*={0,2}")


# Hashes


def _buckets(node: Node) -> int:
    buckets = int(node.attr("num_buckets"))
    if buckets < 1:
        raise InvalidArgument(f"num_buckets must be at least 1, not {buckets}")
    return buckets


@kernel("StringToHashBucket", shape=like_input())
def _hash_bucket(node: Node, env: KernelEnv) -> Run:
    buckets = _buckets(node)
    return lambda texts: murmur_buckets(texts, buckets)


@kernel("StringToHashBucketStrong", shape=like_input())
def _hash_bucket_strong(node: Node, env: KernelEnv) -> Run:
    buckets, key = _buckets(node), list(node.attr("key"))
    if len(key) != 2:
        raise InvalidArgument("Key must have 2 elements")
    first, second = (int(word) % 2**64 for word in key)
    return lambda texts: siphash_buckets(texts, buckets, first, second)


@kernel("Fingerprint", shape=lambda node, shapes: [(None if not shapes[0] else shapes[0][0], 8)], host=(1,))
def _fingerprint(node: Node, env: KernelEnv) -> Run:
    xp = env.xp

    def run(data: Any, method: Any) -> Any:
        if method.ndim:
            raise InvalidArgument(f"`method` should be a scalar string: {format_shape(method.shape)}")
        if method.item() != b"farmhash64":
            raise InvalidArgument(f"Unsupported fingerprint method: {method.item().decode('utf-8', 'replace')}")
        if not data.ndim:
            raise InvalidArgument(f"`data` should have at least one dimension: {format_shape(data.shape)}")
        rows = data.shape[0]
        if not rows:
            return xp.zeros((0, 8), xp.uint8)
        host = as_numpy(xp, data)
        if host.dtype.kind != "O":
            texts = _row_bytes(host)
        elif host.size == rows:
            texts = host.reshape(rows)
        else:  # several strings a row: the fingerprint of their fingerprints
            texts = _row_bytes(_little_endian(fingerprints(host.reshape(rows, -1))))
        return xp.asarray(_little_endian(fingerprints(texts)))

    return run


def _little_endian(words: Any) -> Any:
    """Return 64-bit numbers as bytes, uint8 (..., 8)."""
    return words.astype("<u8")[..., None].view(np.uint8)


def _row_bytes(array: Any) -> Any:
    """Return the bytes of each row of an array as an object array."""
    return filled((array.shape[0],), (row.tobytes() for row in np.ascontiguousarray(array)))


# Base64


@kernel("EncodeBase64", shape=like_input())
def _encode_base64(node: Node, env: KernelEnv) -> Run:
    if node.attr("pad"):
        return lambda texts: map_objects(base64.urlsafe_b64encode, texts)
    return lambda texts: map_objects(lambda text: base64.urlsafe_b64encode(text).rstrip(b"="), texts)


@kernel("DecodeBase64", shape=like_input())
def _decode_base64(node: Node, env: KernelEnv) -> Run:
    return lambda texts: map_objects(_from_base64, texts)


def _from_base64(text: bytes) -> bytes:
    if not _BASE64.fullmatch(text):
        raise InvalidArgument("Invalid character found in base64.")
    digits = text.rstrip(b"=")
    if len(digits) < len(text) and len(text) % 4:
        raise InvalidArgument("Invalid character found in base64.")
    if len(digits) % 4 == 1:
        raise InvalidArgument("Base64 string length cannot be 1 modulo 4.")
    try:
        return base64.urlsafe_b64decode(digits + b"=" * (-len(digits) % 4))
    except binascii.Error as error:
        raise InvalidArgument(f"Invalid base64: {error}") from None


# Segments


@kernel("UnsortedSegmentJoin", shape=lambda node, shapes: [
    None if shapes[0] is None or shapes[1] is None else (None, *shapes[0][len(shapes[1]):])], host=(1, 2))
def _unsorted_segment_join(node: Node, env: KernelEnv) -> Run:
    separator = bytes(node.attr("separator"))

    def run(texts: Any, ids: Any, num_segments: Any) -> Any:
        if num_segments.ndim:
            raise InvalidArgument("Number of segments must be a scalar")
        segments = int(num_segments)
        if segments < 0:
            raise InvalidArgument(f"Number of segments must be non-negative but got {segments}")
        if ids.ndim == 0:
            raise InvalidArgument("Segment_ids cannot have rank 0")
        if texts.shape[:ids.ndim] != ids.shape:
            raise InvalidArgument("segment_ids.shape must be a prefix of inputs.shape: "
                                  f"{format_shape(ids.shape)} vs. {format_shape(texts.shape)}")
        flat = ids.reshape(-1)
        if ((flat < 0) | (flat >= segments)).any():
            raise InvalidArgument("segment_ids are not allowed to exceed num_segments or to have negative values.")
        rest = texts.shape[ids.ndim:]
        rows = texts.reshape(flat.size, math.prod(rest))
        result = np.full((segments, *rest), b"", object)
        into = result.reshape(segments, rows.shape[1])
        order = np.argsort(flat, kind="stable")
        found, starts = np.unique(flat[order], return_index=True)
        for segment, mine in zip(found.tolist(), np.split(order, starts)[1:], strict=True):
            for column in range(rows.shape[1]):
                into[segment, column] = separator.join(rows[mine, column])
        return result

    return run
