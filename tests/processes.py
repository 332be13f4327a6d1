"""Servers started as processes of their own, each bounded in time and gone at the end."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.local_cluster.ports import HeldPort
from tests import peers

ROOT = peers.ROOT
READY = re.compile(r"ready (?P<target>\S+)\n")
OUR_START_TIMEOUT_S = 60.0
# TensorFlow's server needs 5 to 10 s on an idle machine, several times that on a busy one.
PEER_START_TIMEOUT_S = 100.0
STOP_TIMEOUT_S = 15.0


@dataclass
class ServerProcess:
    """A server in a process of its own.

    Attributes
    ----------
    target : str
        What clients connect to, ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT``.
    process : subprocess.Popen
        The process.
    log_path : Path
        What it writes to standard error.
    """

    target: str
    process: subprocess.Popen[str]
    log_path: Path

    @property
    def address(self) -> str:
        """``HOST:PORT``, as a channel wants it."""
        return self.target.partition("://")[2] or self.target

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Return everything the server wrote to standard error so far."""
        return self.log_path.read_text(errors="replace")

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask the server to stop, as a service manager would, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def read_ready(process: subprocess.Popen[str], log_path: Path, timeout_s: float) -> str:
    """Wait for the ready line and return its target.

    Raises
    ------
    AssertionError
        The process ended, or wrote no ready line in time; the message holds its log.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    text = ""

    def wrote(output: str) -> str:
        return f"it wrote {output!r} and\n{log_path.read_text(errors='replace')}"

    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (found := READY.search(text)) is None:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise AssertionError(f"the server was not ready within {timeout_s} s; {wrote(text)}")
            chunk = os.read(process.stdout.fileno(), 4096).decode()
            if not chunk:
                raise AssertionError(f"the server ended before it was ready; {wrote(text)}")
            text += chunk
    return found["target"]


@contextlib.contextmanager
def start_process(
    command: Sequence[str], log_path: Path, start_timeout_s: float, env: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Start a command that prints a ready line; kill it at the end if it still runs."""
    with (
        open(log_path, "w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=env
        ) as process,
    ):
        try:
            yield ServerProcess(read_ready(process, log_path, start_timeout_s), process, log_path)
        finally:
            if process.poll() is None:
                process.kill()


def has_stopped(pid: int) -> bool:
    """Tell whether every thread of a process stands still: those of a process told to stop may go on for a moment."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)


_held: list[HeldPort] = []


def free_port() -> int:
    """Return a port for those who must know it beforehand; until this process ends nobody else is given it."""
    _held.append(HeldPort())
    return _held[-1].port


def serve_command(*options: str) -> list[str]:
    """Return the command line of ``tensor-runtime serve``, run from this checkout with this interpreter."""
    return [sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main())", "serve", *options]


def start_server(
    folder: Path, *options: str, listen: str = "127.0.0.1:0", env: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[ServerProcess]:
    """Start ``tensor-runtime serve`` with its data and its log below ``folder``."""
    command = serve_command("--listen", listen, "--data-dir", str(folder / "data"), *options)
    whole = {**os.environ, **env} if env else None
    return start_process(command, folder / "server.log", OUR_START_TIMEOUT_S, whole)


def start_tensorflow_server(folder: Path) -> contextlib.AbstractContextManager[ServerProcess]:
    """Start TensorFlow's own server, the only task of the job ``localhost``; `tests.cluster_tasks` has its clusters."""
    script = Path(__file__).with_name("tensorflow_server.py")
    command = [str(peers.peer_python()), str(script)]
    return start_process(command, folder / "tensorflow.log", PEER_START_TIMEOUT_S, peers.peer_environment())
