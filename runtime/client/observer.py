"""Questions to runtime.v1.Observer: what a server knows about itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from runtime.client.channels import Access, SharedChannel, address_of
from runtime.errors import DeadlineExceeded, Unavailable, Unimplemented, from_rpc_error

__all__ = ["PREFIX", "ask", "observer"]

PREFIX = "/runtime.v1.Observer/"
"""Of the methods' names."""


def ask(target: str, access: Access, method: str, request: bytes, timeout_s: float, what: str) -> bytes:
    """Return a server's answer to one call.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``; a server of this project.
    access : Access
    method : str
        Of the Observer.
    request : bytes
    timeout_s : float
        Seconds that the answer may take.
    what : str
        What is asked for, as it follows "does not tell its" in an error.

    Raises
    ------
    Unavailable, DeadlineExceeded
        If the server cannot be reached or does not answer.
    Unimplemented
        If it has no such call.
    Error
        What it refuses.
    """
    try:
        with observer(target, access, f"has not answered for {timeout_s:g} s") as channel:
            call: Any = channel.unary_unary(PREFIX + method)
            answer: bytes = call(request, timeout=timeout_s, metadata=access.metadata())
            return answer
    except Unimplemented as error:
        raise Unimplemented(f"{target} does not tell its {what}: {error.message}") from None


@contextmanager
def observer(target: str, access: Access, too_late: str) -> Iterator[grpc.Channel]:
    """Give a channel to a server; errors of calls in the block name the server, and ``too_late`` follows its name."""
    shared = SharedChannel.acquire(address_of(target), access)
    try:
        yield shared.channel
    except grpc.RpcError as error:
        told = from_rpc_error(error)
        if isinstance(told, Unavailable):
            raise Unavailable(f"{target} cannot be reached: {told.message}") from None
        if isinstance(told, DeadlineExceeded):
            raise DeadlineExceeded(f"{target} {too_late}") from None
        raise told from None
    finally:
        shared.release()
