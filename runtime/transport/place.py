"""Where a program runs, as others must know it to see whether they can share memory with it."""

from __future__ import annotations

import functools
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from runtime import wire

__all__ = ["Place", "here"]


@dataclass(frozen=True, slots=True)
class Place:
    """What tells programs apart.

    Attributes
    ----------
    boot_id : str
        Of the running kernel; empty where it says none, and then nothing is shared.
    user_id : int
    process : int
        Random 64 bits.
    segments : str
        The unix socket on which the process lends memory: a path, or ``@`` and an abstract name; empty for none.
    """

    boot_id: str
    user_id: int
    process: int
    segments: str = ""

    @classmethod
    def of(cls, message: wire.runtime_v1.Place) -> Place:
        """Return what a message says."""
        return cls(message.boot_id, message.user_id, message.process, message.segments)

    def message(self) -> wire.runtime_v1.Place:
        """Return the message for others."""
        return wire.runtime_v1.Place(boot_id=self.boot_id, user_id=self.user_id, process=self.process,
                                     segments=self.segments)

    def is_same_process(self, other: Place) -> bool:
        """Tell whether the other is this very process."""
        return self.process == other.process and self.boot_id == other.boot_id

    def can_share_with(self, other: Place) -> bool:
        """Tell whether both run under one kernel, for one user."""
        return bool(self.boot_id) and self.boot_id == other.boot_id and self.user_id == other.user_id


@functools.cache
def here() -> Place:
    """Return where this process runs, without the socket."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        boot_id = ""
    return Place(boot_id, os.getuid(), secrets.randbits(64))


os.register_at_fork(after_in_child=here.cache_clear)
