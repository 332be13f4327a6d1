"""The agent: one worker of a server, with its commands and their supervisors."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from runtime.agent.calls import Calls, Task, persist
from runtime.agent.folders import CommandFolder, StateLock, command_folders
from runtime.agent.launcher import Launcher
from runtime.agent.options import AgentOptions
from runtime.agent.runners import Runners
from runtime.agent.running import RunningCommand, Slots
from runtime.errors import Aborted, Error, FailedPrecondition, InvalidArgument, NotFound
from runtime.store import failpoints

__all__ = ["Agent"]

logger = logging.getLogger(__name__)

# Between pings to a server that does not hold them: while there is work, and while there is none.
_BUSY_S = 1.0
_IDLE_S = 5.0
# A ping that was answered faster than this, and with nothing, was not held.
_HELD_S = 0.5
# After SIGKILL, until reports are given up.
_REPORT_S = 5.0


class Agent:
    """A worker.

    Parameters
    ----------
    options : AgentOptions
    calls : Calls
        A connection to the server.
    is_managed : bool
        Whether the server has made this worker: then it ends when the server does not know it any more.
    """

    def __init__(self, options: AgentOptions, calls: Calls, is_managed: bool = False) -> None:
        self._options = options
        self._calls = calls
        self._is_managed = is_managed
        self._lock = StateLock(options.state)
        try:
            self._runners = Runners(options)
        except BaseException:
            self._lock.release()
            raise
        self._slots = Slots(options.concurrency)
        self._launcher = Launcher()
        self._commands: dict[int, RunningCommand] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._giving_up = asyncio.Event()

    @property
    def _owned(self) -> dict[int, int]:
        return {number: command.folder.attempt for number, command in self._commands.items()}

    def stop(self) -> None:
        """Take nothing more, and end."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`, then end what runs.

        Raises
        ------
        Aborted
            Another process has registered under this name.
        NotFound
            The server does not know this worker any more, which it has made.
        Error
            The server does not take this worker at all.
        """
        try:
            adopted = await asyncio.to_thread(self._adopt)
            await self._until_stopped(self._register())
            for command in adopted:
                self._begin(command)
            await self._until_stopped(self._ping_often())
        except Aborted:
            # The other process may have the same folder; what runs is its own now.
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            raise
        except NotFound:
            for command in self._commands.values():
                command.lose()
            await self._wait_for_commands(None)
            raise
        else:
            await self._end_commands()
        finally:
            await self._calls.close()
            await asyncio.to_thread(self._launcher.close)
            self._lock.release()

    async def _until_stopped(self, work: object) -> None:
        working = asyncio.ensure_future(work)  # type: ignore[call-overload]
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            return
        working.result()

    async def _register(self) -> None:
        options = self._options
        worker = await persist(lambda: self._calls.register(options.name, options.concurrency, self._owned))
        logger.info("registered", extra={"worker": options.name, "id": worker})

    async def _ping_often(self) -> None:
        while True:
            begin = time.monotonic()
            try:
                answer = await persist(lambda: self._calls.ping(self._owned))
            except NotFound:
                if self._is_managed:
                    raise
                logger.warning("the server does not know this worker; registering again")
                for command in self._commands.values():
                    command.lose()
                await self._wait_for_commands(None)
                await self._register()
                continue
            await self._slots.resize(answer.concurrency)
            for number in answer.lost:
                if number in self._commands:
                    self._commands[number].lose()
            for task in answer.tasks:
                if task.status == "X":
                    self._cancel(task)
                elif task.status == "A":
                    await self._take(task)
            if not answer.tasks and time.monotonic() - begin < _HELD_S:
                await asyncio.sleep((_BUSY_S if self._commands else _IDLE_S) * (0.8 + random.random() * 0.4))

    # -- commands --------------------------------------------------------------------------------------------------

    def _adopt(self) -> list[RunningCommand]:
        """Return the commands that a former agent of this folder has left, running or not."""
        newest: dict[int, CommandFolder] = {}
        for folder in command_folders(self._options.state):
            former = newest.get(folder.number)
            if not folder.is_prepared:
                folder.remove()
            elif former is None or former.attempt < folder.attempt:
                newest[folder.number] = folder
        for folder in command_folders(self._options.state):
            if newest.get(folder.number) is not None and newest[folder.number].path != folder.path:
                folder.ask_to_end()
                folder.kill_leftovers()
                folder.remove()
        commands = [self._command(folder, is_adopted=True) for folder in newest.values()]
        self._commands = {command.number: command for command in commands}
        if commands:
            logger.info("found commands again", extra={"tasks": ",".join(str(number) for number in self._commands)})
        return commands

    async def _take(self, task: Task) -> None:
        if task.number in self._commands:
            return
        folder = CommandFolder(self._options.state, task.number, task.attempt)
        why_not = ""
        try:
            # In a thread, as a program for containers may have to be asked whether it works.
            spec = await asyncio.to_thread(
                self._runners.spec, folder, task.text, task.container, self._slots.limit, self._calls.worker
            )
            await asyncio.to_thread(folder.prepare, spec)
        except (FailedPrecondition, InvalidArgument) as error:
            why_not = error.message
        except Error as error:
            # Not now: the server offers it again, or to another worker.
            logger.warning("a task cannot be taken", extra={"task": task.number, "reason": error.message})
            return
        failpoints.hit("agent.prepared")
        command = self._commands[task.number] = self._command(folder, why_not)
        self._begin(command)

    def _cancel(self, task: Task) -> None:
        command = self._commands.get(task.number)
        if command is not None:
            if not command.is_cancelled:
                logger.info("a task is cancelled", extra={"task": task.number})
                command.cancel()
            return
        # Not ours (any more), but the server waits to be told.
        self._in_background(-task.number, self._confirm_cancelled(task))

    async def _confirm_cancelled(self, task: Task) -> None:
        try:
            await persist(lambda: self._calls.update(task.number, task.attempt, "X"), self._giving_up)
        except Error as error:
            logger.warning("a cancellation is not confirmed", extra={"task": task.number, "reason": error.message})

    def _command(self, folder: CommandFolder, why_not: str = "", is_adopted: bool = False) -> RunningCommand:
        return RunningCommand(
            folder, self._calls, self._slots, self._launcher, why_not=why_not, is_adopted=is_adopted,
            keeps_failed=self._options.keeps_failed, giving_up=self._giving_up,
        )

    def _begin(self, command: RunningCommand) -> None:
        async def run() -> None:
            try:
                await command.run()
            except Exception:
                logger.exception("a task was not run to its end", extra={"task": command.number})
            finally:
                self._commands.pop(command.number, None)

        self._in_background(command.number, run())

    def _in_background(self, key: int, work: object) -> None:
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.ensure_future(work)  # type: ignore[call-overload]
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        else:
            work.close()  # type: ignore[attr-defined]

    async def _end_commands(self) -> None:
        """Give what runs its time, then end it."""
        if await self._wait_for_commands(self._options.grace_s):
            return
        for command in list(self._commands.values()):
            command.stop()
        if not await self._wait_for_commands(self._options.kill_grace_s + _REPORT_S):
            self._giving_up.set()
            await self._wait_for_commands(_REPORT_S)

    async def _wait_for_commands(self, seconds: float | None) -> bool:
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)
        return not self._tasks
