"""Python values as tensors: what feeds, constants and attrs are made from, and what a Const node holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime._ext.tensor_codec import decode_tensor, encode_tensor
from runtime.dtypes import DataType, from_numpy, to_numpy
from runtime.ops.registry import Shape
from runtime.ops.shapes import format_shape

__all__ = ["constant_array", "feed_array", "natural_type", "proto_array", "shape_is_compatible", "tensor_proto"]

_INT32 = np.iinfo(np.int32)
_FLOATING = "fc"


def natural_type(value: Any) -> DataType:
    """Return the type a value has when nothing else decides: Python floats are FLOAT, small integers INT32.

    Raises
    ------
    InvalidArgument
        If the value has no tensor type.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return _numpy_type(value.dtype, value)
    leaf = _first_leaf(value)
    if isinstance(leaf, (str, bytes)):  # numpy would want to know an encoding
        return DataType.STRING
    array = _loose_array(value)
    has_width = isinstance(leaf, (np.ndarray, np.generic))  # numpy's widths are meant, Python's are accidents
    if array.dtype == np.float64:
        return DataType.DOUBLE if has_width else DataType.FLOAT
    if array.dtype == np.int64:
        fits = not array.size or (_INT32.min <= array.min() and array.max() <= _INT32.max)
        return DataType.INT32 if fits and not has_width else DataType.INT64
    return _numpy_type(array.dtype, value)


def _first_leaf(value: Any) -> Any:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value


def _loose_array(value: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(f"{_describe(value)} is not a tensor: {error}") from error
    if array.dtype == object and not all(isinstance(item, (bytes, str)) for item in array.flat):
        raise InvalidArgument(f"{_describe(value)} is not a tensor: numpy reads it as objects; every element must be "
                              "a number, a bool, or bytes or str, and every row of one length")
    return array


def _numpy_type(dtype: np.dtype[Any], value: Any) -> DataType:
    try:
        return from_numpy(dtype)
    except ValueError as error:
        raise InvalidArgument(f"{_describe(value)}: {error}") from error


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype} and shape {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def constant_array(value: Any, dtype: DataType | None = None) -> tuple[np.ndarray[Any, Any], DataType]:
    """Return a value as an array of a type, for a constant of a graph.

    Parameters
    ----------
    value : array_like
        Numbers, bools, bytes or str, nested as lists, or arrays.
    dtype : DataType, optional
        The type it must have; its natural type when not given. A value that would lose its nature (a float as an
        integer, a complex as a float, a number as a string) is refused; widths are converted.

    Returns
    -------
    array : ndarray
        C order; does not share memory with a list, may share it with an array.
    dtype : DataType
    """
    natural = natural_type(value)
    if dtype is None:
        dtype = natural
    if dtype.is_object or natural is DataType.STRING:
        if dtype is not DataType.STRING or natural is not DataType.STRING:
            raise InvalidArgument(f"{_describe(value)} is of type {natural.label} and cannot be a {dtype.label} tensor")
        return _string_array(value), dtype
    target = to_numpy(dtype)
    source = to_numpy(natural)
    loses = ((source.kind in _FLOATING and target.kind in "iub") or (source.kind == "c" and target.kind != "c")
             or (source.kind == "b") != (target.kind == "b"))
    if loses and np.size(value):  # an empty list has no nature of its own
        raise InvalidArgument(f"{_describe(value)} is of type {natural.label} and cannot be a {dtype.label} tensor; "
                              "cast it first")
    return _cast(value, target, dtype.label), dtype


def feed_array(value: Any, dtype: DataType, name: str, shape: Shape = None) -> np.ndarray[Any, Any]:
    """Return a fed value as an array of the type of the tensor that it stands for.

    Numbers are cast as numpy casts them (floats to integers toward zero), as TensorFlow's own client does; a Python
    integer that does not survive the cast is refused.

    Parameters
    ----------
    value : array_like
    dtype : DataType
    name : str
        Name of the tensor, for messages.
    shape : Shape
        Static shape that the value must agree with.

    Raises
    ------
    InvalidArgument
        Naming the tensor, what it needs and what was given.
    """
    needs = f"Cannot feed tensor '{name}' (dtype {dtype.label}, shape {format_shape(shape)})"
    if dtype is DataType.RESOURCE or dtype is DataType.VARIANT:
        array = value if isinstance(value, np.ndarray) and value.dtype == object else np.empty((), dtype=object)
        if array is not value:
            array[()] = value
    elif dtype is DataType.STRING:
        if isinstance(value, np.ndarray) and value.dtype == object and all(type(item) is bytes for item in value.flat):
            array = value
        else:
            try:
                array = _string_array(value)
            except InvalidArgument as error:
                raise InvalidArgument(f"{needs}: {error.message}") from error
    else:
        target = to_numpy(dtype)
        if isinstance(value, np.ndarray) and value.dtype == target:
            array = value
        else:
            try:
                array = _cast(value, target, dtype.label)
            except InvalidArgument as error:
                raise InvalidArgument(f"{needs}: {error.message}") from error
            if isinstance(value, int) and array != value:
                raise InvalidArgument(f"{needs}: int {value} becomes {array} as {dtype.label}")
    if not shape_is_compatible(array.shape, shape):
        raise InvalidArgument(f"{needs}: the value has shape {format_shape(array.shape)}")
    return array


def _cast(value: Any, target: np.dtype[Any], label: str) -> np.ndarray[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return np.asarray(value, dtype=target, order="C")
    except (ValueError, TypeError, OverflowError, np.exceptions.ComplexWarning) as error:
        raise InvalidArgument(f"{_describe(value)} cannot be a {label} tensor: {error}") from error


def _string_array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value, dtype=object) if not isinstance(value, (bytes, str)) else np.array(value, dtype=object)
    result = np.empty(array.shape, dtype=object)
    for index, item in enumerate(array.flat):
        if isinstance(item, str):
            item = item.encode()
        elif not isinstance(item, bytes):
            raise InvalidArgument(f"{_describe(value)} is not a string tensor: element {index} is a "
                                  f"{type(item).__name__}, not bytes or str")
        result.flat[index] = bytes(item)
    return result


def shape_is_compatible(given: Sequence[int], known: Shape) -> bool:
    """Tell whether a real shape agrees with a static one."""
    if known is None:
        return True
    return len(given) == len(known) and all(b is None or a == b for a, b in zip(given, known, strict=True))


def tensor_proto(array: np.ndarray[Any, Any], dtype: DataType) -> Any:
    """Return a TensorProto message with an array's elements."""
    proto = wire.TensorProto()
    if dtype is DataType.STRING:  # typed form: readable by every reader of graph files
        proto.dtype = wire.DT_STRING
        proto.tensor_shape.SetInParent()
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
        proto.string_val.extend(array.reshape(-1).tolist())
    else:
        proto.ParseFromString(encode_tensor(np.ascontiguousarray(array) if array.ndim else array, int(dtype)))
    return proto


def proto_array(proto: Any) -> np.ndarray[Any, Any]:
    """Return the elements of a TensorProto message as an array of its shape."""
    return decode_tensor(proto.SerializeToString())
