"""What a server is told about its task plane: sizes and times."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.tasks.delays import NO_DELAY, RetryDelay
from runtime.tasks.leases import HEARTBEAT_S, TTL_S

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server is told about its task plane.

    Attributes
    ----------
    chunk_bytes : int
        Most bytes of one chunk, in and out.
    max_priority : int
        Priorities are below it.
    lease_ttl_s, heartbeat_s : float
        See `runtime.tasks.leases`.
    cancel_grace_s : float
        Seconds that the call of a canceled task may take to end before it is given up.
    retry_delay : RetryDelay
        How long attempts wait after a failure.
    retention_s : float
        See `runtime.tasks.retention.Retention`.
    """

    chunk_bytes: int = 84000
    max_priority: int = 10
    lease_ttl_s: float = TTL_S
    heartbeat_s: float = HEARTBEAT_S
    cancel_grace_s: float = 5.0
    retry_delay: RetryDelay = NO_DELAY
    retention_s: float = 0.0
