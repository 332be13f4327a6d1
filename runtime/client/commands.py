"""The command plane from a program: submit shell commands, follow their output, wait for their end."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import grpc

from runtime import wire
from runtime.client.access import Access, address_of
from runtime.client.channels import SharedChannel
from runtime.client.command_ends import Ends
from runtime.client.tasks.progress import Progress, progress_of
from runtime.commands.limits import CommandLimits
from runtime.commands.model import TERMINAL, Status
from runtime.errors import DeadlineExceeded, Error, InvalidArgument, NotFound, Unavailable, from_rpc_error

__all__ = ["Command", "CommandClient", "CommandLimits", "LogLine", "QueueWorker"]

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

TIMEOUT_S = 30.0
RETRY_S = 30.0
# More entries than any output has: what follows them is the end.
_BEYOND = 1 << 60
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class Command(NamedTuple):
    """A command as it is listed."""

    id: int
    command: str
    container: str
    status: Status

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL


class LogLine(NamedTuple):
    """A line of a command's output: ``type`` says which stream, O or E, or what else it is."""

    type: str
    text: str


class QueueWorker(NamedTuple):
    """A worker as it is listed."""

    id: int
    name: str
    concurrency: int


class CommandClient:
    """A server's commands.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` for TLS, or ``unix:PATH``.
    timeout_s : float
        For calls that are answered at once.
    retry_s : float
        For how long a server that cannot be reached is tried again.
    token, tls, ca, cert, key, server_name
        How to get in; see `runtime.Session`.

    Raises
    ------
    Error
        From every method: what the server answers, or why it cannot be reached.

    Concurrency: may be used by any number of threads.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        token: str | None = None,
        tls: bool | None = None,
        ca: Any = None,
        cert: Any = None,
        key: Any = None,
        server_name: str | None = None,
    ) -> None:
        self.target = target
        self._access = Access.of(target, token, tls, ca, cert, key, server_name)
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._shared = SharedChannel.acquire(address_of(target), self._access)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection. What was submitted goes on."""
        self._shared.release()

    # -- commands --------------------------------------------------------------------------------------------------

    def submit(
        self,
        command: str,
        container: str = "",
        *,
        limits: CommandLimits | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str = "",
    ) -> int:
        """Submit a command and return its id; it is stored when this returns, once, however often it was sent.

        Parameters
        ----------
        command : str
            What ``sh -c`` gets.
        container : str
            Image to run it in; ``bare`` for none, empty for what the server takes then.
        limits : CommandLimits, optional
            What it may use; a worker may allow less. They become the first line of the command.
        environment : mapping of str to str, optional
            Variables that the command exports first.
        directory : str
            Where it goes then; empty for the folder that its worker gives it.

        Raises
        ------
        InvalidArgument
            For an empty command, or a name that no variable can have.
        """
        if not command.strip():
            raise InvalidArgument("command: must not be empty")
        lines = [limits.line() if limits is not None else ""]
        for name, value in (environment or {}).items():
            if not _VARIABLE.fullmatch(name):
                raise InvalidArgument(f"environment: {name!r} is no name of a variable")
            lines.append(f"export {name}={shlex.quote(value)}\n")
        if directory:
            lines.append(f"cd -- {shlex.quote(directory)} || exit\n")
        request = wire.taskqueue.TaskRequest(command="".join(lines) + command, container=container)
        number: int = self._call("SubmitTask", request, **{"x-tq-request-id": str(uuid.uuid4())}).task_id
        return number

    def list(self, statuses: str = "", limit: int = 0, offset: int = 0, first: int = 0) -> list[Command]:
        """Return commands by ascending id.

        Parameters
        ----------
        statuses : str
            Letters of those that are wanted; all when empty.
        limit, offset : int
            How many at most (0: all), and how many to leave out.
        first : int
            Only those from this id on.
        """
        unknown = set(statuses) - {str(status) for status in Status}
        if unknown:
            raise InvalidArgument(f"statuses: {', '.join(sorted(unknown))} is none; there are {''.join(Status)}")
        request = wire.taskqueue.ListTasksRequest()
        if statuses:
            request.status_filter = statuses
        metadata = {"x-tq-offset": str(offset)} if offset else {}
        if first:
            metadata["x-tq-first-id"] = str(first)
        if limit:
            metadata["x-tq-limit"] = str(limit)
        reply = self._call("ListTasks", request, **metadata)
        return [Command(one.task_id, one.command, one.container, Status(one.status)) for one in reply.tasks]

    def get(self, number: int) -> Command:
        """Return one command; raises NotFound if there is none of that id, or not any more."""
        for command in self.list(limit=1, first=number):
            if command.id == number:
                return command
        raise NotFound(f"{self.target}: there is no command {number}")

    def cancel(self, number: int) -> None:
        """Cancel a command; its worker ends it. Raises FailedPrecondition if it has ended."""
        self._update(number, Status.CANCELLED)

    def retry(self, number: int) -> None:
        """Put a command that has ended back into the queue, as one attempt more."""
        self._update(number, Status.PENDING)

    def hold(self, number: int) -> None:
        """Keep a command that no worker has begun from being run, until it is released."""
        self._update(number, Status.SUSPENDED)

    def release(self, number: int) -> None:
        """Let a command that is held run."""
        self._update(number, Status.PENDING)

    def logs(self, number: int, *, follow: bool = False, start: int = 0) -> Iterator[LogLine]:
        """Yield a command's output from the entry at ``start``; when following, until the command has ended.

        A stream that breaks goes on where it was.
        """
        request = wire.taskqueue.TaskId(task_id=number)
        give_up = time.monotonic() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            metadata = {"x-tq-log-start": str(start), "x-tq-follow": str(int(follow))}
            method: Any = self._shared.channel.unary_stream("/taskqueue.TaskQueue/StreamTaskLogs")
            call = method(request.SerializeToString(), metadata=self._metadata(metadata))
            try:
                for data in call:
                    entry = wire.taskqueue.TaskLog.FromString(data)
                    yield LogLine(entry.log_type, entry.log_text)
                    start += 1
                    give_up, pause_s = time.monotonic() + self._retry_s, _FIRST_PAUSE_S
                return
            except grpc.RpcError as error:
                told = self._told(error)
                if not isinstance(told, Unavailable) or time.monotonic() + pause_s > give_up:
                    raise told from None
            finally:
                call.cancel()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def join(
        self, numbers: Iterable[int], *, timeout_s: float | None = None, progress: bool | Progress = False
    ) -> dict[int, Command]:
        """Wait until commands have ended, well or not, and return them by id.

        Parameters
        ----------
        progress : bool or callable
            True shows a bar on the standard error stream; a callable gets ``(done, total, failed)``.

        Raises
        ------
        DeadlineExceeded
            If some have not ended after ``timeout_s`` seconds; names how many. They go on.
        """
        wanted = list(dict.fromkeys(numbers))
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        tell = progress_of(progress)
        found: dict[int, Command] = {}
        failed = 0
        tell(0, len(wanted), 0)
        ends = Ends(self, self._until_silent, self._told, deadline, self._retry_s)
        try:
            with contextlib.closing(ends.of(wanted)) as ended:
                for command in ended:
                    if command is None:
                        left = len(wanted) - len(found)
                        raise DeadlineExceeded(
                            f"{left} of {len(wanted)} commands have not ended within {timeout_s:g} s"
                        )
                    found[command.id] = command
                    failed += command.status is not Status.SUCCEEDED
                    tell(len(found), len(wanted), failed)
        finally:
            tell.close()
        return {number: found[number] for number in wanted}

    # -- workers ---------------------------------------------------------------------------------------------------

    def workers(self) -> Sequence[QueueWorker]:
        """Return the workers that the server knows."""
        reply = self._call("ListWorkers", wire.taskqueue.ListWorkersRequest())
        return [QueueWorker(one.worker_id, one.name, one.concurrency) for one in reply.workers]

    def create_workers(
        self, provider: str = "local", number: int = 1, *, concurrency: int = 1, prefetch: int = 0, flavor: str = ""
    ) -> Sequence[int]:
        """Have a provider make workers, and return their ids."""
        request = wire.taskqueue.WorkerRequest(
            provider=provider, number=number, concurrency=concurrency, prefetch=prefetch, flavor=flavor
        )
        numbers: list[int] = list(self._once("CreateWorker", request).worker_ids)
        return numbers

    def delete_worker(self, number: int) -> None:
        """Delete a worker; what it runs goes back to the queue, or fails, as the server is told."""
        self._call("DeleteWorker", wire.taskqueue.WorkerId(worker_id=number))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _until_silent(self, number: int, timeout_s: float | None) -> Any:
        """Return a call that ends when nothing more comes of a command's output."""
        method: Any = self._shared.channel.unary_stream("/taskqueue.TaskQueue/StreamTaskLogs")
        metadata = self._metadata({"x-tq-log-start": str(_BEYOND), "x-tq-follow": "1"})
        request = wire.taskqueue.TaskId(task_id=number).SerializeToString()
        return method(request, metadata=metadata, timeout=timeout_s)

    def _update(self, number: int, status: Status) -> None:
        self._call("UpdateTaskStatus", wire.taskqueue.TaskStatusUpdate(task_id=number, new_status=str(status)))

    def _call(self, method: str, request: Any, **metadata: str) -> Any:
        """Make a call that may be made twice, again while the server is away."""
        give_up, pause_s = time.monotonic() + self._retry_s, _FIRST_PAUSE_S
        while True:
            try:
                return self._once(method, request, **metadata)
            except Unavailable:
                if time.monotonic() + pause_s > give_up:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _once(self, method: str, request: Any, **metadata: str) -> Any:
        form = wire.SERVICES["taskqueue.TaskQueue"][method]
        call: Any = self._shared.channel.unary_unary(form.path)
        try:
            data = call(request.SerializeToString(), timeout=self._timeout_s, metadata=self._metadata(metadata))
        except grpc.RpcError as error:
            raise self._told(error) from None
        return form.response.FromString(data)

    def _metadata(self, more: dict[str, str]) -> tuple[tuple[str, str], ...]:
        return (*self._access.metadata(), *more.items())

    def _told(self, error: grpc.RpcError) -> Error:
        told = from_rpc_error(error)
        return type(told)(f"{self.target}: {told.message}")
