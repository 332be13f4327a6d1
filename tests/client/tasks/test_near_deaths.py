"""kill -9 and SIGSTOP of servers, and of clients that write payloads: what is acknowledged is as it was given.

``TENSOR_RUNTIME_KILLS=300`` has so many deaths; ``TENSOR_RUNTIME_SEED`` chooses when.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime.client.channels import Access
from runtime.client.metrics import fetch_metrics
from runtime.local_cluster.ports import HeldPort
from runtime.local_cluster.task_process import TaskProcess
from runtime.observe.metrics_service import families_of
from tests.client.tasks.conftest import running_worker
from tests.client.tasks.near_client import payload_of
from tests.peers import ROOT

KILLS = int(os.environ.get("TENSOR_RUNTIME_KILLS", "4"))
SEED = int(os.environ.get("TENSOR_RUNTIME_SEED", "1"))
START_S = 60.0


class Program:
    """A client in a process of its own, and what it knows to be stored."""

    def __init__(self, target: str, session: str, name: str, pause_s: float = 0.0) -> None:
        self.name = name
        self.stored: list[tuple[str, int]] = []
        self.near: set[str] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.client.tasks.near_client", target, session, name, str(pause_s)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                _, id, index, is_near = line.split()
                self.stored.append((id, int(index)))
                self.near.add(is_near)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_for(self, more: int) -> None:
        """Wait until so many further tasks are stored."""
        wanted = len(self.stored) + more
        deadline = time.monotonic() + START_S
        while len(self.stored) < wanted:
            assert time.monotonic() < deadline and self._process.poll() is None
            time.sleep(0.01)

    def end(self) -> None:
        """Kill it, and read what it has said."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TaskProcess]:
    """A server that can be killed and started again where it was."""
    with contextlib.closing(HeldPort()) as port:
        found = TaskProcess("server", 0, port, tmp_path)
        start(found)
        try:
            yield found
        finally:
            found.kill()
            found.wait(time.monotonic() + START_S)
            found.close()


def start(server: TaskProcess) -> None:
    server.start(("--services", "task", "--task-check-s", "0.1", "--log-level", "warning"))
    server.wait_ready(time.monotonic() + START_S)


def again(server: TaskProcess) -> None:
    """Kill the server as by kill -9, and start it again."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.is_running:
        time.sleep(0.002)
    start(server)


def check(server: TaskProcess, session: str, programs: list[Program]) -> None:
    """Run everything; the payload of each task is the one that was given."""
    with running_worker(server.target, processes=2), runtime.TaskClient(server.target) as client:
        attached = client.attach(session)
        counts = attached.wait(timeout_s=START_S)
        assert set(counts) == {"COMPLETED"}, counts
        for program in programs:
            assert program.stored and program.near == {"True"}
            for id, index in program.stored:
                found = attached.handle(id).result(timeout_s=START_S)
                assert found == hashlib.sha256(payload_of(program.name, index)).digest(), (program.name, index)


def test_a_frozen_client_writes_over_nothing_that_a_new_server_has_stored(server: TaskProcess) -> None:
    with runtime.TaskClient(server.target) as client, client.session("s"):
        pass
    frozen = Program(server.target, "s", "frozen", pause_s=0.3)
    programs = [frozen]
    try:
        frozen.wait_for(6)
        time.sleep(0.15)
        frozen.signal(signal.SIGSTOP)  # just before it writes where it was lent a place
        again(server)
        assert "clients of the last server hold locks" in server.log()
        for name in ("one", "two"):
            programs.append(Program(server.target, "s", name))
        for program in programs[1:]:
            program.wait_for(120)
        frozen.signal(signal.SIGCONT)  # and writes there now
        for program in programs:
            program.wait_for(12)
    finally:
        for program in programs:
            program.end()
    check(server, "s", programs)


def test_a_frozen_client_of_the_same_server_writes_over_nothing(server: TaskProcess) -> None:
    with runtime.TaskClient(server.target) as client, client.session("s"):
        pass
    programs = [Program(server.target, "s", name, pause_s) for name, pause_s in (("frozen", 0.3), ("one", 0.0))]
    try:
        programs[0].wait_for(6)
        for _ in range(2):
            programs[0].signal(signal.SIGSTOP)
            programs[1].wait_for(60)
            programs[0].signal(signal.SIGCONT)
            programs[0].wait_for(6)
    finally:
        for program in programs:
            program.end()
    check(server, "s", programs)


def test_what_was_acknowledged_outlives_deaths_of_clients_and_servers(server: TaskProcess) -> None:
    chance = random.Random(SEED)
    with runtime.TaskClient(server.target) as client, client.session("s"):
        pass
    programs = [Program(server.target, "s", f"client{number}", pause_s=0.01) for number in range(2)]
    running = list(programs)
    try:
        for death in range(KILLS):
            time.sleep(chance.random() * 0.4)
            if death % 2 == 0:
                stopped = chance.choice(running)
                stopped.signal(signal.SIGSTOP)
                again(server)
                stopped.signal(signal.SIGCONT)
            else:
                killed = running.pop(chance.randrange(len(running)))
                killed.end()
                running.append(Program(server.target, "s", f"further{death}", pause_s=0.01))
                programs.append(running[-1])
        for program in running:
            program.wait_for(6)
    finally:
        for program in programs:
            program.end()
    check(server, "s", [program for program in programs if program.stored])
    assert KILLS < 4 or any(program.stored for program in programs)


def test_what_was_acknowledged_outlives_deaths_although_its_payload_may_never_have_been_durable(
    server: TaskProcess,
) -> None:
    chance = random.Random(SEED)
    with runtime.TaskClient(server.target) as client, client.session("s"):
        pass
    programs = [Program(server.target, "s", f"client{number}") for number in range(2)]
    num_early = 0
    try:
        with running_worker(server.target, processes=2):
            for _ in range(KILLS):
                # A server has to see first that tasks are quick.
                deadline = time.monotonic() + START_S
                while not (early := early_at(server)):
                    assert time.monotonic() < deadline, "no task has ended before it was made"
                    time.sleep(0.02)
                time.sleep(chance.random() * 0.4)
                num_early += early
                again(server)
            for program in programs:
                program.wait_for(6)
    finally:
        for program in programs:
            program.end()
    assert num_early
    check(server, "s", programs)


def early_at(server: TaskProcess) -> int:
    """Return how many tasks had ended on a server before they were made."""
    families = families_of(fetch_metrics(server.target, Access(), START_S))
    (family,) = [family for family in families if family.name.endswith("tasks_ended_early")]
    return int(family.samples[0].value)
