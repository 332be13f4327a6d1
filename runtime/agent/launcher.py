"""Starting supervisors: forked by a process that is past the start of Python, which is most of what one costs."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import threading

from runtime.agent.folders import SUPERVISOR, CommandFolder

__all__ = ["Launcher", "Started"]

logger = logging.getLogger(__name__)

# A fork takes a millisecond; a machine that is out of memory may take its time.
_ANSWER_S = 10.0


class Started:
    """A supervisor that this agent has started. To be closed.

    Parameters
    ----------
    handle : int
        A descriptor of the process.
    process : Popen, optional
        The same where it is a child of this one.
    """

    def __init__(self, handle: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.handle = handle
        self._process = process


    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return self._poll(0)

    def wait(self) -> None:
        """Wait until it has ended."""
        self._poll(None)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.handle)
        if self._process is not None:
            # Collected when it has ended, at the latest by the next one that is started so.
            self._process.poll()

    def _poll(self, timeout_ms: int | None) -> bool:
        # `select.select` takes no descriptor from 1024 on.
        end = select.poll()
        end.register(self.handle, select.POLLIN)
        return bool(end.poll(timeout_ms))


class Launcher:
    """Starts supervisors. They go on when this agent ends. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def start(self, folder: CommandFolder) -> Started | None:
        """Start the supervisor of a command, unless there was one already.

        Raises
        ------
        OSError
            If the machine has no place for one more process.
        """
        if folder.is_started:
            return None
        with self._lock:
            try:
                return Started(self._fork(folder))
            except OSError as error:
                logger.warning("supervisors are started one by one", extra={"reason": str(error)})
                self._end()
        process = folder.start()
        return None if process is None else Started(os.pidfd_open(process.pid), process)

    def close(self) -> None:
        """End the process that forks; the supervisors stay."""
        with self._lock:
            self._end()

    def _fork(self, folder: CommandFolder) -> int:
        if self._connection is None:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with there:
                self._process = subprocess.Popen(
                    [*SUPERVISOR, "--launch"], stdin=there.fileno(), stdout=subprocess.DEVNULL, cwd="/"
                )
            here.settimeout(_ANSWER_S)
            self._connection = here
        self._connection.send(os.fsencode(folder.path))
        answer, handles, _, _ = socket.recv_fds(self._connection, 4096, 1)
        if not handles:
            raise OSError(answer.decode("utf-8", "replace") or "the process that forks them has ended")
        return handles[0]

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ANSWER_S)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
