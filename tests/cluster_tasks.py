"""Clusters whose tasks are processes of ours or of TensorFlow, to be killed, frozen and started again at will."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.local_cluster.ports import HeldPort
from tests import peers, processes

__all__ = ["Forks", "Task", "Tasks", "forks"]

START_S = 60.0
OURS, THEIRS = "ours", "tensorflow"


class Forks:
    """TensorFlow's servers and programs, as forks of one process that has imported TensorFlow; see `forks`.

    Notes
    -----
    Safe from several threads.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pids: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._rest = b""
        self._read_until(lambda: 0 in self._pids, processes.PEER_START_TIMEOUT_S)

    def _read_until(self, found: Callable[[], bool], timeout_s: float) -> bool:
        """Read what the process says until something is found there; tell whether it was before the time is over."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not found():
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return False
                chunk = os.read(self._process.stdout.fileno(), 65536)
                assert chunk, "the process of TensorFlow's forks has ended"
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for answer in map(json.loads, lines):
                    if "ended" in answer:
                        self._ended[answer["pid"]] = answer["ended"]
                    else:
                        self._pids[answer["number"]] = answer["pid"]
                        self._ended.pop(answer["pid"], None)  # of an earlier fork with the same id
        return True

    def _fork(self, out: Path, command: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        number = next(self._numbers)
        command |= {"number": number, "out": str(out), "err": str(out.with_suffix(".log"))}
        with self._lock:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            assert self._read_until(lambda: number in self._pids, START_S), (
                f"TensorFlow's forks gave no answer in {START_S} s")
            return self._pids.pop(number)

    def serve(self, out: Path, cluster: Mapping[str, Sequence[str]], job: str, index: int, port: int = 0,
              leader: str = "") -> int:
        """Start a server and return its process id, before it is ready.

        Its port is the task's own if not told; `leader` is the task that leads collectives.
        """
        return self._fork(out, {"server": {"cluster": cluster, "job": job, "task": index, "port": port,
                                           "leader": leader}})

    def run(self, out: Path, program: Path, *arguments: str) -> Callable[[float], list[dict[str, Any]]]:
        """Start a program that prints JSON objects, one a line; return what waits for its end and gives them.

        That one takes seconds to wait; it kills a program that does not end in time, and fails.
        """
        pid = self._fork(out, {"program": str(program), "arguments": arguments})

        def result(timeout_s: float) -> list[dict[str, Any]]:
            status = self.wait(pid, timeout_s)
            if status is None:
                os.kill(pid, signal.SIGKILL)
            wrote = out.with_suffix(".log").read_text()[-6000:]
            assert status == 0, f"{program.name} {' '.join(arguments)}: status {status} (None: not in time)\n{wrote}"
            return [json.loads(line) for line in out.read_text().splitlines()]

        result.pid = pid  # type: ignore[attr-defined]
        return result

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Return the status that a fork ended with, negative after a signal; None when it still runs."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._read_until(lambda: pid in self._ended, 0.0)
                if pid in self._ended or time.monotonic() > deadline:
                    return self._ended.get(pid)
            time.sleep(0.02)


@contextlib.contextmanager
def forks() -> Iterator[Forks]:
    """Start an interpreter that has TensorFlow; what it forked ends with it."""
    command = [str(peers.peer_python()), str(Path(__file__).with_name("tensorflow_forks.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=peers.ROOT,
                          env=peers.peer_environment()) as process:
        try:
            yield Forks(process)
        finally:
            process.kill()


class Task:
    """One task of a cluster.

    Attributes
    ----------
    name : str
        ``/job:J/replica:0/task:T``.
    address : str
    whose : str
        ``ours`` or ``tensorflow``.
    pid : int
        Of its process; 0 while there is none.
    """

    def __init__(self, tasks: Tasks, job: str, index: int, whose: str) -> None:
        self.job = job
        self.index = index
        self.name = f"/job:{job}/replica:0/task:{index}"
        self.address = tasks.cluster[job][index]
        self.whose = whose
        self.pid = 0
        self.out = Path()
        self._tasks = tasks
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def target(self) -> str:
        return f"grpc://{self.address}"

    def start(self, wait: bool = True) -> None:
        """Start the task's process; it must have none."""
        assert not self.pid, f"{self.name} runs"
        folder = self._tasks.folder / f"{self.job}-{self.index}-{time.monotonic_ns()}"
        folder.mkdir()
        self.out = folder / "out"
        cluster = self._tasks.told
        if self.whose == THEIRS:
            assert self._tasks.forks is not None
            port = int(self.address.rpartition(":")[2])
            self.pid = self._tasks.forks.serve(self.out, cluster, self.job, self.index, port, self._tasks.leader)
        else:
            command = [*self._tasks.prefix(self), *processes.serve_command(
                "--services", "graph", "--listen", self.address, "--data-dir", str(folder / "data"), "--cluster",
                json.dumps(cluster), "--job", self.job, "--task", str(self.index), *self._tasks.options)]
            with open(self.out, "wb") as out, open(self.out.with_suffix(".log"), "wb") as log:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                                                 cwd=peers.ROOT)
            self.pid = self._process.pid
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while "ready " not in self.out.read_text() if self.out.exists() else True:
            assert time.monotonic() < deadline, f"{self.name} is not ready in {START_S} s\n{self.log()}"
            status = self._status()
            assert status is None, f"{self.name} ended with {status}\n{self.log()}"
            time.sleep(0.01)

    def has_ended(self) -> bool:
        """Tell whether the process has ended by itself."""
        return self.pid != 0 and self._status() is not None

    def _status(self) -> int | None:
        """Return what the process ended with; None while it runs."""
        if self._process is not None:
            return self._process.poll()
        assert self._tasks.forks is not None
        return self._tasks.forks.wait(self.pid, 0.0)

    def log(self) -> str:
        """Return what the present process wrote to standard error."""
        path = self.out.with_suffix(".log")
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Kill the process and wait until it is gone."""
        assert self.pid, f"{self.name} does not run"
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
            self._process = None
        else:
            assert self._tasks.forks is not None
            assert self._tasks.forks.wait(self.pid, 10) is not None
        self.pid, self._frozen = 0, False

    def stop(self, timeout_s: float) -> None:
        """Ask a server of ours to stop, as a service manager would, and wait until it has."""
        assert self._process is not None, f"{self.name} is no running server of ours"
        self._process.terminate()
        status = self._process.wait(timeout_s)
        assert status == 0, f"{self.name} ended with {status}\n{self.log()}"
        self._process, self.pid, self._frozen = None, 0, False

    def freeze(self) -> None:
        """Stop the process where it stands; its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True
        while not processes.has_stopped(self.pid):
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self._frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._frozen = False


