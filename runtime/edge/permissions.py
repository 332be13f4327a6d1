"""Which roles may call which methods.

A token has a role; without tokens everyone who reaches the server may call everything. ``admin`` may call all of it
and ``user`` all that runs work; the other roles are for programs that do one thing:

- ``worker``: takes work and reports on it, and, as a task of a cluster, exchanges tensors with the others;
- ``server``: enrols itself with the fleet; ``machine``: reports itself, and asks which server to use.
"""

from __future__ import annotations

import functools

from runtime import wire

__all__ = ["ROLES", "is_public", "plane_of", "roles_for"]

ROLES = ("admin", "user", "worker", "server", "machine")

# Health checks of the fleet, which by their protocol need no token; and calls whose credential is in the message.
_PUBLIC = frozenset(
    {f"/pb.{service}/Check" for service in ("FunctionDispatcher", "ServerDispatcher", "WorkerSaver")}
    | {f"/runtime.v1.Authority/{method}" for method in ("GetAuthority", "Enrol", "Renew")}
)
_ANY = frozenset(ROLES)
_OF_SERVICE = {
    "tensorflow.WorkerService": frozenset({"user", "worker"}),
    "runtime.v1.StepTensors": frozenset({"user", "worker"}),
    "pb.ServerDispatcher": frozenset({"server"}),
    "pb.WorkerSaver": frozenset({"machine"}),
    "pb.FunctionDispatcher": frozenset({"machine", "user"}),
}
_OF_METHOD = {
    f"/taskqueue.TaskQueue/{method}": frozenset({"user", "worker"})
    for method in ("RegisterWorker", "PingAndTakeNewTasks", "UpdateTaskStatus", "SendTaskLogs")
}
# Tasks of a cluster ask each other.
_OF_METHOD["/runtime.v1.Observer/GetStatus"] = frozenset({"user", "worker"})
_OF_METHOD["/runtime.v1.Observer/GetMetrics"] = frozenset({"user", "worker"})
# Workers that come by themselves; endpoints that others name are a user's business.
_OF_METHOD["/runtime.v1.Workers/Serve"] = frozenset({"user", "worker"})
_OTHERWISE = frozenset({"user"})


def is_public(path: str) -> bool:
    """Return whether a method may be called without a token."""
    return path in _PUBLIC


@functools.lru_cache(maxsize=1024)
def roles_for(path: str) -> frozenset[str]:
    """Return the roles, beside admin, that may call ``/SERVICE/METHOD``.

    Health checks and reflection are for every role. A method that does not exist is too: its caller is told so.
    """
    service = path[1:].partition("/")[0]
    if plane_of(path) == "edge":
        return _ANY
    return _OF_METHOD.get(path) or _OF_SERVICE.get(service, _OTHERWISE)


def plane_of(path: str) -> str:
    """Return the plane that answers a method; ``edge`` for the server's own and for what no plane has."""
    return wire.PLANES.get(path[1:].partition("/")[0], "edge")
