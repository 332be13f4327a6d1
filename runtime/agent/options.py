"""What an agent is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["AgentOptions", "TaskLimits"]


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What each command may use; 0: as much as there is.

    Attributes
    ----------
    wall_s : float
        Seconds.
    memory, output : int
        Bytes: of all its processes together; of what is kept of its output.
    processes, files : int
        Processes at once; open files of each process.
    """

    wall_s: float = 0.0
    memory: int = 0
    processes: int = 0
    output: int = 256 << 20
    files: int = 0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """An agent's name, place and permissions.

    Attributes
    ----------
    name : str
        Under which it registers.
    concurrency : int
        Commands at once, when the server does not know the name yet.
    state : Path
        Its folder, which no other agent uses.
    allows_bare, allows_containers : bool
        Whether it runs commands on the machine itself, and in containers.
    sandbox : str
        ``auto``: bare commands run in bubblewrap where that works; ``on``: or not at all; ``off``: never.
    limits : TaskLimits
    cpus, memory : int
        What the commands share: processors, and bytes; 0: all.
    environment : mapping of str to str
        Given to every command.
    grace_s : float
        Seconds that running commands get to end by themselves when the agent is asked to stop.
    kill_grace_s : float
        Seconds between SIGTERM and SIGKILL.
    away_s : float
        Seconds after which a command ends that no agent has come back for.
    keeps_failed : bool
        Whether folders of commands that failed stay.
    hidden : tuple of Path
        Files that commands in a sandbox do not see.
    """

    name: str
    concurrency: int
    state: Path
    allows_bare: bool = False
    allows_containers: bool = True
    sandbox: str = "auto"
    limits: TaskLimits = TaskLimits()
    cpus: int = 0
    memory: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 0.0
    kill_grace_s: float = 10.0
    away_s: float = 60.0
    keeps_failed: bool = False
    hidden: tuple[Path, ...] = ()
