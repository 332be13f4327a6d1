"""Which tasks and sessions a call is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import InvalidArgument

__all__ = ["SessionFilter", "TaskFilter"]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Tasks of these sessions, or these tasks; of them those with, or without, certain statuses.

    Attributes
    ----------
    sessions, tasks : sequence of str or None
        Exactly one is given and not empty. Unknown ids match nothing, repeated ones count once.
    included, excluded : frozenset of int or None
        At most one is given, and not empty. Numbers that are no status match nothing, or exclude nothing.
    """

    sessions: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    included: frozenset[int] | None = None
    excluded: frozenset[int] | None = None

    def check(self) -> None:
        """Raise InvalidArgument for what is not allowed in a client's filter."""
        if self.sessions is None and self.tasks is None:
            raise InvalidArgument("filter: one of session and task must be set")
        if not (self.tasks if self.sessions is None else self.sessions):
            name = "task" if self.sessions is None else "session"
            raise InvalidArgument(f"filter.{name}.ids: there must be at least one")
        for name, statuses in (("included", self.included), ("excluded", self.excluded)):
            if statuses is not None and not statuses:
                raise InvalidArgument(f"filter.{name}.statuses: there must be at least one")


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """These sessions, or all; of them those with, or without, certain statuses. Empty means no restriction."""

    sessions: Sequence[str] = ()
    included: frozenset[int] | None = None
    excluded: frozenset[int] | None = None
