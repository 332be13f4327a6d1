"""One error type per status code, and the only place that knows gRPC's codes.

The classes live in :mod:`runtime._ext.errors` so that compiled code can raise them; this module re-exports them
and adds what the edges need: the way from a code to a class, from a class to gRPC's enumeration, and the form in
which a message may travel in a header. Importing it does not import grpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime._ext.errors import (
    CODES,
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)

if TYPE_CHECKING:
    import grpc

__all__ = [
    "CODES",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "from_code",
    "from_rpc_error",
    "grpc_status",
    "header_message",
]

# What a TensorFlow 1.15 server lets through before it cuts a message; longer ones break peers whose limit for all
# headers of a response is 8 KiB.
MAX_MESSAGE_BYTES = 3072
# A status message is percent-encoded on the wire: every byte outside printable ASCII takes three. 6 KiB leaves
# 2 KiB of the usual 8 KiB for the other trailers.
MAX_ENCODED_BYTES = 6144
TRUNCATED = " ... [truncated]"
# An ASCII text this short passes neither bound, even if every character must be encoded.
_ALWAYS_FITS = MAX_ENCODED_BYTES // 3

_GRPC_STATUSES: dict[int, grpc.StatusCode] = {}


def from_code(code: int, message: str) -> Error:
    """Return the error that stands for a status code.

    Parameters
    ----------
    code : int
        Status code as TensorFlow and gRPC number them, 1 to 16. A code outside that range (a newer peer's)
        becomes :class:`Unknown`, with the number kept in the text.
    message : str
        The message, taken over unchanged.

    Raises
    ------
    ValueError
        If ``code`` is 0, which is success and no error.

    Examples
    --------
    >>> from_code(5, "Session 12 is not found.")
    NotFound('Session 12 is not found.')
    """
    if code == 0:
        raise ValueError(f"status code 0 means success and makes no error (message {message!r})")
    cls = CODES.get(code)
    if cls is None:
        return Unknown(f"{message} (status code {code})")
    return cls(message)


def grpc_status(code: int) -> grpc.StatusCode:
    """Return gRPC's enumeration member for a status code from 0 to 16; any other number gives UNKNOWN."""
    if not _GRPC_STATUSES:
        from grpc import StatusCode

        _GRPC_STATUSES.update({status.value[0]: status for status in StatusCode})
    return _GRPC_STATUSES.get(code) or _GRPC_STATUSES[Unknown.code]


def from_rpc_error(error: Any) -> Error:
    """Return the domain error for a ``grpc.RpcError`` that a stub raised.

    UNKNOWN with the text ``Stream removed`` is how gRPC's C++ library reports a connection that went away in the
    middle of a call; like TensorFlow's own peers this treats it as :class:`Unavailable`. So it does with INTERNAL and
    ``Internal error from Core``: a stream of requests ends so when the connection goes away just while one of them is
    being sent.

    Parameters
    ----------
    error : grpc.RpcError
        Anything with ``code()`` and ``details()``.
    """
    status = error.code()
    code = Unknown.code if status is None else int(status.value[0])
    details = error.details() or ""
    if (code == Unknown.code and details.startswith("Stream removed")) or (
        code == Internal.code and details == "Internal error from Core"
    ):
        code = Unavailable.code
    return from_code(code or Unknown.code, details)


def header_message(message: str) -> str:
    """Return ``message`` in the form that may travel as a status message in a response header.

    Longer texts are cut after at most 3072 bytes of UTF-8, and earlier if percent-encoding would make more than
    6144 bytes of them; `` ... [truncated]`` marks the cut. A character is never split. Lone surrogates, which UTF-8
    cannot express, are replaced by ``?``.
    """
    if len(message) <= _ALWAYS_FITS and message.isascii():
        return message
    raw = message.encode("utf-8", "replace")
    cut = min(len(raw), MAX_MESSAGE_BYTES)
    budget = MAX_ENCODED_BYTES
    for position in range(cut):
        byte = raw[position]
        budget -= 1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3
        if budget < 0:
            cut = position
            break
    if cut == len(raw):
        return raw.decode("utf-8")
    return raw[:cut].decode("utf-8", "ignore") + TRUNCATED
