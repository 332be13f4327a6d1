"""Marks that errors carry from worker to worker, in the trailer that TensorFlow uses.

A *derived* error is the consequence of another one: the tensors of a step that has failed elsewhere. A master that
knows which is which can tell its client the cause.

An error in the body of an answer has code and text alone. Our workers send the mark of such a one in the trailers of
the answer, TensorFlow's do not: there the text that their gRPC client appends tells that the error came with a tensor.
"""

from __future__ import annotations

import re

from runtime._ext.errors import Error, Unavailable

__all__ = ["DETAILS", "RESTARTED_URL", "Trailers", "derived", "is_derived", "marked", "restarted", "trailers_of",
           "with_trailers", "without_mark"]

Trailers = tuple[tuple[str, "str | bytes"], ...]

DETAILS = "grpc-status-details-bin"
_DERIVED_URL = "type.googleapis.com/tensorflow.DerivedStatus"
RESTARTED_URL = "type.googleapis.com/tensorflow.distributed_runtime.WorkerPossiblyRestarted"
_OLD_MARK = "[_Derived_]"
_OF_A_TENSOR = re.compile(r"\nAdditional GRPC error information from remote target \S+ while calling "
                          r"/tensorflow\.WorkerService/RecvTensor:")


def _payload(url: str) -> bytes:
    """Return a message whose map field 1 has one entry: the URL, with an empty message."""
    entry = b"\x0a" + bytes([len(url)]) + url.encode() + b"\x12\x00"
    return b"\x0a" + bytes([len(entry)]) + entry


def marked(error: Error, url: str) -> Error:
    """Return a copy of an error that carries a mark."""
    return with_trailers(type(error)(error.message), ((DETAILS, _payload(url)),))


def derived(error: Error) -> Error:
    """Return a copy of an error, marked as the consequence of another one."""
    return marked(error, _DERIVED_URL)


def restarted(error: Error) -> Error:
    """Return a copy of an error, marked: the worker may have been restarted."""
    return marked(error, RESTARTED_URL)


def with_trailers(error: Error, trailers: Trailers) -> Error:
    """Return an error, with what it says beside its code and text from now on."""
    error.trailers = trailers  # type: ignore[attr-defined]  # of gRPC alone, of which the error tree knows nothing
    return error


def trailers_of(error: BaseException) -> Trailers:
    """Return what an error says beside its code and text."""
    found: Trailers = getattr(error, "trailers", ())
    return found


def is_derived(error: BaseException) -> bool:
    """Tell whether an error is the consequence of another one.

    Its mark says so, in the present form or in the text as old workers have it, or the text of a TensorFlow worker that
    was told the error in place of a tensor. A task that was not reached for a tensor is nobody's consequence.
    """
    text = getattr(error, "message", "")
    if _OLD_MARK in text or (not isinstance(error, Unavailable) and _OF_A_TENSOR.search(text)):
        return True
    return any(key == DETAILS and _DERIVED_URL.encode() in value for key, value in trailers_of(error)
               if isinstance(value, bytes))


def without_mark(message: str) -> str:
    """Return the text of an error without the mark that old workers put before it."""
    return message.removeprefix(_OLD_MARK)
