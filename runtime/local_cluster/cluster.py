"""A cluster of server processes on this machine: ``runtime.Cluster``."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime import config
from runtime.cluster_spec import ClusterSpec
from runtime.errors import Error, InvalidArgument
from runtime.local_cluster.ports import HeldPort
from runtime.local_cluster.task_process import TaskProcess

__all__ = ["OWN_SETTINGS", "Cluster"]

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# Processes that got SIGKILL are gone as soon as the system comes to it.
_KILLED_S = 10.0
# The job of the task that clients connect to when they have no other wish, in this order.
_CHIEF_JOBS = ("chief", "master", "worker")
# What the cluster itself says to each of its tasks.
OWN_SETTINGS = ("cluster", "job_name", "task_index", "listen", "data_dir")

_running: weakref.WeakSet[Cluster] = weakref.WeakSet()


class Cluster:
    """Server processes on this machine that form a cluster; all of them serve when the constructor returns.

    They end with :meth:`stop`, the end of a ``with`` block, or this program, however that ends.

    Parameters
    ----------
    workers, ps : int
        Tasks of the jobs ``worker`` and ``ps``.
    jobs : mapping of str to int, optional
        The number of tasks of each job, in place of the two.
    absent : iterable of (str, int)
        Tasks (job, index) that have an address in the cluster but are not started yet; see :meth:`start`.
    directory : path, optional
        For logs and data of the tasks; kept. When left out, a temporary one that goes with the cluster.
    start_timeout_s : float
        Seconds that the tasks may take together to be ready.
    **options
        Settings of every task: fields of :class:`runtime.config.Settings` by name, such as ``peer_timeout_s=3`` or
        ``log_level="debug"``. The environment's ``TENSOR_RUNTIME_...`` variables count too, but are weaker.

    Attributes
    ----------
    spec : ClusterSpec
        The addresses of all tasks.
    directory : Path
    tasks : tuple of TaskProcess

    Raises
    ------
    runtime.errors.InvalidArgument
        If there is no task at all, or a setting does not exist or cannot be used.
    runtime.errors.Unavailable, runtime.errors.DeadlineExceeded
        If a task ends before it is ready, or is not ready in time; names it, with the end of its log. Nothing is left.

    Notes
    -----
    Ports are chosen free and kept until the end, also while a task is being restarted.

    Concurrency: for one thread at a time.

    Examples
    --------
    >>> with Cluster(workers=1, ps=1) as cluster:
    ...     sorted(cluster.targets)
    ['ps', 'worker']
    """

    def __init__(
        self,
        workers: int = 2,
        ps: int = 0,
        *,
        jobs: Mapping[str, int] | None = None,
        absent: Iterable[tuple[str, int]] = (),
        directory: str | Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        **options: Any,
    ) -> None:
        counts = dict(jobs) if jobs is not None else {"ps": ps, "worker": workers}
        counts = {job: count for job, count in counts.items() if count > 0}
        if not counts:
            raise InvalidArgument("a cluster needs a task: workers, ps or jobs must say of at least one")
        self._flags = _flags(options)
        self._start_timeout_s = start_timeout_s
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="tensor-runtime-cluster-") if directory is None else directory)
        self._tasks: dict[tuple[str, int], TaskProcess] = {}
        try:
            for job, count in counts.items():
                for index in range(count):
                    self._tasks[job, index] = TaskProcess(job, index, HeldPort(), self.directory)
            self.tasks = tuple(self._tasks.values())
            self.spec = ClusterSpec({job: {index: self._tasks[job, index].address for index in range(count)}
                                     for job, count in counts.items()})
            _stop_at_exit(self)
            left_out = {self._task(job, index) for job, index in absent}
            self._start([task for task in self.tasks if task not in left_out])
        except BaseException:
            self.stop(0.0)
            raise

    @property
    def target(self) -> str:
        """What a client connects to that has no other wish: the first task of ``chief``, ``master`` or ``worker``.

        Where there is none of these jobs, the first task of the first job.
        """
        job = next((job for job in _CHIEF_JOBS if job in self.spec.jobs), next(iter(self.spec.jobs)))
        return self._tasks[job, 0].target

    @property
    def targets(self) -> dict[str, list[str]]:
        """What clients connect to, by job and index: ``targets["worker"][1]``."""
        return {job: [self._tasks[job, index].target for index in tasks] for job, tasks in self.spec.jobs.items()}

    def task(self, job: str, index: int = 0) -> TaskProcess:
        """Return the process of a task: its pid, log and state.

        Raises
        ------
        runtime.errors.InvalidArgument
            If there is no such task.
        """
        return self._task(job, index)

    def tf_config(self, job: str, index: int = 0) -> str:
        """Return the JSON text that TensorFlow programs expect in ``TF_CONFIG`` for a task of this cluster."""
        cluster = {name: [tasks[number] for number in sorted(tasks)] for name, tasks in self.spec.jobs.items()}
        return json.dumps({"cluster": cluster, "task": {"type": job, "index": self._task(job, index).index}})

    def start(self, job: str, index: int = 0) -> TaskProcess:
        """Start a task that does not run, and wait until it is ready.

        Raises
        ------
        runtime.errors.FailedPrecondition
            If it runs.
        runtime.errors.Unavailable, runtime.errors.DeadlineExceeded
            If it ends before it is ready, or is not ready in time.
        """
        task = self._task(job, index)
        self._start([task])
        return task

    def restart(self, job: str, index: int = 0, *, timeout_s: float = STOP_TIMEOUT_S) -> TaskProcess:
        """End a task, if it runs, and start it again on its address, and wait until it is ready.

        Parameters
        ----------
        timeout_s : float
            Seconds that it gets to end by itself before it is killed.
        """
        task = self._task(job, index)
        _end([task], timeout_s)
        return self.start(job, index)

    def kill(self, job: str, index: int = 0) -> None:
        """Kill a task, as a crash would, and wait until it is gone."""
        task = self._task(job, index)
        task.kill()
        task.wait(time.monotonic() + _KILLED_S)

    def signal(self, job: str, index: int, number: int) -> None:
        """Send a signal to a task: ``SIGSTOP`` freezes it, ``SIGCONT`` lets it go on."""
        self._task(job, index).signal(number)

    def failed(self) -> list[TaskProcess]:
        """Return the tasks that have ended although nobody asked them to."""
        found = [task for task in self.tasks if task.has_failed]
        for task in found:
            task.is_reported = True
        return found

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End all tasks; does nothing the second time.

        Parameters
        ----------
        timeout_s : float
            Seconds that they get to end by themselves before they are killed.
        """
        tasks = list(self._tasks.values())
        for task in tasks:
            if task.has_failed and not task.is_reported:
                task.is_reported = True
                logger.warning("a task had ended by itself", extra={"task": task.name, "how": task.state})
        _end(tasks, timeout_s)
        for task in tasks:
            task.close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        states = ", ".join(f"{task.name} {task.address} {task.state}" for task in self._tasks.values())
        return f"<runtime.Cluster {states}>"

    def _task(self, job: str, index: int) -> TaskProcess:
        found = self._tasks.get((job, index))
        if found is None:
            raise InvalidArgument(f"the cluster has no task {job}/{index}; it has "
                                  f"{', '.join(task.name for task in self._tasks.values())}")
        return found

    def _start(self, tasks: Iterable[TaskProcess]) -> None:
        spec = self.spec.to_json()
        started = list(tasks)
        for task in started:
            task.start(["--cluster", spec, "--job", task.job, "--task", str(task.index), *self._flags])
        deadline = time.monotonic() + self._start_timeout_s
        try:
            for task in started:
                task.wait_ready(deadline)
        except Error:
            _end(started, 0.0)
            raise


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Return settings as flags of ``tensor-runtime serve``, checked."""
    for name in OWN_SETTINGS:
        if name in options:
            raise InvalidArgument(f"argument {name}: the cluster decides this for each of its tasks")
    settings = config.load(dict(options), {}, user_file=False, flag_origin="argument").settings
    flags = []
    for entry in config.setting_fields():
        if options.get(entry.name) is None:
            continue
        value = getattr(settings, entry.name)
        flag = config.flag_of(entry)
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, tuple):
            separator = "," if entry.name == "services" else os.pathsep
            flags.append(f"{flag}={separator.join(map(str, value)) or 'none'}")
        else:
            flags.append(f"{flag}={value}")
    return flags


def _end(tasks: Iterable[TaskProcess], timeout_s: float) -> None:
    """End tasks, kindly for `timeout_s` seconds."""
    running = [task for task in tasks if task.is_running]
    if timeout_s > 0:
        for task in running:
            task.ask_to_stop()
        deadline = time.monotonic() + timeout_s
        for task in running:
            task.wait(deadline)
    for task in running:
        if task.is_running:
            if timeout_s > 0:
                logger.warning("a task did not end in time and is killed",
                               extra={"task": task.name, "pid": task.pid, "seconds": timeout_s})
            task.kill()
    deadline = time.monotonic() + _KILLED_S
    for task in running:
        task.wait(deadline)


_registered = False


def _stop_at_exit(cluster: Cluster) -> None:
    global _registered
    _running.add(cluster)
    if not _registered:
        _registered = True
        atexit.register(_stop_all)


def _stop_all() -> None:
    for cluster in list(_running):
        with contextlib.suppress(Error):
            cluster.stop()
