"""A server with the task plane, and workers that the tests' functions run on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import runtime
from tests.peers import ROOT

Workers = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture(scope="module")
def task_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Server]:
    """A server whose checks of workers are quick."""
    folder = tmp_path_factory.mktemp("tasks")
    with runtime.Server(services=("task",), data_dir=folder, task_check_s=0.2, grace_s=0.0) as server:
        yield server


@contextlib.contextmanager
def running_worker(target: str, function: str = "work", processes: int = 1) -> Iterator[subprocess.Popen[str]]:
    """Run ``tensor-runtime worker`` with one of the functions, until the end of the block."""
    command = [
        sys.executable, "-m", "runtime.cli", "worker", f"tests.client.tasks.worker_functions:{function}",
        "--server", target, "--processes", str(processes), "--grace", "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready "), ready
        yield process
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def worked(task_server: runtime.Server) -> Iterator[str]:
    """The target of a server with two worker processes."""
    with running_worker(task_server.target, processes=2):
        yield task_server.target


@pytest.fixture
def unworked(tmp_path: Path) -> Iterator[runtime.Server]:
    """A server of the test's own, without workers."""
    with runtime.Server(services=("task",), data_dir=tmp_path / "own", task_check_s=0.2, grace_s=0.0) as server:
        yield server
