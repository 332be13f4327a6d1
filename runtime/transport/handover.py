"""RecvTensor between two of our own workers: a tensor in shared memory, or in a parcel when no message can hold it.

The receiver says in the request's ``transport_options`` where it runs; a sender of the same user and boot then puts a
large tensor into a segment, and its answer has the lease in place of the content. On another host, a tensor that is
too large for a message is received as a parcel, whose key is in the answer. Whoever does not know these options ignores
them, as TensorFlow does, and the tensor travels in the message.
"""

from __future__ import annotations

import functools
import math
import os
import time
from typing import Any

import numpy as np
from google.protobuf.message import Message

from runtime import wire
from runtime._ext import shared_arrays
from runtime._ext.buffer_pool import Buffer
from runtime._ext.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from runtime.dtypes import DataType, to_numpy
from runtime.transport import roads, segments
from runtime.transport.borrower import ANSWER_S, claim
from runtime.transport.lender import lender
from runtime.transport.parcel import parse
from runtime.transport.place import Place, here
from runtime.transport.roads import Road

__all__ = ["MESSAGE_BYTES", "hold_arrays", "in_parcel", "is_in_segment", "is_wanted", "lend", "lend_tensor",
           "of_parcel", "offer", "parcel_key", "refusal", "take_back", "take_tensor", "takes_parcel"]

Array = np.ndarray[Any, Any]

_PREFIX = "type.googleapis.com/"
_OFFER = _PREFIX + wire.runtime_v1.SharedMemoryOffer.DESCRIPTOR.full_name
_REFUSAL = _PREFIX + wire.runtime_v1.SharedTensorRefusal.DESCRIPTOR.full_name
_TENSOR = _PREFIX + wire.runtime_v1.SharedTensor.DESCRIPTOR.full_name
_PARCEL = _PREFIX + wire.runtime_v1.ParcelTensor.DESCRIPTOR.full_name

MESSAGE_BYTES = 1 << 30
"""The largest tensor that goes to our own tasks in a message."""


@functools.cache
def offer() -> bytes:
    """Return what goes behind a serialized RecvTensorRequest: that this process can take the tensor from a segment."""
    request = wire.RecvTensorRequest()
    request.transport_options.type_url = _OFFER
    request.transport_options.value = wire.runtime_v1.SharedMemoryOffer(
        place=here().message(), takes_parcels=True).SerializeToString()
    return request.SerializeToString()


os.register_at_fork(after_in_child=offer.cache_clear)


def hold_arrays() -> bool:
    """Have large arrays that steps make from now on lie in segments, so that other tasks of this host get no copy.

    For a process that is a task of a cluster and nothing else: a child that is forked would share its arrays.

    Returns
    -------
    bool
        False where no memory can be lent to others.
    """
    try:
        lender()  # which also gives back what is idle
    except Unavailable:
        return False
    shared_arrays.install(lambda nbytes: segments.pool().take(nbytes), segments.SHARED_BYTES)
    return True


def is_wanted(options: Any, array: Array) -> bool:
    """Tell whether a receiver should get a tensor by a segment.

    Parameters
    ----------
    options : google.protobuf.Any
        Of the request.
    array : ndarray
    """
    if array.nbytes < segments.SHARED_BYTES or array.dtype.hasobject or options.type_url != _OFFER:
        return False
    place = Place.of(parse(wire.runtime_v1.SharedMemoryOffer, options.value).place)
    return here().can_share_with(place) and not here().is_same_process(place)


def lend(array: Array, as_it_is: bool = False) -> tuple[Place, wire.runtime_v1.Lease] | None:
    """Put an array into a segment, if it does not lie in one, and lend it.

    Parameters
    ----------
    array : ndarray
    as_it_is : bool
        Lend the memory of an array that a step has made, too, which the receiver must not write to then. The array is
        not changed in place until the lease ends.

    Returns
    -------
    tuple of (Place, Lease) or None
        Where it is claimed, and how; None where no memory can be lent.
    """
    began = time.perf_counter()
    buffer = None
    if array.flags.c_contiguous:
        buffer = segments.buffer_of(array) or (segments.block_of(array) if as_it_is else None)
    is_there = buffer is not None and buffer.nbytes == array.nbytes
    try:
        address = lender().address
        if buffer is None or not is_there:
            buffer = segments.pool().take(array.nbytes)
            _fill(buffer, array)
    except (ResourceExhausted, Unavailable):
        return None
    place = here()
    number = lender().lend(buffer, is_there, array if is_there else None)
    roads.count("sent", Road.SHARED_MEMORY, array.nbytes, time.perf_counter() - began, not is_there)
    return (Place(place.boot_id, place.user_id, place.process, address),
            wire.runtime_v1.Lease(lease=number, nbytes=array.nbytes, is_read_only=is_there))


def is_in_segment(array: Array) -> bool:
    """Tell whether a step has made an array in a segment, and it is all of it: it is then lent without a copy."""
    block = segments.block_of(array) if array.flags.c_contiguous else None
    return block is not None and block.nbytes == array.nbytes


def lend_tensor(array: Array) -> bytes | None:
    """Lend a tensor as it is; see `lend`.

    Returns
    -------
    bytes or None
        What is put behind a serialized RecvTensorResponse whose tensor is empty; None where no memory can be lent.
    """
    found = lend(array, as_it_is=True)
    if found is None:
        return None
    place, lease = found
    return _options(wire.runtime_v1.SharedTensor(place=place.message(), shape=array.shape, lease=lease))


