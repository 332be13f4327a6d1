"""Arrays between the device that a kernel runs on and the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["as_numpy", "on_device"]


def as_numpy(xp: Any, array: Any) -> Any:
    """Return an array of the namespace `xp` as a numpy array; on a CPU it is one."""
    to_host = getattr(xp, "asnumpy", None)
    return array if to_host is None else to_host(array)


def on_device(xp: Any, arrays: Iterable[Any]) -> list[Any]:
    """Return numpy arrays as arrays of the namespace `xp`; those of objects stay on the host."""
    if xp is np:
        return list(arrays)
    return [array if array.dtype.kind == "O" else xp.asarray(array) for array in arrays]
