"""What the graph plane has counted and holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runtime._ext import running_step
from runtime.errors import CODES
from runtime.observe.metrics import Family, counter, gauge

if TYPE_CHECKING:
    from runtime.master.master import Master
    from runtime.worker.worker import Worker

__all__ = ["graph_families"]

_CODE_NAMES = {code: re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper() for code, kind in CODES.items()}


def graph_families(master: Master, worker: Worker | None) -> list[Family]:
    """Return the families of a task; ``worker`` is None until another task has called it."""
    sessions = list(master.sessions.values())
    ended, failed = master.step_counts.read()
    return [
        gauge("sessions", "Sessions of clients.", len(sessions)),
        gauge("steps_running", "Steps of clients under way.", sum(session.num_running for session in sessions)),
        counter("steps_ended", "Steps of clients that have ended, well or not.", ended),
        counter("steps_failed", "Steps of clients that ended with an error of their own, by its code.",
                {name: failed.get(code, 0) for code, name in _CODE_NAMES.items()}, "code"),
        gauge("steps_held", "What the arrays of all steps hold, those that outlive them included.",
              running_step.held_bytes(), unit="bytes"),
        gauge("step_memory_limit", "What the arrays of one step may hold; 0 for no limit.", master.step_memory_limit,
              unit="bytes"),
        gauge("worker_sessions", "Sessions that masters have on this task.",
              0 if worker is None else len(worker.sessions)),
        gauge("step_rendezvous", "Steps with a place here at which tensors meet those who want them.",
              0 if worker is None else worker.num_rendezvous),
    ]
