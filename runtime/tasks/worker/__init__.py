"""Workers in Python: functions that run the tasks of a server.

    from runtime.tasks.worker import worker

    @worker
    def double(payload: bytes) -> bytes:
        return payload * 2

    @worker(arrays=True)
    def scale(x, factor):
        return {"y": x * factor}

``tensor-runtime worker module:double --server grpc://127.0.0.1:2222 --processes 4`` serves one.
"""

from __future__ import annotations

from runtime.tasks.worker.function import Worker, worker
from runtime.tasks.worker.task import AsyncTask, Subtask, Task, TaskCancelled, TaskError

__all__ = ["AsyncTask", "Subtask", "Task", "TaskCancelled", "TaskError", "Worker", "worker"]
