"""Processes by number and start time, so that one which got the number of another is never taken for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import NamedTuple

__all__ = ["ProcessId", "end_group", "identify", "is_alive", "wait_gone"]

_POLL_S = 0.02
_KILLED_S = 5.0


class ProcessId(NamedTuple):
    """A process: its number, and when it began, in clock ticks since the machine started."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """Return what tells a process from all others; None if there is none, or it has ended."""
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = line[line.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessId(pid, int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Return whether that very process runs."""
    return identify(process.pid) == process


async def end_group(process: ProcessId, grace_s: float) -> None:
    """End the group that a process leads: SIGTERM, and SIGKILL after ``grace_s`` seconds, or when this is cancelled."""
    if not is_alive(process):
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        # One that is stopped takes no signal but this.
        os.killpg(process.pid, signal.SIGCONT)
    try:
        await wait_gone(process, grace_s)
    finally:
        if is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    await wait_gone(process, _KILLED_S)


async def wait_gone(process: ProcessId, seconds: float) -> bool:
    """Wait until a process has ended, so long at most; return whether it has."""
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True
