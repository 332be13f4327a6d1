"""Tensor runtime: TensorFlow graphs, tasks and commands served from one process.

Importing this package starts nothing; the public names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime import errors
    from runtime.client.commands import CommandClient
    from runtime.client.session import Session
    from runtime.client.tasks.aio import AsyncTaskClient
    from runtime.client.tasks.blocking import TaskClient
    from runtime.commands.limits import CommandLimits
    from runtime.graph.builder import Graph
    from runtime.local_cluster.cluster import Cluster
    from runtime.server import Server

__version__ = "0.1.0"
__all__ = [
    "AsyncTaskClient",
    "Cluster",
    "CommandClient",
    "CommandLimits",
    "Graph",
    "Server",
    "Session",
    "TaskClient",
    "__version__",
    "errors",
]

_HOMES = {
    "AsyncTaskClient": "runtime.client.tasks.aio",
    "Cluster": "runtime.local_cluster.cluster",
    "CommandClient": "runtime.client.commands",
    "CommandLimits": "runtime.commands.limits",
    "Graph": "runtime.graph.builder",
    "Server": "runtime.server",
    "Session": "runtime.client.session",
    "TaskClient": "runtime.client.tasks.blocking",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("runtime.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
