"""A local cluster under the eyes of a command: started, written down, watched, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import DeadlineExceeded
from runtime.local_cluster.cluster import STOP_TIMEOUT_S, Cluster
from runtime.local_cluster.merged_logs import MergedLogs
from runtime.local_cluster.state_file import (
    SERVING,
    STARTING,
    STOPPING,
    ClusterRecord,
    ProcessRecord,
    TaskRecord,
    claimed,
    read_record,
    remove_record,
    write_record,
)
from runtime.local_cluster.task_process import TaskProcess

__all__ = ["end_cluster", "supervise"]

_LOOK_S = 0.2
_POLL_S = 0.02
# What the supervisor takes for itself beside the time that it gives its tasks.
_OWN_S = 10.0


def supervise(directory: Path, jobs: Mapping[str, int], options: Mapping[str, Any]) -> int:
    """Run a cluster until a signal ends it, or all of its tasks have ended.

    Standard output gets the addresses and then a line ``ready TARGET``; standard error the logs of all tasks, and a
    line for each that ends by itself.

    Parameters
    ----------
    directory : Path
        For logs, data and the record of the cluster.
    jobs : mapping of str to int
        Number of tasks by job.
    options : mapping
        Settings of every task.

    Returns
    -------
    int
        1 when a task ended by itself, else 0.

    Raises
    ------
    FailedPrecondition
        If a cluster runs in the directory already.
    Error
        Why the tasks do not start; see `Cluster`.

    Notes
    -----
    Belongs to the main thread of a process of its own: it handles SIGTERM and SIGINT. A second signal ends the tasks
    at once.
    """
    with claimed(directory), _Signals() as signals:
        begun = time.time()
        _end_remains(directory)
        own = ProcessRecord.of(os.getpid())
        write_record(directory, ClusterRecord(own, STARTING, begun))
        try:
            with signals.interrupting():
                cluster = Cluster(jobs=jobs, directory=directory, **options)
            try:
                return _watch(directory, cluster, ClusterRecord(own, SERVING, begun, cluster.target), signals)
            finally:
                cluster.stop()
        except KeyboardInterrupt:
            return 0
        finally:
            remove_record(directory)


def _watch(directory: Path, cluster: Cluster, record: ClusterRecord, signals: _Signals) -> int:
    logs = MergedLogs({task.name: task.log_path for task in cluster.tasks}, sys.stderr)
    told: set[str] = set()
    written = None

    def write(state: str) -> None:
        nonlocal written
        now = ClusterRecord(record.process, state, record.started_at, record.target,
                            tuple(map(_task_record, cluster.tasks)))
        if now != written:
            write_record(directory, now)
            written = now

    write(SERVING)
    width = max(len(task.name) for task in cluster.tasks)
    for task in cluster.tasks:
        print(f"{task.name:<{width}}  {task.target}  pid {task.pid}  {task.log_path}")
    print(f"ready {cluster.target}", flush=True)
    while not signals.asked.wait(_LOOK_S):
        logs.copy()
        for task in cluster.failed():
            if task.name not in told:
                told.add(task.name)
                logs.finish()  # its last words before the news
                print(f"tensor-runtime cluster: {task.name} on {task.address} {task.state}; the others go on. Its log: "
                      f"{task.log_path}", file=sys.stderr, flush=True)
        write(SERVING)
        if not any(task.is_running for task in cluster.tasks):
            break
    write(STOPPING)

    def kill() -> None:
        for task in cluster.tasks:
            task.kill()

    signals.on_next(kill)
    cluster.stop()
    logs.finish()
    return 1 if told else 0


def _task_record(task: TaskProcess) -> TaskRecord:
    running = task.is_running
    process = None if task.pid is None else ProcessRecord.of(task.pid) if running else ProcessRecord(task.pid, 0)
    return TaskRecord(task.job, task.index, task.address, str(task.log_path), process, task.started_at or 0.0,
                      "" if running else task.state)


def end_cluster(directory: Path, timeout_s: float = STOP_TIMEOUT_S) -> ClusterRecord | None:
    """End the cluster of a directory: first kindly, then not.

    Parameters
    ----------
    directory : Path
    timeout_s : float
        Seconds that it gets to end by itself.

    Returns
    -------
    ClusterRecord or None
        What ran; None when there was nothing.

    Raises
    ------
    DeadlineExceeded
        If a process is there even after SIGKILL.
    """
    record = read_record(directory)
    if record is None:
        return None
    record.process.signal(signal.SIGTERM)
    if not _gone([record.process], timeout_s + _OWN_S):
        record.process.signal(signal.SIGKILL)
    _end_remains(directory, record)
    return record


def _end_remains(directory: Path, record: ClusterRecord | None = None) -> None:
    """End what a cluster has left behind whose supervisor was killed; its tasks may be about to end by themselves."""
    record = read_record(directory) if record is None else record
    if record is None:
        return
    remains = record.remains
    for process in remains:
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)
    if not _gone(remains, STOP_TIMEOUT_S):
        for process in remains:
            process.signal(signal.SIGKILL)
    if not _gone([record.process, *remains], _OWN_S):
        left = [process.pid for process in (record.process, *remains) if process.is_alive]
        raise DeadlineExceeded(f"processes {left} of the cluster in {directory} do not end, even when killed")
    remove_record(directory)


def _gone(processes: list[ProcessRecord], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(process.is_alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


class _Signals:
    """SIGTERM and SIGINT for the time of a block.

    Attributes
    ----------
    asked : threading.Event
        Set by the first of them.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._interrupts = False
        self._next: Callable[[], None] | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._former[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for signals inside of the block."""
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def on_next(self, work: Callable[[], None]) -> None:
        """Have something done when a further signal arrives."""
        self._next = work

    def _arrived(self, number: int, frame: object) -> None:
        self.asked.set()
        if self._interrupts:
            raise KeyboardInterrupt
        if self._next is not None:
            self._next()
