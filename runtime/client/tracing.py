"""The next steps of a server, traced: calls of runtime.v1.Observer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from runtime import wire
from runtime.client.channels import Access, SharedChannel, address_of
from runtime.errors import DeadlineExceeded, Unavailable, from_rpc_error

__all__ = ["trace_steps"]

_METHOD = "/runtime.v1.Observer/TraceSteps"


def trace_steps(target: str, access: Access, num_steps: int, session_handle: str, timeout_s: float) -> Iterator[Any]:
    """Yield the next steps of a server, whichever client runs them, each when it has ended.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``; a server of this project.
    access : Access
    num_steps : int
    session_handle : str
        Only steps of this session; of any when empty.
    timeout_s : float
        Seconds for all of them.

    Yields
    ------
    wire.runtime_v1.TracedStep

    Raises
    ------
    DeadlineExceeded
        If fewer steps than asked for ended in time.
    Error
        What the server refuses, or why it cannot be reached.
    """
    request = wire.runtime_v1.TraceStepsRequest(num_steps=num_steps, session_handle=session_handle)
    shared = SharedChannel.acquire(address_of(target), access)
    try:
        method: Any = shared.channel.unary_stream(_METHOD)
        for answer in method(request.SerializeToString(), timeout=timeout_s, metadata=access.metadata()):
            yield wire.runtime_v1.TracedStep.FromString(answer)
    except grpc.RpcError as error:
        told = from_rpc_error(error)
        if isinstance(told, Unavailable):
            raise Unavailable(f"{target} cannot be reached: {told.message}") from None
        if isinstance(told, DeadlineExceeded):
            raise DeadlineExceeded(f"{target} ran fewer than {num_steps} steps within {timeout_s:g} s") from None
        raise told from None
    finally:
        shared.release()