def _options(message: Message) -> bytes:
    """Return a message as the transport_options of a RecvTensorResponse."""
    response = wire.RecvTensorResponse()
    response.transport_options.type_url = _PREFIX + message.DESCRIPTOR.full_name
    response.transport_options.value = message.SerializeToString()
    return response.SerializeToString()


def takes_parcel(options: Any, array: Array) -> bool:
    """Tell whether a receiver should get a tensor in a parcel: one that is too large for a message, or nearly so."""
    if array.nbytes <= MESSAGE_BYTES or array.dtype.hasobject or options.type_url != _OFFER:
        return False
    return bool(parse(wire.runtime_v1.SharedMemoryOffer, options.value).takes_parcels)


def in_parcel(key: str, array: Array) -> bytes:
    """Return what is put behind a serialized RecvTensorResponse whose tensor is to be received under a key."""
    return _options(wire.runtime_v1.ParcelTensor(key=key, shape=array.shape))


def of_parcel(arrays: dict[str, Array], datatype: int) -> Array:
    """Return the tensor of a parcel.

    Raises
    ------
    InvalidArgument
        It is not the one that was announced.
    """
    dtype = to_numpy(DataType(datatype))
    if len(arrays) != 1 or next(iter(arrays.values())).dtype != dtype:
        raise InvalidArgument(f"the parcel of a tensor of {dtype} has "
                              f"{', '.join(f'{name} of {array.dtype}' for name, array in arrays.items()) or 'nothing'}")
    return next(iter(arrays.values()))


def parcel_key(options: bytes) -> str:
    """Return the key under which the tensor of an answer is to be received; empty when it lies in a segment."""
    found = wire.RecvTensorResponse.FromString(_as_field(options)).transport_options
    return parse(wire.runtime_v1.ParcelTensor, found.value).key if found.type_url == _PARCEL else ""


def _fill(buffer: Buffer, array: Array) -> None:
    np.copyto(np.ndarray(array.shape, array.dtype, memoryview(buffer)), array)


def take_tensor(options: bytes, datatype: int, answer_s: float = ANSWER_S) -> Array:
    """Return the tensor of an answer that says where it lies.

    Parameters
    ----------
    options : bytes
        The serialized ``google.protobuf.Any`` of the answer.
    datatype : int
        Of the tensor in the answer.
    answer_s : float
        Seconds that the lender of the segment gets to answer.

    Raises
    ------
    InvalidArgument
        The answer says what cannot be.
    Unavailable, NotFound
        The segment cannot be reached. The answer to a `refusal` has the tensor.
    """
    began = time.perf_counter()
    tensor = _shared_tensor(options)
    dtype = to_numpy(DataType(datatype))
    shape = tuple(tensor.shape)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != tensor.lease.nbytes:
        raise InvalidArgument(f"SharedTensor.shape is {list(shape)} of {DataType(datatype).label}, and Lease.nbytes "
                              f"{tensor.lease.nbytes}")
    if not here().can_share_with(Place.of(tensor.place)):
        raise Unavailable("the tensor lies in the memory of another host")
    buffer = claim(tensor.place.segments, tensor.lease.lease, tensor.lease.nbytes, answer_s)
    array: Array = np.ndarray(shape, dtype, memoryview(buffer))
    roads.count("received", Road.SHARED_MEMORY, array.nbytes, time.perf_counter() - began, 0)
    return array


def _shared_tensor(options: bytes) -> wire.runtime_v1.SharedTensor:
    found = wire.RecvTensorResponse.FromString(_as_field(options)).transport_options
    if found.type_url != _TENSOR:
        raise InvalidArgument(f"RecvTensorResponse.transport_options is a {found.type_url or 'nothing'}; {_TENSOR} is "
                              "what was offered")
    tensor: wire.runtime_v1.SharedTensor = parse(wire.runtime_v1.SharedTensor, found.value)
    return tensor


def _as_field(options: bytes) -> bytes:
    """Return an Any as field 4 of the response: its own class is not among those of this package."""
    size = len(options)
    head = bytearray(b"\x22")
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + options


def refusal(options: bytes, datatype: int) -> bytes:
    """Return what is put behind a serialized RecvTensorRequest for a tensor whose segment cannot be reached."""
    tensor = _shared_tensor(options)
    request = wire.RecvTensorRequest()
    request.transport_options.type_url = _REFUSAL
    request.transport_options.value = wire.runtime_v1.SharedTensorRefusal(
        lease=tensor.lease.lease, datatype=datatype, shape=tensor.shape).SerializeToString()
    return request.SerializeToString()


def take_back(options: Any) -> tuple[Array, int] | None:
    """Return the tensor that a receiver could not reach, and its DataType; None where a request is not about that.

    Raises
    ------
    NotFound
        The lease has ended.
    DataLoss
        The tensor is of another size.
    """
    if options.type_url != _REFUSAL:
        return None
    message = parse(wire.runtime_v1.SharedTensorRefusal, options.value)
    returned = lender().revoke(message.lease)
    if returned is None:
        raise NotFound("the tensor was lent, and the lease has ended")
    buffer, owner = returned
    dtype = to_numpy(DataType(message.datatype))
    if math.prod(message.shape) * dtype.itemsize != buffer.nbytes:
        raise DataLoss(f"SharedTensorRefusal.shape is {list(message.shape)} of {dtype}; {buffer.nbytes} bytes "
                       "were lent")
    if isinstance(owner, np.ndarray):  # still not to be changed in place
        return owner.view(dtype).reshape(tuple(message.shape)), message.datatype
    return np.ndarray(tuple(message.shape), dtype, memoryview(buffer)), message.datatype
