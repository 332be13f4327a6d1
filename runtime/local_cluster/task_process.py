"""One task of a local cluster: a ``tensor-runtime serve`` process, started, watched, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from runtime.local_cluster.ports import HeldPort

__all__ = ["TaskProcess", "command_line", "describe_exit"]

# The package of this process, wherever it comes from: an installation, or a checkout that is not installed.
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_PROGRAM = (
    "import sys; parent = sys.argv.pop(1); parent in sys.path or sys.path.insert(0, parent); "
    "from runtime.cli import main; sys.exit(main())"
)
_POLL_S = 0.01
_LOG_TAIL_LINES = 15
# Describes the task of another program, perhaps of the one that starts the cluster.
_NOT_INHERITED = ("TF_CONFIG",)


class TaskProcess:
    """A task of a cluster on this machine.

    Parameters
    ----------
    job, index : str, int
    port : HeldPort
        Where it serves; closed with the task.
    directory : Path
        For its data and its log; made when it is not there.

    Attributes
    ----------
    name : str
        ``worker/0``.
    address, target : str
        ``HOST:PORT`` and ``grpc://HOST:PORT``.
    log_path : Path
        What the process writes to standard output and standard error, all starts after each other.
    started_at : float or None
        Unix time of the last start.
    ended_at : float or None
        Unix time at which the end was noticed.
    stop_asked : bool
        Whether it was asked to end since the last start: then its end is no failure.
    is_reported : bool
        Whether its failure was told to somebody.

    Notes
    -----
    Concurrency: for one thread at a time.
    """

    def __init__(self, job: str, index: int, port: HeldPort, directory: Path) -> None:
        self.job = job
        self.index = index
        self.name = f"{job}/{index}"
        self.address = port.address
        self.target = f"grpc://{port.address}"
        self.log_path = directory / "logs" / f"{job}-{index}.log"
        self.data_path = directory / "data" / f"{job}-{index}"
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.stop_asked = False
        self.is_reported = False
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"<TaskProcess {self.name} {self.address} {self.state}>"

    @property
    def pid(self) -> int | None:
        """Number of the process of the last start; None before the first."""
        return None if self._process is None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Its status, or minus the number of the signal that ended it; None where there is no end."""
        if self._process is None:
            return None
        status = self._process.poll()
        if status is not None and self.ended_at is None:
            self.ended_at = time.time()
        return status

    @property
    def is_running(self) -> bool:
        """Tell whether there is a process."""
        return self._process is not None and self.exit_status is None

    @property
    def has_failed(self) -> bool:
        """Tell whether the process ended although nobody asked it to."""
        return self._process is not None and not self.is_running and not self.stop_asked

    @property
    def state(self) -> str:
        """``not started``, ``running``, or how it ended."""
        if self._process is None:
            return "not started"
        status = self.exit_status
        return "running" if status is None else describe_exit(status)

    def log(self) -> str:
        """Return what it has written so far."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def start(self, options: Sequence[str]) -> None:
        """Start the process; `wait_ready` waits until it serves.

        Parameters
        ----------
        options : sequence of str
            Flags of ``tensor-runtime serve`` besides its address and its folder.

        Raises
        ------
        FailedPrecondition
            If it runs already, or this interpreter has no executable.
        """
        if self.is_running:
            raise FailedPrecondition(f"{self.name} runs already, as process {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.data_path.mkdir(parents=True, exist_ok=True)
        command = command_line("serve", "--listen", self.address, "--data-dir", str(self.data_path), "--stop-at-eof",
                               *options)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        self._hang_up()
        self._port.lend()
        with open(self.log_path, "ab") as log:
            self._log_start = log.tell()
            # The pipe on standard input ends with this process, however that ends, and the task with it. A group of its
            # own keeps an interrupt typed at the terminal away from it: whoever started it decides when it ends.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
                                             process_group=0)
        self.started_at = time.time()
        self.ended_at = None
        self.stop_asked = self.is_reported = False

    def wait_ready(self, deadline: float) -> None:
        """Wait until the process serves.

        Parameters
        ----------
        deadline : float
            On the clock of `time.monotonic`.

        Raises
        ------
        Unavailable
            If it ends before; the text has the end of its log.
        DeadlineExceeded
            If it is not ready in time.
        """
        while not self._is_ready():
            if not self.is_running:
                raise Unavailable(f"{self.name} on {self.address} {self.state} before it was ready; its log "
                                  f"{self.log_path} ends with\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self.name} on {self.address} (process {self.pid}) was not ready in time; its "
                                       f"log {self.log_path} ends with\n{self._log_tail()}")
            time.sleep(_POLL_S)

    def signal(self, number: int) -> None:
        """Send a signal to the process; one that has ended gets none."""
        if self._process is not None and self.is_running:
            self._process.send_signal(number)

    def ask_to_stop(self) -> None:
        """Have the process drain and end; one that is frozen goes on for that."""
        self.stop_asked = True
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once."""
        self.stop_asked = True
        self.signal(signal.SIGKILL)

    def wait(self, deadline: float) -> bool:
        """Wait for the end of the process until a time on the clock of `time.monotonic`; tell whether it has ended."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, deadline - time.monotonic()))
        return not self.is_running

    def close(self) -> None:
        """Let go of the port, and of a process that has not ended: it ends now by itself."""
        self._hang_up()
        self._port.close()

    def _hang_up(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _is_ready(self) -> bool:
        with open(self.log_path, "rb") as log:
            log.seek(self._log_start)
            return any(line.startswith(b"ready ") and line.endswith(b"\n") for line in log)

    def _log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:])


def command_line(*words: str) -> list[str]:
    """Return a command line that runs ``tensor-runtime`` with this interpreter and this very package.

    Raises
    ------
    FailedPrecondition
        If this interpreter has no executable.
    """
    if not sys.executable:
        raise FailedPrecondition("no process can be started: sys.executable is not known")
    return [sys.executable, "-P", "-c", _PROGRAM, _PACKAGE_PARENT, *words]


def describe_exit(status: int) -> str:
    """Return an exit status in words: ``ended with status 1``, ``killed by SIGKILL``."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
