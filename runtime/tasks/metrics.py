"""What the task plane has counted and holds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runtime.observe.metrics import Family, counter, gauge
from runtime.tasks.model import TaskStatus

if TYPE_CHECKING:
    from runtime.tasks.agents.agents import Agents
    from runtime.tasks.tasks import Tasks

__all__ = ["task_families"]

# What `Agent.state` can be, beside a reason in words.
_STATES = ("ready", "busy", "leaving")
# Never set here.
_UNUSED = (TaskStatus.PROCESSED, TaskStatus.FAILED)


async def task_families(tasks: Tasks | None, agents: Agents | None) -> list[Family]:
    """Return the families of a plane; None where its store, or its agents, have not been needed yet.

    Raises
    ------
    Error
        If the store cannot be read.
    """
    counts: dict[TaskStatus, int] = {}
    if tasks is not None:
        counts = await tasks.store.read_in_thread(lambda tables: tables.total_counts())
    found = [] if agents is None else agents.all()
    names = (*_STATES, "unusable")
    states = Counter(agent.state if agent.state in _STATES else "unusable" for agent, _ in found)
    return [
        gauge("tasks", "Attempts of tasks that the store has, over all sessions.",
              {status.name: counts.get(status, 0) for status in TaskStatus if status not in _UNUSED}, "status"),
        counter("tasks_ended_early", "Tasks that had ended before they were made: their payloads needed no disk.",
                0 if tasks is None else tasks.early.num_ended),
        gauge("task_workers", "Workers for tasks.", {name: states[name] for name in names}, "state"),
    ]
