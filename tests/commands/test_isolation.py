"""What commands in bubblewrap's sandbox do to the machine: with too much of everything, and without an end.

Debian's package `bubblewrap` is needed, on a machine that lets it make namespaces; `make test` installs it where
it can.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.agent.options import AgentOptions
from runtime.agent.runners import Runners
from tests.commands.agents import AgentProcess, agent, marked
from tests.conformance.taskqueue.client import Queue, serving, wait_until

LIMITS = ("--sandbox", "on", "--kill-grace", "0.5", "--task-time", "15", "--task-processes", "100", "--task-memory",
          "300MiB", "--task-files", "1000", "--task-output", "1MiB")


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: Debian's package bubblewrap has it")
    if not Runners(AgentOptions("probe", 1, Path("/nonexistent"))).is_sandboxed:
        pytest.skip("bubblewrap does not work here: this machine lets nobody make namespaces")
    with serving(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


@pytest.fixture(scope="module")
def worker(queue: Queue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    state = tmp_path_factory.mktemp("agent")
    secret = state / "secret"
    secret.write_text("a token of sixteen characters or more".replace(" ", "-"))
    with agent(queue.address, state, *LIMITS, "--token-file", str(secret)) as started:
        yield started


def run(queue: Queue, command: str) -> tuple[str, list[str]]:
    """Run a command; return its status and its output."""
    task = queue.submit(command)
    lines = [entry.log_text for entry in queue.follow(task)]
    return queue.status(task), lines


def test_it_sees_and_writes_its_own_folder_alone(queue: Queue, worker: AgentProcess, tmp_path: Path) -> None:
    outside = Path.home() / f"written by {os.getpid()}"
    status, lines = run(queue, f"echo x > file && cat file; ls -A {worker.state}; cat {worker.state}/secret; "
                               f"echo y > '{outside}'; ls /proc | grep -c '^[0-9]*$'; echo z > $TEMP/z")
    assert status == "S" and not outside.exists()
    assert lines[:2] == ["x", "commands"]
    assert not any("sixteen" in line for line in lines)
    assert any("Read-only file system" in line for line in lines)
    assert max(int(line) for line in lines if line.isdigit()) < 10


def test_fork_bomb(queue: Queue, worker: AgentProcess) -> None:
    begin = time.monotonic()
    # It stops at a thousand by itself, for the sake of others on this machine should this go wrong.
    bomb = "bomb() { [ $1 = 0 ] || { bomb $(($1 - 1)) & bomb $(($1 - 1)) & }; sleep 7663; }; bomb 9"
    status, lines = run(queue, bomb)
    assert status == "F" and "processes, 100 are allowed" in lines[-1], lines
    assert time.monotonic() - begin < 60
    wait_until(lambda: not marked("7663"), "all are gone")
    assert run(queue, "echo alive") == ("S", ["alive"])


def test_endless_output(queue: Queue, worker: AgentProcess) -> None:
    status, lines = run(queue, "yes 0123456789 | head -c 300000000; echo end")
    assert lines[-1].startswith(("output beyond", "timeout"))
    assert sum(map(len, lines)) < 1 << 21
    spool = sum(path.stat().st_size for path in worker.state.rglob("output") if path.is_file())
    assert spool < 4 << 20
    assert status in "SF"


def test_a_command_that_ignores_signals(queue: Queue, worker: AgentProcess) -> None:
    task = queue.submit("trap '' TERM INT HUP; echo begun; while :; do sleep 7664; done")
    assert next(queue.follow(task)).log_text == "begun"
    queue.update(task, "X")
    wait_until(lambda: not marked("7664"), "ended")


def test_many_descriptors_and_much_memory(queue: Queue, worker: AgentProcess) -> None:
    status, lines = run(queue, "python3 -c \"files = [open('/dev/null') for _ in range(1000000)]\"")
    assert status == "F" and any("Too many open files" in line for line in lines)
    status, lines = run(queue, "python3 -c \"blocks = [bytearray(1 << 20) for _ in range(1000000)]\"")
    assert status == "F" and any("MemoryError" in line or "bytes of memory" in line for line in lines)


def test_what_it_leaves_running_dies_with_it(queue: Queue, worker: AgentProcess) -> None:
    assert run(queue, "setsid sleep 7665 > /dev/null 2>&1 & echo done") == ("S", ["done"])
    wait_until(lambda: not marked("7665"), "gone")
