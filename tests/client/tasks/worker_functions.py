"""Workers for the tests of the task client."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from runtime.tasks.worker import Task, TaskError, worker


@worker
def work(payload: bytes, task: Task) -> bytes | None:
    """Do what the payload says."""
    word, _, rest = payload.partition(b" ")
    if word == b"echo":
        return rest
    if word == b"fail":
        raise TaskError(rest.decode())
    if word == b"raise":
        raise RuntimeError(rest.decode())
    if word == b"die":
        os._exit(7)
    if word == b"join":
        return b"+".join(task.dependencies.values())
    if word == b"nothing":
        return None
    if word == b"size":
        return str(len(payload)).encode()
    if word == b"digest":
        return hashlib.sha256(payload).digest()
    if word == b"both":
        for key in task.expected_keys:
            task.send(key, key.encode())
        return None
    if word == b"wait":
        path = Path(rest.decode())
        task.progress(0.25, "waiting")
        while not path.exists():
            task.check()
            time.sleep(0.01)
        return b"waited"
    return payload


@worker(arrays=True)
def scale(x, factor):  # type: ignore[no-untyped-def]
    """Multiply."""
    return {"y": x * factor, "sum": (x * factor).sum()}
