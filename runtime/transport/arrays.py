"""Arrays as items of a parcel: what others are told of them, their bytes, and memory for those that come."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from runtime import wire
from runtime._ext import dlpack
from runtime._ext.buffer_pool import MIN_CAPACITY, BufferPool
from runtime._ext.errors import InvalidArgument, ResourceExhausted
from runtime._ext.tensor_codec import decode_tensor, encode_tensor
from runtime.dtypes import DataType

__all__ = ["Array", "Outgoing", "as_array", "check_item", "destination", "incoming", "outgoing", "trim"]

Array = np.ndarray[Any, Any]

# A dtype as a serialized tensorflow.TensorProto has it: strings, whose bytes are not in the array.
_AS_MESSAGE = "TensorProto"
_NATIVE = re.compile(r"[<>|=](?:[biufc]\d{1,2}|[SU]\d{1,9}|V\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Zμ]{1,7}\])?)", re.ASCII)
_ML_DTYPES = frozenset(name for name in dir(ml_dtypes) if re.match(r"(bfloat|float|u?int)\d", name))
# Where the processor can read; DLPack's numbers of the host, and of its memory that CUDA and ROCm have pinned.
_HOST = (1, 3, 11)
# DLPack's code and bits of the element types that numpy does not take from it.
_FOREIGN_DTYPES = {
    place: np.dtype(getattr(ml_dtypes, name))
    for place, name in {
        (4, 16): "bfloat16", (7, 8): "float8_e3m4", (8, 8): "float8_e4m3", (9, 8): "float8_e4m3b11fnuz",
        (10, 8): "float8_e4m3fn", (11, 8): "float8_e4m3fnuz", (12, 8): "float8_e5m2", (13, 8): "float8_e5m2fnuz",
        (14, 8): "float8_e8m0fnu",
    }.items()
    if hasattr(ml_dtypes, name)
}
_MAX_RANK = 64  # numpy's
_MAX_NAME = 4096

IDLE_S = 30.0
"""How long memory for what comes is kept."""


class Outgoing:
    """An array that is to be sent.

    Attributes
    ----------
    item : Item
        What the receiver is told.
    array : ndarray
        As it was given.
    content : ndarray of uint8, shape (nbytes,)
        Its bytes in the order of memory: a view, unless `copied`.
    copied : bool
        Whether its bytes had to be brought together.
    """

    __slots__ = ("array", "content", "copied", "item")

    def __init__(self, array: Array, item: wire.runtime_v1.Item, content: Any, copied: bool) -> None:
        self.array = array
        self.item = item
        self.content = content
        self.copied = copied


def as_array(name: str, value: Any) -> Array:
    """Return a value as an array on the host, sharing its memory where that is possible.

    Parameters
    ----------
    name : str
        For the error.
    value : object
        An array; whatever can be read by DLPack (tensors of other libraries); one that only numpy can read; anything
        that numpy makes an array of.

    Raises
    ------
    InvalidArgument
        It is none of these.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            if value.__dlpack_device__()[0] in _HOST:
                return _from_host(value)
            if hasattr(value, "get"):  # CuPy copies to the host by this name
                return np.asarray(value.get())
            if hasattr(value, "cpu"):  # and PyTorch by this one
                return _from_host(value.cpu())
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InvalidArgument(f"'{name}' is a {type(value).__module__}.{type(value).__qualname__} that cannot be read "
                              f"as an array: {error}; give an array of numbers on the host") from error


def _from_host(value: Any) -> Array:
    """Return an array that shares the memory of another library's tensor."""
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError):  # of a type that numpy has not, or one that cannot be had
        capsule = value.__dlpack__()
    try:
        return dlpack.read(capsule, _FOREIGN_DTYPES)
    except InvalidArgument as error:
        raise BufferError(error.message) from None


def outgoing(name: str, value: Any) -> Outgoing:
    """Return what is to be sent of a value.

    Raises
    ------
    InvalidArgument
        It cannot be read as an array, or its elements have no form that others can read.
    """
    if not name or len(name) > _MAX_NAME:
        raise InvalidArgument(f"a name of {len(name)} characters was given; 1 to {_MAX_NAME} are allowed")
    array = as_array(name, value)
    dtype = _dtype_name(name, array)
    if dtype == _AS_MESSAGE:
        message = encode_tensor(_as_bytes(name, array), int(DataType.STRING))
        content = np.frombuffer(message, np.uint8)
        item = wire.runtime_v1.Item(name=name, dtype=dtype, shape=array.shape, nbytes=content.nbytes)
        return Outgoing(array, item, content, True)
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = array.T if is_fortran else array
    copied = not flat.flags.c_contiguous
    if copied:
        flat = flat.copy(order="C")
    item = wire.runtime_v1.Item(name=name, dtype=dtype, shape=array.shape, is_fortran=is_fortran, nbytes=array.nbytes)
    return Outgoing(array, item, flat.reshape(-1).view(np.uint8) if flat.size else np.empty(0, np.uint8), copied)


