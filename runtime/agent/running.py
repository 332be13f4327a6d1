"""One command of an agent, from its acceptance to its last report."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator

from runtime.agent.calls import GONE, Calls, persist
from runtime.agent.folders import CommandFolder
from runtime.agent.launcher import Launcher, Started
from runtime.errors import Error, FailedPrecondition
from runtime.providers.processes import is_alive
from runtime.store import failpoints

__all__ = ["RunningCommand", "Slots"]

logger = logging.getLogger(__name__)

_READ_BYTES = 256 << 10
# A stream of output is acknowledged, and a new one begun, after so many bytes or seconds.
_SEGMENT_BYTES = 32 << 20
_SEGMENT_S = 30.0
# A replaced byte takes three.
_ENTRY_BYTES = 64 << 10
_SHORTEST_LOOK_S = 0.02
_LONGEST_LOOK_S = 0.2
_ASK_AGAIN_S = 1.0
# How long a supervisor may take to say that it is there.
_CLAIM_S = 30.0
_VANISHED = "its supervisor was killed, and the command with it"


class Slots:
    """How many commands may run at once. Growth takes effect at once; shrinking ends none that runs."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._changed = asyncio.Condition()

    @property
    def is_free(self) -> bool:
        """Whether one more may run."""
        return self.taken < self.limit

    async def take(self) -> None:
        """Wait for a free slot and take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.is_free)
            self.taken += 1

    def take_now(self) -> None:
        """Take a slot for what runs already."""
        self.taken += 1

    async def give_back(self) -> None:
        """Let another have it."""
        async with self._changed:
            self.taken -= 1
            self._changed.notify_all()

    async def resize(self, limit: int) -> None:
        """Have another limit from now on."""
        if limit != self.limit:
            async with self._changed:
                self.limit = limit
                self._changed.notify_all()


class RunningCommand:
    """A command that this agent has.

    Parameters
    ----------
    folder : CommandFolder
        Prepared.
    calls : Calls
    slots : Slots
    launcher : Launcher
    why_not : str
        Not empty: the command is not run but fails with this line.
    is_adopted : bool
        Whether a former agent has taken it.
    keeps_failed : bool
        Whether the folder stays when it fails.
    giving_up : Event
        Set when reports are no longer repeated: the agent ends.
    """

    def __init__(
        self, folder: CommandFolder, calls: Calls, slots: Slots, launcher: Launcher, *, why_not: str = "",
        is_adopted: bool = False, keeps_failed: bool = False, giving_up: asyncio.Event | None = None,
    ) -> None:
        self.folder = folder
        self.is_cancelled = False
        self.is_lost = False
        self._calls = calls
        self._slots = slots
        self._launcher = launcher
        self._why_not = why_not
        self._is_adopted = is_adopted
        self._keeps_failed = keeps_failed
        self._giving_up = giving_up
        self._is_stopped = False
        self._ending = asyncio.Event()
        self._exit = _Exit()
        self._started: Started | None = None
        self._started_at = 0.0
        self._asked_at = 0.0
        self._extra: list[str] = []

    @property
    def number(self) -> int:
        """The command's id."""
        return self.folder.number

    def cancel(self) -> None:
        """End it: the server says that it is cancelled."""
        self.is_cancelled = True
        self._end()

    def lose(self) -> None:
        """End it, and report nothing: it is another worker's now."""
        self.is_lost = True
        self._end()

    def stop(self) -> None:
        """End it, and report that it has failed: the agent ends."""
        self._is_stopped = True
        self._end()

    async def run(self) -> None:
        """Do all of it; returns when nothing is left to do. Errors of the server's end up here and nowhere else."""
        try:
            await self._run()
        except GONE as error:
            logger.warning(
                "a task is not this worker's any more", extra={"task": self.number, "reason": error.message}
            )
            self.lose()
            await self._until_ended()
            await asyncio.to_thread(self.folder.remove)
        except Error as error:
            # The agent ends while the server is away: the next agent reports it.
            logger.warning("a task is left for the next start", extra={"task": self.number, "reason": error.message})
        finally:
            self._exit.close()
            if self._started is not None:
                self._started.close()

    async def _run(self) -> None:
        folder = self.folder
        supervisor = folder.supervisor()
        if supervisor is not None:
            # A former agent has started it.
            with contextlib.suppress(OSError):  # it has ended
                self._exit.watch(os.pidfd_open(supervisor.pid))
            self._slots.take_now()
            try:
                if folder.result() is None:
                    await self._report("R")
                await self._send_output()
            finally:
                await self._slots.give_back()
        else:
            await self._report_at_least("C")
            failpoints.hit("agent.accepted")
            if self._why_not:
                self._extra.append(self._why_not)
                await self._send_output()
            elif await self._take_slot():
                try:
                    await self._report("R")
                    self._started = await asyncio.to_thread(self._launcher.start, folder)
                    if self._started is not None:
                        self._exit.watch(os.dup(self._started.handle))
                    self._started_at = time.monotonic()
                    failpoints.hit("agent.started")
                    await self._send_output()
                finally:
                    await self._slots.give_back()
            else:
                await self._send_output()
        failpoints.hit("agent.sent")
        if self.is_lost:
            await asyncio.to_thread(folder.remove)
            return
        letter = self._letter()
        await self._report(letter)
        failpoints.hit("agent.reported")
        await asyncio.to_thread(folder.remove, self._keeps_failed and letter == "F")

    def _letter(self) -> str:
        if self.is_cancelled:
            return "X"
        result = self.folder.result()
        return "S" if result is not None and result["reason"] == "exit" and result["status"] == 0 else "F"

    async def _take_slot(self) -> bool:
        """Wait for a slot; return False if the command is to end before it has begun."""
        if not self._slots.is_free:
            await self._report_at_least("O")
        taking = asyncio.ensure_future(self._slots.take())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait([taking, ending], return_when=asyncio.FIRST_COMPLETED)
            if not self._ending.is_set():
                return True
            if taking.done():
                await self._slots.give_back()
            return False
        finally:
            for waiting in (taking, ending):
                waiting.cancel()

    async def _report_at_least(self, letter: str) -> None:
        """Report a status before the start; a former agent may have got further, and died before the command began."""
        try:
            await self._report(letter)
        except FailedPrecondition:
            if not self._is_adopted:
                raise

    async def _report(self, letter: str) -> None:
        number, attempt = self.number, self.folder.attempt
        await persist(lambda: self._calls.update(number, attempt, letter), self._giving_up)

    # -- output ----------------------------------------------------------------------------------------------------

    async def _send_output(self) -> None:
        """Send what the command writes until it has ended and the server has all of it."""
        position = sequence = 0
        while True:

            async def send(start: int = position, first: int = sequence) -> _Segment:
                # A new one for each try: the transport may still hold the last one's entries.
                segment = _Segment(self, start)
                await self._calls.send(self.number, self.folder.attempt, first, segment.entries())
                return segment

            try:
                segment = await persist(send, self._giving_up)
            except GONE:
                if not self.is_lost:
                    raise
            if self.is_lost:
                await self._until_ended()
                return
            position, sequence = segment.position, sequence + segment.count
            if segment.is_last:
                return

    async def is_over(self) -> bool:
        """Return whether the command has ended and all of its output is in the folder."""
        self._ask_again()
        if self._why_not or (self._started is None and self.folder.supervisor() is None):
            return True
        if self.folder.result() is not None:
            if self._started is not None:
                await asyncio.to_thread(self._started.wait)
            return True
        process = self.folder.supervisor()
        if process is None:
            assert self._started is not None
            # Not there yet, or ended before it could say so.
            is_there = not self._started.has_ended() and time.monotonic() - self._started_at < _CLAIM_S
        else:
            is_there = is_alive(process)
        if is_there or self.folder.result() is not None:
            return False
        if _VANISHED not in self._extra:
            await asyncio.to_thread(self.folder.kill_leftovers)
            self._extra.append(_VANISHED)
        return True

    @property
    def last_lines(self) -> list[str]:
        """What this agent itself has to say of the command."""
        return [*self._extra, *(["ended: its worker was stopped"] if self._is_stopped else [])]

    async def _until_ended(self) -> None:
        while not await self.is_over():
            await self.wait_for_exit(_LONGEST_LOOK_S)

    async def wait_for_exit(self, seconds: float) -> None:
        """Wait until the supervisor has ended, so long at most; less when that cannot be waited for any more."""
        await self._exit.wait(seconds)

    def _end(self) -> None:
        self._ending.set()
        self._asked_at = 0.0
        self._ask_again()

    def _ask_again(self) -> None:
        """Have the supervisor end the command; again, as it may not have been there the last time."""
        if self._ending.is_set() and time.monotonic() - self._asked_at > _ASK_AGAIN_S:
            self._asked_at = time.monotonic()
            self.folder.ask_to_end()