class Tasks:
    """A cluster of processes on this machine, a context manager: they are started by name, and killed at the end.

    Parameters
    ----------
    folder : Path
        For logs and data.
    whose : mapping of str to sequence of str
        By job, for each of its tasks whether it is ``ours`` or ``tensorflow``.
    options : sequence of str
        More flags for our servers.
    forks : Forks, optional
        Must be there when a task is TensorFlow's.
    hosts : mapping of (str, int) to str, optional
        Addresses of tasks that are not on 127.0.0.1.
    prefix : callable
        ``prefix(task)``: what stands before the command of a server of ours.
    told : mapping of str to sequence of str, optional
        The cluster that the servers are told of, where they find each other at other addresses than their own.
    leader : str
        The task that leads collectives, for TensorFlow's servers; ours find it by themselves.

    Attributes
    ----------
    cluster : dict of str to list of str
        Addresses that the servers listen at.
    told : mapping of str to sequence of str
        Those that they find each other at.
    """

    def __init__(self, folder: Path, whose: Mapping[str, Sequence[str]], options: Sequence[str] = (),
                 forks: Forks | None = None, hosts: Mapping[tuple[str, int], str] | None = None,
                 prefix: Callable[[Task], Sequence[str]] = lambda task: (),
                 told: Mapping[str, Sequence[str]] | None = None, leader: str = "") -> None:
        self.folder = folder
        self.options = tuple(options)
        self.forks = forks
        self.leader = leader
        self.prefix = prefix
        self._ports: list[HeldPort] = []
        self.cluster = {job: [self._address((hosts or {}).get((job, index))) for index in range(len(kinds))]
                        for job, kinds in whose.items()}
        self.told = self.cluster if told is None else told
        self._tasks = {(job, index): Task(self, job, index, kind)
                       for job, kinds in whose.items() for index, kind in enumerate(kinds)}

    def _address(self, host: str | None) -> str:
        self._ports.append(HeldPort(host or "127.0.0.1"))
        return self._ports[-1].address

    def __getitem__(self, key: tuple[str, int]) -> Task:
        return self._tasks[key]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def start(self) -> Tasks:
        """Start every task that does not run, at the same time."""
        missing = [task for task in self if not task.pid]
        for task in missing:
            task.start(wait=False)
        for task in missing:
            task.wait_until_ready()
        return self

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for port in self._ports:
            port.close()
        running = [task for task in self if task.pid]
        with ThreadPoolExecutor(max(1, len(running))) as threads:
            list(threads.map(Task.kill, running))