def _dtype_name(name: str, array: Array) -> str:
    dtype = array.dtype
    if dtype.hasobject and dtype.fields is None:
        return _AS_MESSAGE
    if dtype.name in _ML_DTYPES and dtype.type.__module__ == ml_dtypes.bfloat16.__module__:
        return str(dtype.name)
    if dtype.fields is None and dtype.subdtype is None and _NATIVE.fullmatch(dtype.str):
        return str(dtype.str)
    raise InvalidArgument(f"'{name}' has elements of {dtype}, which have no form that others can read: send the "
                          "fields of a structured array one by one")


def _as_bytes(name: str, array: Array) -> Array:
    if all(type(item) is bytes for item in array.flat):
        return array
    made = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        if not isinstance(item, (bytes, str)):
            raise InvalidArgument(f"'{name}' is an array of objects with a {type(item).__name__} at {index}: objects "
                                  "must be bytes or str")
        made[index] = item.encode() if isinstance(item, str) else bytes(item)
    return made


def _dtype_of(item: wire.runtime_v1.Item) -> np.dtype[Any]:
    if item.dtype in _ML_DTYPES:
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, item.dtype))
        return found
    if _NATIVE.fullmatch(item.dtype):
        try:
            return np.dtype(item.dtype)
        except (TypeError, ValueError):
            pass
    raise InvalidArgument(f"Item.dtype of '{item.name}' is {item.dtype!r}, which is no element type that is known here")


def check_item(item: wire.runtime_v1.Item) -> None:
    """Check what is announced of an item, before memory is taken for it.

    Raises
    ------
    InvalidArgument
        Names the field and its value.
    """
    if not item.name or len(item.name) > _MAX_NAME:
        raise InvalidArgument(f"Item.name has {len(item.name)} characters; 1 to {_MAX_NAME} are allowed")
    if len(item.shape) > _MAX_RANK:
        raise InvalidArgument(f"Item.shape of '{item.name}' has {len(item.shape)} dimensions; at most {_MAX_RANK} are "
                              "allowed")
    if item.dtype == _AS_MESSAGE:
        return
    nbytes = math.prod(item.shape) * _dtype_of(item).itemsize
    if nbytes != item.nbytes:
        raise InvalidArgument(f"Item.nbytes of '{item.name}' is {item.nbytes}; shape {list(item.shape)} of "
                              f"{item.dtype} takes {nbytes}")


@functools.cache
def _pool() -> BufferPool:
    return BufferPool(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


os.register_at_fork(after_in_child=_pool.cache_clear)


def destination(item: wire.runtime_v1.Item) -> Any:
    """Return memory for the bytes of an item: ndarray of uint8, shape (nbytes,).

    Raises
    ------
    ResourceExhausted
        There is not so much; names the item and its size.
    """
    try:
        if item.nbytes < MIN_CAPACITY:
            return np.empty(item.nbytes, np.uint8)
        try:
            return np.frombuffer(memoryview(_pool().take(item.nbytes)), np.uint8)
        except ResourceExhausted:  # more than the pool keeps, which does not mean more than the system has
            return np.empty(item.nbytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise ResourceExhausted(f"no memory for '{item.name}' of {item.nbytes} bytes: {error}") from error


def trim(idle_s: float = IDLE_S) -> None:
    """Give memory back to the system that is kept for what comes, and was idle for so long."""
    _pool().trim(idle_s)


def incoming(item: wire.runtime_v1.Item, content: Any) -> Array:
    """Return the array of an item whose bytes have come.

    Parameters
    ----------
    item : Item
        Checked.
    content : buffer
        Its ``nbytes`` bytes, whose memory the array shares.

    Raises
    ------
    InvalidArgument
        A serialized tensor is damaged, or is not of the announced shape.
    """
    shape = tuple(item.shape)
    if item.dtype == _AS_MESSAGE:
        found = decode_tensor(bytes(content))
        if found.shape != shape or found.dtype != object:
            raise InvalidArgument(f"Item.shape of '{item.name}' is {list(shape)}; its content is {found.dtype} of "
                                  f"{list(found.shape)}")
        return found
    dtype = _dtype_of(item)
    if not item.nbytes:
        return np.empty(shape, dtype, order="F" if item.is_fortran else "C")
    return np.ndarray(shape, dtype, memoryview(content), order="F" if item.is_fortran else "C")


def named(arrays: Any) -> dict[str, Any]:
    """Return what a caller wants to send by name: a mapping, or one array under the name ``""`` turned into one.

    Raises
    ------
    InvalidArgument
        A name is no str.
    """
    if not isinstance(arrays, Mapping):
        return {SINGLE: arrays}
    for name in arrays:
        if not isinstance(name, str):
            raise InvalidArgument(f"arrays are sent under names, and {name!r} is no str")
    return dict(arrays)


SINGLE = "."
"""The name under which one array alone travels."""
