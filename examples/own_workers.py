"""A server with the task plane, and workers of one function, for as long as an example runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import runtime

STOP_S = 30.0


@contextlib.contextmanager
def server_with_workers(function: str, processes: int) -> Iterator[str]:
    """Serve tasks in this process, run them in others; yield the server's target.

    Parameters
    ----------
    function : str
        ``module:function`` in this folder.
    processes : int
        Worker processes.
    """
    here = str(Path(__file__).resolve().parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        tempfile.TemporaryDirectory(prefix="tasks-") as folder,
        runtime.Server(services=("task",), data_dir=Path(folder), grace_s=1.0) as server,
    ):
        command = [sys.executable, "-m", "runtime.cli", "worker", function, "--server", server.target,
                   "--processes", str(processes), "--grace", "1", "--log-level", "warning"]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            if not process.stdout.readline().startswith(b"ready "):
                sys.exit(f"the workers did not start (status {process.wait()})")
            yield server.target
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
