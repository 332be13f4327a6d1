"""What the tasks of a cluster are doing right now: a call of runtime.v1.Observer."""

from __future__ import annotations

from typing import Any

from runtime import wire
from runtime.client.channels import Access
from runtime.client.observer import ask

__all__ = ["fetch_status"]

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
    answer = ask(target, access, "GetStatus", request.SerializeToString(), timeout_s + _OWN_S, "status")
    return wire.runtime_v1.StatusResponse.FromString(answer)
