"""The servers that are measured against each other, each in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["BenchServers", "client_rows", "peer_python", "start_canned", "start_ours", "start_peer", "task_peer_python"]

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 120.0
TASK_PEERS = ("ray", "dask[distributed]")


def peer_python() -> str:
    """Return the interpreter that has TensorFlow: TENSOR_RUNTIME_PEER_PYTHON, or the one ``make bench`` sets up.

    Raises
    ------
    SystemExit
        If there is none.
    """
    path = os.environ.get("TENSOR_RUNTIME_PEER_PYTHON") or str(ROOT / ".venv" / "peer" / "bin" / "python")
    if not Path(path).exists():
        raise SystemExit(f"no interpreter with TensorFlow at {path}; run `make bench`, or set "
                         "TENSOR_RUNTIME_PEER_PYTHON")
    return path


def task_peer_python() -> str:
    """Return the interpreter that has Ray and Dask, which are installed in ``.venv/task-peers`` when first asked for.

    ``TENSOR_RUNTIME_TASK_PEER_PYTHON`` names one that has them already.
    """
    given = os.environ.get("TENSOR_RUNTIME_TASK_PEER_PYTHON")
    if given:
        return given
    folder = ROOT / ".venv" / "task-peers"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    if not stamp.exists():
        print(f"installing {', '.join(TASK_PEERS)} in {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *TASK_PEERS], check=True)
        stamp.touch()
    return str(python)


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    for line in process.stdout:
        if line.startswith("ready "):
            return line.split()[1]
        if time.monotonic() > deadline:
            break
    process.kill()
    raise SystemExit(f"{what} did not get ready within {START_TIMEOUT_S:.0f} s (status {process.wait()})")


def start_ours(*flags: str, listen: str = "127.0.0.1:0") -> tuple[subprocess.Popen[str], str]:
    """Start ``tensor-runtime serve``, by default on a free port; return the process and its target."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "serve", "--listen", listen, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, _await_ready(process, "tensor-runtime serve")


def start_canned() -> tuple[subprocess.Popen[str], str]:
    """Start the server that computes nothing (`runtime.bench.canned_server`); return the process and its target."""
    process = subprocess.Popen([sys.executable, "-m", "runtime.bench.canned_server"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    return process, _await_ready(process, "the canned server")


def start_peer(task: dict[str, Any] | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start TensorFlow's server; return the process and its target.

    Parameters
    ----------
    task : dict, optional
        ``cluster``, ``job`` and ``task`` that it is to be; without it, the one task of job ``local``.
    """
    if task is None:
        task = {"cluster": {"local": [f"127.0.0.1:{free_port()}"]}, "job": "local", "task": 0}
    process = subprocess.Popen(
        [peer_python(), str(ROOT / "bench" / "clients" / "server_tf.py"), json.dumps(task)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, _await_ready(process, "TensorFlow's server")


class BenchServers:
    """Both servers, started on entry and killed on exit.

    Parameters
    ----------
    *flags : str
        For ``tensor-runtime serve``.
    canned : bool
        Start the one that computes nothing, too.

    Attributes
    ----------
    targets : dict
        ``ours``, ``tensorflow`` and perhaps ``canned`` to their ``grpc://`` targets.
    """

    def __init__(self, *flags: str, canned: bool = False) -> None:
        self._flags = flags
        self._canned = canned
        self.targets: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[str]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Numbers of their processes, by the same names."""
        return {name: process.pid for name, process in self.processes.items()}

    def __enter__(self) -> Self:
        try:
            self.processes["ours"], self.targets["ours"] = start_ours(*self._flags)
            self.processes["tensorflow"], self.targets["tensorflow"] = start_peer()
            if self._canned:
                self.processes["canned"], self.targets["canned"] = start_canned()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def client_rows(program: str, spec: dict[str, Any], timeout_s: float) -> Iterator[dict[str, Any]]:
    """Run a client program of ``bench/clients`` in TensorFlow's interpreter; yield the JSON objects that it prints.

    Raises
    ------
    SystemExit
        If it fails or is not done after ``timeout_s`` seconds, when it is killed.
    """
    command = [peer_python(), str(ROOT / "bench" / "clients" / program), json.dumps(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        timer = threading.Timer(timeout_s, client.kill)
        timer.start()
        try:
            for line in client.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            status = client.wait()
        finally:
            timer.cancel()
            client.kill()
    if status != 0:
        raise SystemExit(f"{program} ended with status {status} (it is killed after {timeout_s:.0f} s)")
