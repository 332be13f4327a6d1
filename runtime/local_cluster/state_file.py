"""What is written down of a local cluster that a command has started, so that other commands find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.config import user_data_dir
from runtime.errors import FailedPrecondition, InvalidArgument

__all__ = ["SERVING", "STARTING", "STOPPING", "ClusterRecord", "ProcessRecord", "TaskRecord", "claimed",
           "default_directory", "read_record", "remove_record", "write_record"]

STARTING, SERVING, STOPPING = "starting", "serving", "stopping"
_FILE, _LOCK = "cluster.json", "cluster.lock"
_VERSION = 1


def default_directory() -> Path:
    """Return where a cluster keeps what it has when nothing else is said."""
    return user_data_dir() / "cluster"


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process, known again later.

    Attributes
    ----------
    pid : int
    born : int
        When it began, as the system counts; 0 where it does not tell. A number is used again, this pair is not.
    """

    pid: int
    born: int

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Return the record of a process that runs."""
        return cls(pid, _born(pid))

    @property
    def is_alive(self) -> bool:
        """Tell whether this very process runs still."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return False  # of another user: the number has been given again
        return _born(self.pid) == self.born and not _is_zombie(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process is gone."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task of the cluster.

    Attributes
    ----------
    job, index, address, log : str, int, str, str
    process : ProcessRecord or None
        None when it was never started.
    started_at : float
        Unix time.
    ended : str
        How its process ended; empty while it runs.
    """

    job: str
    index: int
    address: str
    log: str
    process: ProcessRecord | None
    started_at: float
    ended: str

    @property
    def state(self) -> str:
        """``running``, or how it ended."""
        if self.ended:
            return self.ended
        if self.process is None:
            return "not started"
        return "running" if self.process.is_alive else "gone"


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster.

    Attributes
    ----------
    process : ProcessRecord
        Who started the tasks, and ends them.
    state : str
        ``starting``, ``serving`` or ``stopping``.
    started_at : float
        Unix time.
    target : str
        What clients connect to; empty while it starts.
    tasks : tuple of TaskRecord
    """

    process: ProcessRecord
    state: str
    started_at: float
    target: str = ""
    tasks: tuple[TaskRecord, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Tell whether the cluster still has somebody who looks after it."""
        return self.process.is_alive

    @property
    def remains(self) -> list[ProcessRecord]:
        """Return the processes of tasks that run."""
        return [task.process for task in self.tasks
                if task.process is not None and not task.ended and task.process.is_alive]


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Keep a directory for the cluster of this process, for the time of the block.

    Raises
    ------
    FailedPrecondition
        If another cluster has it.
    InvalidArgument
        If it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidArgument(f"{directory} cannot be used for a cluster: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = read_record(directory)
            who = f"process {found.process.pid}, {found.target or found.state}" if found is not None else "just begun"
            raise FailedPrecondition(f"a cluster runs in {directory} already ({who}); end it with "
                                     "`tensor-runtime cluster down`, or choose another --dir") from None
        yield
    finally:
        os.close(lock)


def write_record(directory: Path, record: ClusterRecord) -> None:
    """Write a record in place of the one that is there, all or nothing."""
    temporary = directory / f"{_FILE}.new"
    temporary.write_text(json.dumps({"version": _VERSION, **asdict(record)}, indent=2) + "\n")
    temporary.replace(directory / _FILE)


def read_record(directory: Path) -> ClusterRecord | None:
    """Return the record in a directory; None when there is none.

    Raises
    ------
    InvalidArgument
        If what is there is no record.
    """
    path = directory / _FILE
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None
    try:
        if table.pop("version") != _VERSION:
            raise InvalidArgument(f"{path} was written by another version of this program")
        tasks = tuple(TaskRecord(**{**task, "process": _process(task["process"])}) for task in table.pop("tasks"))
        return ClusterRecord(**{**table, "process": ProcessRecord(**table["process"]), "tasks": tasks})
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} is no record of a cluster: {error}") from None


def remove_record(directory: Path) -> None:
    """Forget the cluster of a directory."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _FILE).unlink()


def _process(table: dict[str, Any] | None) -> ProcessRecord | None:
    return None if table is None else ProcessRecord(**table)


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on, as proc(5) counts them from 3."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _born(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]
