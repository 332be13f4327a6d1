"""Exceptions raised in other threads."""

from __future__ import annotations

import ctypes

__all__ = ["raise_in_thread"]


def raise_in_thread(thread: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread as soon as Python code runs there; None takes back what was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))
