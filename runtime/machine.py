"""What the machine has, or what the control group leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["descriptor_limit", "memory_bytes", "num_descriptors", "num_threads", "resident_bytes"]


def memory_bytes() -> int:
    """Return the memory this process may use, in bytes: the machine's, or its control group's if less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        total = 4 << 30
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(name).read_text()))
        except (OSError, ValueError):  # absent, or the word "max"
            continue
    return total


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open; a large number where there is no limit."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def resident_bytes() -> int:
    """Return the memory that this process holds, in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def num_threads() -> int:
    """Return how many threads this process has, those of libraries included; 0 where the system does not tell."""
    return _entries("/proc/self/task")


def num_descriptors() -> int:
    """Return how many descriptors this process has open; 0 where the system does not tell."""
    return max(0, _entries("/proc/self/fd") - 1)  # without the one of the listing


def _entries(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0