class _Exit:
    """The end of one process, waited for without looking."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._handle: int | None = None

    def watch(self, handle: int) -> None:
        """Begin, with a descriptor of the process that is closed here."""
        self._handle = handle
        asyncio.get_running_loop().add_reader(self._handle, self._tell)

    async def wait(self, seconds: float) -> None:
        """Wait for the end, so long at most. It is told once: what is left to do then is for looking."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass
        self._ended.clear()

    def close(self) -> None:
        """Stop."""
        if self._handle is not None:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None

    def _tell(self) -> None:
        self._ended.set()
        self.close()


class _Segment:
    """One stream of a command's output, from a position of its file on.

    Attributes
    ----------
    position, count : int
        How far it has come in the file, and how many lines that were.
    is_last : bool
        Whether that is all there is.
    """

    def __init__(self, command: RunningCommand, start: int) -> None:
        self._command = command
        self._start = start
        self.position = start
        self.count = 0
        self.is_last = False

    async def entries(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the lines as they come, many in one entry where many have come."""
        command = self._command
        ends_at = time.monotonic() + _SEGMENT_S
        look_s = _SHORTEST_LOOK_S
        while time.monotonic() < ends_at and self.position - self._start < _SEGMENT_BYTES:
            if command.is_lost:
                return
            is_over = await command.is_over()
            entries, self.position = await asyncio.to_thread(command.folder.output, self.position, _READ_BYTES)
            for stream, lines in itertools.groupby(entries, lambda entry: entry.stream):
                for text, count in _joined([line.data for line in lines]):
                    self.count += count
                    yield stream, text
            if entries:
                look_s = _SHORTEST_LOOK_S
            elif is_over:
                for line in command.last_lines:
                    self.count += 1
                    yield "E", line + "\n"
                self.is_last = True
                return
            else:
                await command.wait_for_exit(look_s)
                look_s = min(look_s * 1.5, _LONGEST_LOOK_S)


def _joined(lines: list[bytes]) -> Iterator[tuple[str, int]]:
    """Yield texts of many lines, each with its line break, and how many lines each has."""
    start = nbytes = 0
    for place, line in enumerate(lines):
        if nbytes and nbytes + len(line) > _ENTRY_BYTES:
            yield _text(lines[start:place]), place - start
            start, nbytes = place, 0
        nbytes += len(line) + 1
    if start < len(lines):
        yield _text(lines[start:]), len(lines) - start


def _text(lines: list[bytes]) -> str:
    # The protocol's texts hold no NUL, and a line that is not UTF-8 is better than none.
    return "".join(
        line.decode("utf-8", "replace").replace("\0", "\N{SYMBOL FOR NULL}") + "\n" for line in lines
    )
