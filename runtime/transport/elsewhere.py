"""What a step's messages say of tensors that do not travel in them: leases of shared memory, or names in a parcel.

A `runtime.v1.TensorsElsewhere` goes behind a serialized RunStep or RunCallable message as a field that others ignore.
In place of such a tensor the message has an empty one of its type.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.errors import InvalidArgument, NotFound, Unavailable
from runtime._ext.step_codec import scan_last
from runtime.dtypes import DataType, to_numpy
from runtime.transport import handover, roads
from runtime.transport.borrower import claim
from runtime.transport.lender import lender
from runtime.transport.parcel import parse
from runtime.transport.place import Place, here
from runtime.transport.roads import Road

__all__ = ["LARGE_BYTES", "OUT_OF_REACH", "REFUSED", "STREAM_BYTES", "Elsewhere", "Lent", "as_field", "check_size",
           "claimed", "emptied", "find", "is_worth_a_stream", "large_ones", "lend", "offer"]

Array = np.ndarray[Any, Any]

LARGE_BYTES = 1 << 20
"""From here on a segment is cheaper than the message; claiming one takes as long as copying some 256 KiB."""

STREAM_BYTES = 32 << 20
"""From here on a stream of chunks is cheaper than the message, for all tensors of one message together."""

_FIELD = 1000
_TAG = b"\xc2\x3e"
_MAX_TENSORS = 1 << 16


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A TensorsElsewhere that was read.

    Attributes
    ----------
    place : Place or None
        Of whoever wrote it.
    can_share : bool
        Whether memory can be shared with it, as far as the places tell.
    tensors : tuple of wire.runtime_v1.ElsewhereTensor
    key : str
        Of the parcel for those without a lease.
    is_refused : bool
    """

    place: Place | None
    can_share: bool
    tensors: tuple[wire.runtime_v1.ElsewhereTensor, ...]
    key: str
    is_refused: bool


def as_field(message: wire.runtime_v1.TensorsElsewhere) -> bytes:
    """Return what is put behind a serialized message."""
    content = message.SerializeToString()
    size, head = len(content), bytearray(_TAG)
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + content


REFUSED = as_field(wire.runtime_v1.TensorsElsewhere(is_refused=True))
"""The answer to a request whose leases cannot be claimed."""


@functools.cache
def offer(may_share: bool = True) -> bytes:
    """Return the field that says that this process takes tensors of an answer by other roads."""
    message = wire.runtime_v1.TensorsElsewhere()
    if may_share:
        message.place.CopyFrom(here().message())
    return as_field(message)


os.register_at_fork(after_in_child=offer.cache_clear)


def find(message: bytes) -> Elsewhere | None:
    """Return what a serialized message says of tensors elsewhere; None where it says nothing.

    Raises
    ------
    InvalidArgument
        The field is damaged.
    """
    content = scan_last(message, _FIELD)
    return None if content is None else _read(content)


@functools.lru_cache(maxsize=256)
def _offered(content: bytes) -> Elsewhere:
    return _parsed(content)


def _read(content: bytes) -> Elsewhere:
    # Every step of a client has the same offer.
    return _offered(content) if len(content) <= 256 else _parsed(content)


def _parsed(content: bytes) -> Elsewhere:
    message = parse(wire.runtime_v1.TensorsElsewhere, content)
    if len(message.tensor) > _MAX_TENSORS:
        raise InvalidArgument(f"TensorsElsewhere.tensor has {len(message.tensor)} entries; at most {_MAX_TENSORS} are "
                              "allowed")
    place = Place.of(message.place) if message.HasField("place") else None
    return Elsewhere(place, place is not None and here().can_share_with(place), tuple(message.tensor), message.key,
                     message.is_refused)


os.register_at_fork(after_in_child=_offered.cache_clear)


def large_ones(arrays: Sequence[Any]) -> list[int]:
    """Return the positions of arrays that are worth a road of their own."""
    return [index for index, array in enumerate(arrays)
            if array.nbytes >= LARGE_BYTES and isinstance(array, np.ndarray) and array.dtype.isnative
            and not array.dtype.hasobject]


def is_worth_a_stream(arrays: Sequence[Any], positions: Sequence[int]) -> bool:
    """Tell whether arrays that cannot be lent should go in a parcel."""
    return bool(positions) and sum(arrays[index].nbytes for index in positions) >= STREAM_BYTES


def emptied(arrays: Sequence[Array], positions: Sequence[int]) -> list[Array]:
    """Return the arrays with empty ones in some places, of the same types."""
    made = list(arrays)
    for index in positions:
        made[index] = np.empty(0, arrays[index].dtype)
    return made


class Lent:
    """Arrays that lie in segments for one other process.

    Attributes
    ----------
    tensors : list of wire.runtime_v1.ElsewhereTensor
    place : Place
        Where the leases are claimed.
    """

    def __init__(self) -> None:
        self.tensors: list[wire.runtime_v1.ElsewhereTensor] = []
        self.place = Place("", 0, 0)

    @property
    def positions(self) -> list[int]:
        """Return which arrays they are."""
        return [tensor.index for tensor in self.tensors]

    def revoke(self) -> None:
        """End the leases that nobody has claimed."""
        for tensor in self.tensors:
            lender().revoke(tensor.lease.lease)


def lend(arrays: Sequence[Array], positions: Sequence[int]) -> Lent:
    """Put arrays into segments, as far as there is memory for that.

    Copies those that do not lie in one already; so it takes long, and belongs in a thread.
    """
    lent = Lent()
    for index in positions:
        found = handover.lend(arrays[index])
        if found is None:
            break
        lent.place, lease = found
        lent.tensors.append(wire.runtime_v1.ElsewhereTensor(index=index, shape=arrays[index].shape, lease=lease))
    return lent


def claimed(place: Place, tensor: wire.runtime_v1.ElsewhereTensor, datatype: int, what: str) -> Array:
    """Return the array of a lease; writable when nobody else sees its memory.

    Parameters
    ----------
    place : Place
    tensor : wire.runtime_v1.ElsewhereTensor
    datatype : int
        The DataType of the empty tensor in the message.
    what : str
        For errors.

    Raises
    ------
    InvalidArgument
        Shape, type and size do not agree.
    Unavailable, NotFound
        The memory cannot be reached.

    Notes
    -----
    Waits for another process; see `borrower.claim`.
    """
    began = time.perf_counter()
    dtype = to_numpy(DataType(datatype))
    shape = tuple(tensor.shape)
    check_size(tensor, dtype, tensor.lease.nbytes, what)
    if not here().can_share_with(place) or not place.segments:
        raise Unavailable(f"{what} lies in the memory of another host")
    buffer = claim(place.segments, tensor.lease.lease, tensor.lease.nbytes)
    roads.count("received", Road.SHARED_MEMORY, tensor.lease.nbytes, time.perf_counter() - began, 0)
    return np.ndarray(shape, dtype, memoryview(buffer))


def check_size(tensor: wire.runtime_v1.ElsewhereTensor, dtype: np.dtype[Any], nbytes: int, what: str) -> None:
    """Check that a tensor's announced shape takes as many bytes as there are."""
    if dtype.hasobject or len(tensor.shape) > 64 or math.prod(tensor.shape) * dtype.itemsize != nbytes:
        raise InvalidArgument(f"ElsewhereTensor.shape of {what} is {list(tensor.shape)} of {dtype}, and its content "
                              f"has {nbytes} bytes")


OUT_OF_REACH = (Unavailable, NotFound)
"""What `claimed` raises for memory that must come by another road."""
