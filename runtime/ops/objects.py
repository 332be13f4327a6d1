"""Arrays of Python objects: strings, resource handles and variants.

numpy hands out the bare object where it would hand out a scalar array, and some of its functions look into an object
that is a sequence. What builds or collects such arrays goes through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

__all__ = ["as_object_array", "filled", "kept", "map_objects", "object_scalar"]


def object_scalar(value: Any) -> np.ndarray[Any, Any]:
    """Return a 0-d object array that holds `value` as it is, even when it is a sequence."""
    array = np.empty((), object)
    array[()] = value
    return array


def as_object_array(value: Any) -> np.ndarray[Any, Any]:
    """Return the result of a numpy function on object arrays as an array, a bare object as a 0-d one."""
    return value if isinstance(value, np.ndarray) else object_scalar(value)


def kept(array: Any) -> Any:
    """Return an array that may outlive the step: one that views foreign bytes, such as a request's, is copied."""
    return array if array.flags.owndata else array.copy()


def filled(shape: tuple[int, ...], values: Iterable[Any]) -> np.ndarray[Any, Any]:
    """Return an object array of `shape` with `values` in row-major order."""
    array = np.empty(shape, object)
    flat = array.reshape(-1)
    for index, value in enumerate(values):
        flat[index] = value
    return array


def map_objects(function: Callable[[Any], Any], array: np.ndarray[Any, Any],
                dtype: Any = object) -> np.ndarray[Any, Any]:
    """Return an array of the same shape with `function` of every element."""
    result = np.empty(array.shape, dtype)
    flat = result.reshape(-1)
    for index, value in enumerate(array.reshape(-1)):
        flat[index] = function(value)
    return result
