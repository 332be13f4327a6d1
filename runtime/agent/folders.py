"""The folder of each command that an agent has: what is to be run, who supervises it, how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.agent import supervisor
from runtime.errors import FailedPrecondition, Unavailable
from runtime.providers.processes import ProcessId, identify, is_alive

__all__ = ["COMMANDS", "SUPERVISOR", "CommandFolder", "SpoolEntry", "StateLock", "command_folders", "end_commands"]

SUPERVISOR = (sys.executable, "-I", "-S", supervisor.__file__)
"""The program beside a command, without its argument."""
COMMANDS = "commands"
LOCK = "agent.lock"
_NAME = re.compile(r"(\d+)\.(\d+)")
_RECORD = struct.Struct("<cI")
# A supervisor asks for the lock for an instant; an agent that starts tries again.
_LOCK_TRIES = 40
_LOCK_PAUSE_S = 0.05
_MARK = "TENSOR_RUNTIME_COMMAND"
_END_S = 15.0


class SpoolEntry(NamedTuple):
    """One line of output: ``O`` or ``E``, and its text as it came."""

    stream: str
    data: bytes


class CommandFolder:
    """One command in one attempt.

    Parameters
    ----------
    state : Path
        The agent's folder.
    number, attempt : int
    """

    def __init__(self, state: Path, number: int, attempt: int) -> None:
        self.state = state
        self.number = number
        self.attempt = attempt
        self.path = state / COMMANDS / f"{number}.{attempt}"
        self.work = self.path / "work"

    @property
    def mark(self) -> str:
        """What stands in the environment of every process of this command."""
        return f"{_MARK}={self.path}"

    def prepare(self, spec: dict[str, Any]) -> None:
        """Write down what is to be run, before anybody is told that it will be.

        Raises
        ------
        Unavailable
            If the disk takes no more.
        """
        try:
            for name in ("input", "output", "resource", "tmp"):
                (self.work / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            spec["env"] = {**spec["env"], _MARK: str(self.path)}
            fresh = self.path / "spec.json.new"
            fresh.write_text(json.dumps(spec))
            fresh.replace(self.path / "spec.json")
        except OSError as error:
            raise Unavailable(f"task {self.number}: its folder cannot be made: {error}") from error

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has come to its end."""
        return (self.path / "spec.json").exists()

    @property
    def is_started(self) -> bool:
        """Whether there is or was a supervisor."""
        return (self.path / "supervisor.json").exists()

    def start(self) -> subprocess.Popen[bytes] | None:
        """Start the supervisor, unless there was one already; return it, to be waited for."""
        if self.is_started:
            return None
        program = [*SUPERVISOR, str(self.path)]
        with open(self.path / "supervisor.log", "ab") as log:
            return subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.path, start_new_session=True
            )

    def supervisor(self) -> ProcessId | None:
        """Return the process of the supervisor, running or not; None if there was none yet."""
        try:
            noted = json.loads((self.path / "supervisor.json").read_text())
            return ProcessId(int(noted["pid"]), int(noted["started"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def result(self) -> dict[str, Any] | None:
        """Return how the command ended; None while it has not."""
        try:
            found: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        except FileNotFoundError:
            return None
        return found

    def output(self, position: int, limit: int) -> tuple[list[SpoolEntry], int]:
        """Return the whole lines from a position on, about ``limit`` bytes of them, and the position behind them."""
        try:
            with open(self.path / "output", "rb", buffering=0) as file:
                data = os.pread(file.fileno(), limit + supervisor.MAX_LINE + _RECORD.size, position)
        except FileNotFoundError:
            return [], position
        entries = []
        place = 0
        while place + _RECORD.size <= len(data):
            stream, size = _RECORD.unpack_from(data, place)
            end = place + _RECORD.size + size
            if end > len(data):
                break
            entries.append(SpoolEntry(stream.decode("ascii"), data[place + _RECORD.size : end]))
            place = end
        return entries, position + place

    def ask_to_end(self) -> None:
        """Have the supervisor end the command."""
        process = self.supervisor()
        if process is not None and is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    def kill_leftovers(self) -> None:
        """Kill every process of the command, without its supervisor's help."""
        mark = self.mark.encode()
        while True:
            found = [pid for pid in _processes() if mark in _environment(pid)]
            if not found:
                break
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        process = self.supervisor()
        if process is not None and not is_alive(process):
            supervisor.remove_groups(process.pid)

    def remove(self, keep: bool = False) -> None:
        """Remove the folder; with ``keep`` only what makes it a command that an agent has."""
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        kept = self.state / "kept" / self.path.name
        kept.parent.mkdir(exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rename(kept)


class StateLock:
    """Says that an agent lives, for as long as its process does.

    Raises
    ------
    FailedPrecondition
        If another agent has the folder.
    """

    def __init__(self, state: Path) -> None:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = state / LOCK
        self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(_LOCK_PAUSE_S)
        os.close(self._lock)
        raise FailedPrecondition(f"{state} is in use by another agent; stop that one or choose another --state-dir")

    def release(self) -> None:
        """Let go."""
        os.close(self._lock)


def command_folders(state: Path) -> Iterator[CommandFolder]:
    """Yield the commands that an agent left."""
    if not (state / COMMANDS).is_dir():
        return
    for path in sorted((state / COMMANDS).iterdir()):
        found = _NAME.fullmatch(path.name)
        if found is not None:
            yield CommandFolder(state, int(found[1]), int(found[2]))


def end_commands(state: Path) -> None:
    """End all commands that an agent which is gone has left running, and remove their folders."""
    folders = list(command_folders(state))
    for folder in folders:
        folder.ask_to_end()
    deadline = time.monotonic() + _END_S
    for folder in folders:
        process = folder.supervisor()
        while process is not None and is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)
        if process is not None and is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        folder.kill_leftovers()
        folder.remove()


def _processes() -> list[int]:
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own and identify(int(name))]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []
