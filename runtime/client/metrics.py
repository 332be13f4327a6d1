"""What a server has counted and holds: a call of runtime.v1.Observer."""

from __future__ import annotations

from typing import Any

import grpc

from runtime import wire
from runtime.client.channels import Access, SharedChannel, address_of
from runtime.errors import DeadlineExceeded, Unavailable, Unimplemented, from_rpc_error

__all__ = ["fetch_metrics"]

_METHOD = "/runtime.v1.Observer/GetMetrics"


def fetch_metrics(target: str, access: Access, timeout_s: float) -> Any:
    """Return what a server has counted and holds.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``; a server of this project.
    access : Access
    timeout_s : float
        Seconds that it gets to answer.

    Returns
    -------
    wire.runtime_v1.MetricsResponse
        See `runtime.observe.metrics_service.families_of`.

    Raises
    ------
    Unavailable, DeadlineExceeded
        If the server cannot be reached or does not answer.
    Unimplemented
        If it is no server of this project, or one before there were metrics.
    Error
        What it refuses.
    """
    shared = SharedChannel.acquire(address_of(target), access)
    try:
        method: Any = shared.channel.unary_unary(_METHOD)
        answer = method(wire.runtime_v1.MetricsRequest().SerializeToString(), timeout=timeout_s,
                        metadata=access.metadata())
        return wire.runtime_v1.MetricsResponse.FromString(answer)
    except grpc.RpcError as error:
        told = from_rpc_error(error)
        if isinstance(told, Unavailable):
            raise Unavailable(f"{target} cannot be reached: {told.message}") from None
        if isinstance(told, DeadlineExceeded):
            raise DeadlineExceeded(f"{target} has not answered for {timeout_s:g} s") from None
        if isinstance(told, Unimplemented):
            raise Unimplemented(f"{target} tells no metrics: {told.message}") from None
        raise told from None
    finally:
        shared.release()
