"""How a command is run: on the machine itself, in bubblewrap's sandbox, or in a container of docker or podman."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from runtime.agent.folders import CommandFolder
from runtime.agent.options import AgentOptions
from runtime.commands.limits import CommandLimits
from runtime.errors import FailedPrecondition

__all__ = ["BARE", "Runners"]

logger = logging.getLogger(__name__)

BARE = "bare"
_CONTAINER_PROGRAMS = ("docker", "podman")
# What their clients find their daemons, images and settings by.
_OF_CONTAINERS = (
    "DOCKER_", "CONTAINER_", "CONTAINERS_", "XDG_", "DBUS_SESSION_BUS_ADDRESS", "REGISTRY_AUTH_FILE", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)
_PROBE_S = 10.0
# What of the agent's environment commands get; tokens and settings stay here.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM")
_FOLDERS = {"INPUT": "input", "OUTPUT": "output", "RESOURCE": "resource", "TEMP": "tmp"}
_INSIDE = "/work"


class Runners:
    """What this machine can run commands with.

    Parameters
    ----------
    options : AgentOptions

    Raises
    ------
    FailedPrecondition
        If a sandbox is demanded and there is none.
    """

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._bubblewrap = None if options.sandbox == "off" else _find_bubblewrap()
        if options.sandbox == "on" and self._bubblewrap is None:
            raise FailedPrecondition("--sandbox on: bubblewrap (bwrap) is not installed, or does not work here")
        self._container_program: str | None = None

    @property
    def is_sandboxed(self) -> bool:
        """Whether bare commands run in a sandbox."""
        return self._bubblewrap is not None

    def container_program(self) -> str:
        """Return the program that runs containers: the one that was named, or the first that is there and works.

        One that does not work is tried again the next time: its daemon may have started.

        Raises
        ------
        FailedPrecondition
            There is none.
        """
        if self._container_program is not None:
            return self._container_program
        named = self._options.container_program
        why = []
        for name in (named,) if named else _CONTAINER_PROGRAMS:
            path = shutil.which(name)
            if path is None:
                continue
            reason = _why_not(path)
            if not reason:
                self._container_program = path
                return path
            why.append(f"{name} is installed on this worker, but does not work: {reason}")
        wanted = named or f"neither {' nor '.join(_CONTAINER_PROGRAMS)}"
        raise FailedPrecondition("; ".join(why) or f"{wanted} is {'not ' if named else ''}installed on this worker")

    def spec(self, folder: CommandFolder, text: str, container: str, concurrency: int, worker: int) -> dict[str, Any]:
        """Return what the supervisor needs to run a command.

        Raises
        ------
        FailedPrecondition, InvalidArgument
            If this agent does not run it; the text is for the one who submitted it.
        """
        options = self._options
        limits = CommandLimits.of_command(text).within(options.limits)
        cpus = max(1, (options.cpus or os.cpu_count() or 1) // max(1, concurrency))
        memory = limits.memory or (options.memory // max(1, concurrency))
        if options.memory and limits.memory:
            memory = min(memory, options.memory)
        cleanup: list[str] = []
        shares = {"CPU": str(cpus), "THREADS": str(cpus), "MEM": str(memory >> 30 if memory else _memory_gib())}
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment.update({name: value for name, value in os.environ.items() if name.startswith("LC_")})
        if container == BARE:
            if not options.allows_bare:
                raise FailedPrecondition("this worker runs no bare commands: it was started without --allow-bare")
            folders = {name: str(folder.work / sub) for name, sub in _FOLDERS.items()}
            argv = [*self._sandbox(folder), "sh", "-c", text]
        else:
            argv, cleanup = self._container(folder, text, container, limits, memory, worker, shares)
            folders = {}
            environment.update(
                {name: value for name, value in os.environ.items() if name.startswith(_OF_CONTAINERS)}
            )
        return {
            "argv": argv,
            "cwd": str(folder.work),
            "env": {**environment, **folders, **shares, **options.environment},
            "wall_s": limits.time_s,
            "grace_s": options.kill_grace_s,
            "away_s": options.away_s,
            "agent_lock": str(options.state / "agent.lock"),
            # A container's own processes are no children of the client: its runtime holds those limits.
            "memory_limit": memory if container == BARE else 0,
            "process_limit": limits.processes if container == BARE else 0,
            "file_limit": limits.files if container == BARE else 0,
            "output_limit": limits.output,
            "cleanup": cleanup,
        }

    def _sandbox(self, folder: CommandFolder) -> list[str]:
        if self._bubblewrap is None:
            return []
        words = [
            self._bubblewrap, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
            "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run",
            # Neither other commands nor what the agent knows.
            "--tmpfs", str(self._options.state),
        ]
        for path in self._options.hidden:
            words += ["--ro-bind", "/dev/null", str(path)]
        return [*words, "--bind", str(folder.work), str(folder.work), "--chdir", str(folder.work), "--"]

    def _container(
        self, folder: CommandFolder, text: str, container: str, limits: CommandLimits, memory: int, worker: int,
        shares: dict[str, str],
    ) -> tuple[list[str], list[str]]:
        options = self._options
        if not options.allows_containers:
            raise FailedPrecondition("this worker runs no containers: it was started with --no-container")
        if container.startswith("-"):
            raise FailedPrecondition(f"container {container!r} is no name of an image")
        try:
            program = self.container_program()
        except FailedPrecondition as error:
            raise FailedPrecondition(f"container {container!r}: {error.message}") from None
        name = f"tq-{worker}-{folder.number}-{folder.attempt}"
        words = [program, "run", "--rm", "--init", "--name", name,
                 "-v", f"{folder.work}:{_INSIDE}", "-w", _INSIDE]
        inside = {variable: f"{_INSIDE}/{sub}" for variable, sub in _FOLDERS.items()}
        for variable, value in {**inside, **shares}.items():
            if variable not in options.environment:
                words += ["-e", f"{variable}={value}"]
        # Their values come from the client's environment: among its arguments everybody on this machine would see them.
        for variable in options.environment:
            words += ["-e", variable]
        if memory:
            words += ["--memory", str(memory)]
        if options.cpus:
            words += ["--cpus", shares["CPU"]]
        if limits.processes:
            words += ["--pids-limit", str(limits.processes)]
        if limits.files:
            words += ["--ulimit", f"nofile={limits.files}:{limits.files}"]
        return [*words, container, "sh", "-c", text], [program, "rm", "-f", name]


def _why_not(program: str) -> str:
    """Return why a program for containers does not work here; empty if it does."""
    try:
        done = subprocess.run(
            [program, "version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if not done.returncode:
        return ""
    told = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return told[-1] if told else f"its status is {done.returncode}"


def _find_bubblewrap() -> str | None:
    """Return bubblewrap's program, if it is there and works: some machines let nobody make namespaces."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    probe = [program, "--die-with-parent", "--unshare-pid", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
             "--tmpfs", "/tmp", "true"]
    try:
        done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("bubblewrap does not work here", extra={"reason": str(error)})
        return None
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip()
        logger.warning("bubblewrap does not work here", extra={"reason": reason})
        return None
    return program


def _memory_gib() -> int:
    from runtime.machine import memory_bytes

    return max(1, memory_bytes() >> 30)


def hidden_files(*paths: Path | str | None) -> tuple[Path, ...]:
    """Return files that commands are not to see, as absolute paths."""
    return tuple(Path(path).absolute() for path in paths if path is not None)
