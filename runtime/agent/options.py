"""What an agent is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.commands.limits import CommandLimits

__all__ = ["OUTPUT_BYTES", "AgentOptions"]

OUTPUT_BYTES = 256 << 20
"""What is kept of a command's output, unless an agent is told otherwise."""


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
    container_program : str
        What runs containers; empty: docker or podman, whichever works.
    limits : CommandLimits
        What each command may use at most; it may ask for less.
    sandbox : str
        ``auto``: bare commands run in bubblewrap where that works; ``on``: or not at all; ``off``: never.
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
    container_program: str = ""
    limits: CommandLimits = CommandLimits(output=OUTPUT_BYTES)
    cpus: int = 0
    memory: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 0.0
    kill_grace_s: float = 10.0
    away_s: float = 60.0
    keeps_failed: bool = False
    hidden: tuple[Path, ...] = ()
