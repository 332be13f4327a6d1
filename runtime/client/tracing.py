"""The next steps of a server, traced: calls of runtime.v1.Observer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runtime import wire
from runtime.client.channels import Access
from runtime.client.observer import PREFIX, observer

__all__ = ["trace_steps"]


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
    with observer(target, access, f"ran fewer than {num_steps} steps within {timeout_s:g} s") as channel:
        method: Any = channel.unary_stream(PREFIX + "TraceSteps")
        for answer in method(request.SerializeToString(), timeout=timeout_s, metadata=access.metadata()):
            yield wire.runtime_v1.TracedStep.FromString(answer)
