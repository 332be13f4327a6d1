"""What a server has counted and holds: a call of runtime.v1.Observer."""

from __future__ import annotations

from typing import Any

from runtime import wire
from runtime.client.channels import Access
from runtime.client.observer import ask

__all__ = ["fetch_metrics"]


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
    request = wire.runtime_v1.MetricsRequest()
    answer = ask(target, access, "GetMetrics", request.SerializeToString(), timeout_s, "metrics")
    return wire.runtime_v1.MetricsResponse.FromString(answer)
