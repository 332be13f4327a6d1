"""A tensor of another library, written from DLPack's definition alone: memory of its own, handed out by capsule."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["ForeignTensor"]

K_DL_CPU, K_DL_FLOAT = 1, 2


class _Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int), ("dtype", _DataType),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("dl_tensor", _Tensor), ("manager_ctx", ctypes.c_void_p), ("deleter", _Deleter)]

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class ForeignTensor:
    """A tensor that numpy knows only by ``__dlpack__``.

    Parameters
    ----------
    values : list of float, or bytes
        The elements of a vector of floats; or the memory of what the others describe.
    shape, strides : list of int, optional
        In elements; without strides they lie row by row.
    code, bits, lanes : int
        DLPack's type.

    Attributes
    ----------
    num_given_back : int
        How many of its capsules were used and given back.
    """

    def __init__(self, values: list[float] | bytes, shape: list[int] | None = None, strides: list[int] | None = None,
                 code: int = K_DL_FLOAT, bits: int = 32, lanes: int = 1) -> None:
        self._memory: Any = ((ctypes.c_uint8 * len(values)).from_buffer_copy(values) if isinstance(values, bytes)
                             else (ctypes.c_float * len(values))(*values))
        shape = [len(values)] if shape is None else shape
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        self._type = _DataType(code, bits, lanes)
        self._out: list[Any] = []
        self.num_given_back = 0

    @property
    def address(self) -> int:
        """Where the numbers lie."""
        return ctypes.addressof(self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return K_DL_CPU, 0

    def __dlpack__(self, **options: object) -> object:
        def give_back(_: object) -> None:
            self.num_given_back += 1

        deleter = _Deleter(give_back)
        managed = _Managed(_Tensor(self.address, _Device(K_DL_CPU, 0), len(self._shape), self._type, self._shape,
                                   self._strides, 0), None, deleter)
        self._out.append((managed, deleter))
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)
