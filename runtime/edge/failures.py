"""What a client is told about an exception, whatever the transport."""

from __future__ import annotations

import logging

from runtime.errors import Error, Internal, InvalidArgument, ResourceExhausted

logger = logging.getLogger(__name__)


def as_domain_error(path: str, error: Exception) -> Error:
    """Return what a client is told about an exception; one that nobody meant to raise is logged here, once.

    Parameters
    ----------
    path : str
        ``/SERVICE/METHOD`` of the call that raised it.
    """
    if isinstance(error, Error):
        return error
    kind = type(error)
    if kind.__name__ == "DecodeError" and kind.__module__.startswith("google.protobuf"):
        return InvalidArgument(f"{path}: the request is not a valid message of its type")
    if isinstance(error, MemoryError):
        logger.error("call failed for want of memory", extra={"method": path}, exc_info=error)
        return ResourceExhausted(f"{path}: the server has no memory left for this call")
    logger.error("unexpected exception in a handler", extra={"method": path}, exc_info=error)
    return Internal(f"{path}: unexpected {kind.__name__}; the server's log has the details")
