"""Marks that errors carry from worker to worker, in the trailer that TensorFlow uses.

A *derived* error is the consequence of another one: the tensors of a step that has failed elsewhere. A master that
knows which is which can tell its client the cause.
"""

from __future__ import annotations

from runtime._ext.errors import Error

__all__ = ["DETAILS", "RESTARTED_URL", "derived", "is_derived", "marked", "restarted", "without_mark"]

DETAILS = "grpc-status-details-bin"
_DERIVED_URL = "type.googleapis.com/tensorflow.DerivedStatus"
RESTARTED_URL = "type.googleapis.com/tensorflow.distributed_runtime.WorkerPossiblyRestarted"
_OLD_MARK = "[_Derived_]"


def _payload(url: str) -> bytes:
    """Return a message whose map field 1 has one entry: the URL, with an empty message."""
    entry = b"\x0a" + bytes([len(url)]) + url.encode() + b"\x12\x00"
    return b"\x0a" + bytes([len(entry)]) + entry


def marked(error: Error, url: str) -> Error:
    """Return a copy of an error that carries a mark."""
    copy = type(error)(error.message)
    copy.trailers = ((DETAILS, _payload(url)),)  # type: ignore[attr-defined]
    return copy


def derived(error: Error) -> Error:
    """Return a copy of an error, marked as the consequence of another one."""
    return marked(error, _DERIVED_URL)


def restarted(error: Error) -> Error:
    """Return a copy of an error, marked: the worker may have been restarted."""
    return marked(error, RESTARTED_URL)


def is_derived(error: BaseException) -> bool:
    """Tell whether an error is marked as derived, in the present form or in the text as old workers do."""
    if _OLD_MARK in getattr(error, "message", ""):
        return True
    return any(key == DETAILS and _DERIVED_URL.encode() in value for key, value in getattr(error, "trailers", ())
               if isinstance(value, bytes))


def without_mark(message: str) -> str:
    """Return the text of an error without the mark that old workers put before it."""
    return message.removeprefix(_OLD_MARK)
