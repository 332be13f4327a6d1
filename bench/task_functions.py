"""What the tasks of the benchmark do."""

from __future__ import annotations

from runtime.tasks.worker import worker


@worker
def size(payload: bytes) -> bytes:
    """Return the number of bytes that came."""
    return b"%d" % len(payload)
