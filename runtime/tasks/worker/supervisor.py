"""Worker processes kept running: started, begun again when they end by themselves, drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Sequence

from runtime.local_cluster.task_process import describe_exit

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
# A process that has run for so long has not failed at its start.
_LASTING_S = 10.0
_KILL_S = 5.0
READY = b"ready "


class Supervisor:
    """Keeps worker processes running. Belongs to its loop.

    Parameters
    ----------
    commands : sequence of sequences of str
        The command line of each process. A process prints ``ready ENDPOINT`` when it serves, ends when its standard
        input ends, and drains on SIGTERM.
    grace_s : float
        What a process gets to drain; it sees to that itself, and is killed some seconds later.
    hopeless : int
        Exit status before the first ``ready`` that says that another start would end the same way.
    """

    def __init__(self, commands: Sequence[Sequence[str]], grace_s: float, hopeless: int) -> None:
        self._commands = commands
        self._grace_s = grace_s
        self._hopeless = hopeless
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._endpoints: dict[int, str] = {}

    def stop(self, at_once: bool = False) -> None:
        """Have every process drain and end; or end now."""
        self._stopping.set()
        if at_once:
            self._at_once.set()

    async def run(self, ready: Callable[[list[str]], object]) -> int:
        """Run until `stop`; return the exit status.

        Parameters
        ----------
        ready : callable
            Called with the endpoints when every process has served once.
        """
        keepers = [asyncio.ensure_future(self._keep(index, ready)) for index in range(len(self._commands))]
        statuses = await asyncio.gather(*keepers)
        return max(statuses)

    async def _keep(self, index: int, ready: Callable[[list[str]], object]) -> int:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = loop.time()
            process = await asyncio.create_subprocess_exec(
                *self._commands[index],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                process_group=0,  # an interrupt typed at the terminal is for this process alone, which passes it on
            )
            was_ready = await self._watch(index, process, ready)
            status = process.returncode
            assert status is not None
            if self._stopping.is_set():
                return 0
            # One that has served before is tried again: its files are being replaced, say.
            if status == self._hopeless and not was_ready and index not in self._endpoints:
                self._stopping.set()
                return status
            logger.warning("a worker process %s and begins again", describe_exit(status), extra={"worker": index})
            if loop.time() - began > _LASTING_S:
                pause_s = _FIRST_PAUSE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return 0

    async def _watch(
        self, index: int, process: asyncio.subprocess.Process, ready: Callable[[list[str]], object]
    ) -> bool:
        """Wait for the end of a process, and see to it at the end; return whether it was ready."""
        reader = asyncio.ensure_future(self._read(index, process, ready))
        ended = asyncio.ensure_future(process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        at_once = asyncio.ensure_future(self._at_once.wait())
        try:
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await asyncio.wait(
                    [ended, at_once], timeout=self._grace_s + _KILL_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended.done():
                    logger.warning("a worker process does not end, and is killed", extra={"worker": index})
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await ended
            return await reader
        finally:
            for waiter in (reader, ended, stopping, at_once):
                waiter.cancel()
            if process.stdin is not None:
                process.stdin.close()

    async def _read(
        self, index: int, process: asyncio.subprocess.Process, ready: Callable[[list[str]], object]
    ) -> bool:
        """Read what a process prints, to its end; return whether it was ready."""
        was_ready = False
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(READY) and not was_ready:
                was_ready = True
                is_first = len(self._endpoints) < len(self._commands)
                self._endpoints[index] = line[len(READY) :].decode(errors="replace").strip()
                if is_first and len(self._endpoints) == len(self._commands):
                    ready([self._endpoints[number] for number in sorted(self._endpoints)])
            else:
                print(line.decode(errors="replace"), end="", flush=True)
        return was_ready
