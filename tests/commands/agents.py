"""Agents started as processes of their own, each gone at the end with all that it has started."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.agent.folders import CommandFolder, end_commands
from runtime.local_cluster.task_process import command_line


class AgentProcess:
    """A ``tensor-runtime agent`` with its folder."""

    def __init__(self, state: Path, command: list[str], env: Mapping[str, str] | None = None) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.log_path = state / "log"
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    def log(self) -> str:
        """Return what it has written."""
        return self.log_path.read_text()


def agent_command(address: str, state: Path, *flags: str, name: str = "agent", concurrency: int = 1) -> list[str]:
    """Return the command line of an agent that runs bare commands."""
    return command_line(
        "agent", f"grpc://{address}", "--name", name, "--concurrency", str(concurrency), "--state-dir", str(state),
        "--allow-bare", *flags,
    )


@contextlib.contextmanager
def agent(
    address: str, state: Path, *flags: str, name: str = "agent", concurrency: int = 1,
    env: Mapping[str, str] | None = None,
) -> Iterator[AgentProcess]:
    """Give a running agent; at the end it is killed, and what it has left running is ended."""
    started = AgentProcess(state, agent_command(address, state, *flags, name=name, concurrency=concurrency), env)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        end_commands(state)


def supervisor_of(state: Path, task: int) -> int:
    """Return the process that supervises a command of an agent."""
    process = CommandFolder(state, task, 1).supervisor()
    assert process is not None
    return process.pid


def marked(text: str) -> list[int]:
    """Return the processes whose command line has a text."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                if text.encode() in words:
                    found.append(int(name))
    return found
