"""Workers that are processes of this machine: ``tensor-runtime agent``, each in a group of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.errors import FailedPrecondition, NotFound, Unavailable
from runtime.local_cluster.task_process import command_line
from runtime.process_tuning import with_first_descriptor_limit
from runtime.providers.base import Flavor, Surroundings, WorkerSpec, parse_flavor
from runtime.providers.processes import ProcessId, end_group, identify, is_alive, wait_gone

__all__ = ["LocalProvider"]

_PROCESS_FILE = "process.json"
_LOG_FILE = "agent.log"
_END_GRACE_S = 10.0
_KILLED_S = 5.0
# Describes other programs, or holds what a worker has no business with.
_NOT_INHERITED = ("TF_CONFIG", "TENSOR_RUNTIME_FAILPOINTS")


class LocalProvider:
    """Processes of this machine. They go on when the server ends, and the next server finds them again.

    Parameters
    ----------
    surroundings : Surroundings
        The folder of each worker, ``folder/NAME``, has its log and the number of its process.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._children: set[int] = set()

    def flavors(self) -> Sequence[str]:
        """See `Provider.flavors`: the whole machine, and every number of its processors."""
        return ["default", *(f"cpu{number}" for number in range(1, (os.cpu_count() or 1) + 1))]

    def regions(self) -> Sequence[str]:
        """See `Provider.regions`."""
        return ["local"]

    def flavor(self, name: str) -> Flavor:
        """See `Provider.flavor`."""
        flavor = parse_flavor(name)
        if flavor.cpus is not None and flavor.cpus > (os.cpu_count() or 1):
            raise NotFound(f"flavor {name!r} is not known here: this machine has {os.cpu_count() or 1} processors")
        return flavor

    def check(self) -> None:
        """See `Provider.check`."""
        command_line()
        if self._surroundings.uses_tls and self._surroundings.ca_file is None:
            raise FailedPrecondition("provider local: workers need the setting command_worker_ca to trust this server")
        if self._surroundings.needs_token and self._surroundings.token_file is None:
            raise FailedPrecondition("provider local: workers need the setting command_worker_token_file to call here")

    async def create(self, spec: WorkerSpec) -> str:
        """See `Provider.create`."""
        self._reap()
        folder = self._surroundings.folder / spec.name
        running = await asyncio.to_thread(_read_process, folder)
        if running is not None and is_alive(running):
            # A server that died before it could note what it had made.
            return _handle(running)
        starting = asyncio.ensure_future(asyncio.to_thread(self._spawn, spec, folder))
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            process = await starting
            await end_group(process, 0.0)
            raise
        return _handle(process)

    async def restart(self, spec: WorkerSpec, handle: str) -> str:
        """See `Provider.restart`: commands have processes of their own, which the new worker finds again."""
        process = await self._find(spec.name, handle)
        if process is not None and is_alive(process):
            os.kill(process.pid, 9)
            if not await wait_gone(process, _KILLED_S):
                raise Unavailable(f"worker {spec.name}: process {process.pid} does not end")
        return await self.create(spec)

    async def delete(self, name: str, handle: str) -> None:
        """See `Provider.delete`."""
        from runtime.agent.folders import end_commands

        process = await self._find(name, handle)
        if process is not None:
            await end_group(process, _END_GRACE_S)
        folder = self._surroundings.folder / name
        await asyncio.to_thread(end_commands, folder)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._reap()

    async def is_alive(self, name: str, handle: str) -> bool:
        """See `Provider.is_alive`."""
        self._reap()
        process = await self._find(name, handle)
        return process is not None and is_alive(process)

    async def list(self) -> Mapping[str, str]:
        """See `Provider.list`."""
        self._reap()
        return await asyncio.to_thread(self._list)

    def _list(self) -> dict[str, str]:
        found = {}
        if self._surroundings.folder.is_dir():
            for folder in self._surroundings.folder.iterdir():
                process = _read_process(folder) if folder.name.startswith(self._surroundings.prefix) else None
                if process is not None and is_alive(process):
                    found[folder.name] = _handle(process)
        return found

    async def _find(self, name: str, handle: str) -> ProcessId | None:
        # The file is newer than the handle where a server died in between.
        found = await asyncio.to_thread(_read_process, self._surroundings.folder / name)
        if found is None and handle:
            noted = json.loads(handle)
            found = ProcessId(int(noted["pid"]), int(noted["started"]))
        return found

    def _spawn(self, spec: WorkerSpec, folder: Path) -> ProcessId:
        around = self._surroundings
        words = [_target(around), "--managed", "--name", spec.name, "--concurrency", str(spec.concurrency),
                 "--state-dir", str(folder)]
        if around.allows_bare:
            words.append("--allow-bare")
        if around.ca_file is not None:
            words += ["--ca", str(around.ca_file.absolute())]
        if around.token_file is not None:
            words += ["--token-file", str(around.token_file.absolute())]
        if spec.flavor.cpus is not None:
            words += ["--cpus", str(spec.flavor.cpus)]
        if spec.flavor.memory is not None:
            words += ["--memory", str(spec.flavor.memory)]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        try:
            with open(folder / _LOG_FILE, "ab") as log:
                # Not one of the `subprocess` module's: it goes on when this process ends.
                # Commands of users inherit the limits of their worker.
                command = with_first_descriptor_limit(command_line("agent", *words))
                pid = os.posix_spawn(
                    command[0], command, environment, setsid=True, file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                        (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                    ],
                )
        except OSError as error:
            raise Unavailable(f"worker {spec.name} cannot be started: {error}") from error
        self._children.add(pid)
        process = identify(pid)
        if process is None:
            raise Unavailable(f"worker {spec.name} ended at once; see {folder / _LOG_FILE}")
        _write_process(folder, process)
        return process

    def _reap(self) -> None:
        """Collect children that have ended, so that their numbers are free."""
        for pid in list(self._children):
            try:
                has_ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                has_ended = True  # somebody else in this process has collected it
            if has_ended:
                self._children.discard(pid)


def _target(around: Surroundings) -> str:
    """Return where a process of this machine reaches the server."""
    if around.address.startswith("unix:"):
        return around.address
    host, _, port = around.address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"{'grpcs' if around.uses_tls else 'grpc'}://{host}:{port}"


def _handle(process: ProcessId) -> str:
    return json.dumps({"pid": process.pid, "started": process.started})


def _write_process(folder: Path, process: ProcessId) -> None:
    fresh = folder / (_PROCESS_FILE + ".new")
    fresh.write_text(_handle(process))
    fresh.replace(folder / _PROCESS_FILE)


def _read_process(folder: Path) -> ProcessId | None:
    try:
        noted = json.loads((folder / _PROCESS_FILE).read_text())
        return ProcessId(int(noted["pid"]), int(noted["started"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        # Only a write that a crash of the machine cut short leaves this; its process is gone, too.
        return None
