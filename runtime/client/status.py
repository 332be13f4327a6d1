"""What the tasks of a cluster are doing right now: a call of runtime.v1.Observer."""

from __future__ import annotations

from typing import Any

import grpc

from runtime import wire
from runtime.client.channels import Access, SharedChannel, address_of
from runtime.errors import DeadlineExceeded, Unavailable, Unimplemented, from_rpc_error

__all__ = ["fetch_status"]

_METHOD = "/runtime.v1.Observer/GetStatus"
# What the asked server takes for itself, beside what it gives the others.
_OWN_S = 2.0


def fetch_status(target: str, access: Access, timeout_s: float, *, only_this_task: bool = False) -> Any:
    """Return what a server's tasks are doing.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``; a server of this project.
    access : Access
    timeout_s : float
        Seconds that each of the other tasks gets to answer.
    only_this_task : bool
        Ask the server for nothing but itself.

    Returns
    -------
    wire.runtime_v1.StatusResponse
        The asked task first; one that does not answer has an ``error``.

    Raises
    ------
    Unavailable, DeadlineExceeded
        If the server cannot be reached or does not answer.
    Unimplemented
        If it is no server of this project.
    Error
        What it refuses.
    """
    request = wire.runtime_v1.StatusRequest(only_this_task=only_this_task, timeout_s=timeout_s)
    shared = SharedChannel.acquire(address_of(target), access)
    try:
        method: Any = shared.channel.unary_unary(_METHOD)
        answer = method(request.SerializeToString(), timeout=timeout_s + _OWN_S, metadata=access.metadata())
        return wire.runtime_v1.StatusResponse.FromString(answer)
    except grpc.RpcError as error:
        told = from_rpc_error(error)
        if isinstance(told, Unavailable):
            raise Unavailable(f"{target} cannot be reached: {told.message}") from None
        if isinstance(told, DeadlineExceeded):
            raise DeadlineExceeded(f"{target} has not answered for {timeout_s + _OWN_S:g} s") from None
        if isinstance(told, Unimplemented):
            raise Unimplemented(f"{target} does not tell its status: {told.message}") from None
        raise told from None
    finally:
        shared.release()
