"""kill -9 of servers and workers, at failpoints and at random times, while tasks are made and run.

Whatever was acknowledged is there afterwards, every task has one outcome, and the store is whole.
``TENSOR_RUNTIME_KILLS=300`` kills so many times; ``TENSOR_RUNTIME_SEED`` chooses when and where.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import runtime
from runtime import wire
from runtime.local_cluster.ports import HeldPort
from runtime.local_cluster.task_process import TaskProcess, command_line
from runtime.objects.files import MEDIUM_BYTES
from runtime.store import failpoints
from tests.processes import ROOT

A = wire.armonik
KILLS = int(os.environ.get("TENSOR_RUNTIME_KILLS", "8"))
SEED = int(os.environ.get("TENSOR_RUNTIME_SEED", "1"))
START_S = 60.0
CALM_S = 120.0
PLACES = [name for name in failpoints.NAMES if name.startswith(("store.", "objects.")) and name != "store.migrate"]
# Tasks that have not ended, at most.
BACKLOG = 120
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


class World:
    """A server and its workers, which die and come again, and clients that go on asking."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = TaskProcess("server", 0, HeldPort(), folder)
        self.created: list[str] = []
        self.seen: dict[str, bytes] = {}
        # Payloads of single tasks by their ids.
        self.singles: dict[str, bytes] = {}
        self.problems: list[str] = []
        self.num_deaths = {"server": 0, "failpoint": 0, "worker": 0}
        self.stopped = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None
        self._log = folder / "workers.log"
        self.channel = grpc.insecure_channel(self.server.address, (("grpc.max_reconnect_backoff_ms", 200),))

    def start_server(self, failpoint: str = "") -> None:
        os.environ[failpoints.ENVIRONMENT] = failpoint
        try:
            self.server.start(
                ("--services", "task", "--task-check-s", "0.1", "--log-level", "warning", "--task-cancel-grace-s", "1")
            )
        finally:
            del os.environ[failpoints.ENVIRONMENT]

    def serve(self) -> None:
        """Start the server, again if it died of its failpoint before it was ready."""
        while True:
            try:
                self.server.wait_ready(time.monotonic() + START_S)
                return
            except Exception:
                if self.server.is_running:
                    raise
                self.start_server()

    def start_workers(self, number: int) -> None:
        with open(self._log, "ab") as log:
            self._worker = subprocess.Popen(
                command_line("worker", "tests.tasks.worker_functions:survive", "--server", self.server.target,
                             "--processes", str(number), "--log-level", "warning", "--grace", "5"),
                cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )

    def kill_worker(self) -> None:
        """Kill one of the worker processes."""
        assert self._worker is not None
        assert self._worker.poll() is None, self._log.read_text()
        text = Path(f"/proc/{self._worker.pid}/task/{self._worker.pid}/children").read_text()
        children = [int(pid) for pid in text.split()]
        if children:
            os.kill(self.random.choice(children), signal.SIGKILL)
            self.num_deaths["worker"] += 1

    def call(self, name: str, request: Any, timeout: float = 30.0) -> Any:
        """Call the Submitter, again when the server is away."""
        method = wire.SERVICES["ArmoniK.api.grpc.v1.Submitter"][name]
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        stub: Any = kind(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        deadline = time.monotonic() + START_S + CALM_S
        while True:
            try:
                answer = stub(request, timeout=timeout, wait_for_ready=True)
                return list(answer) if method.server_streaming else answer
            except grpc.RpcError as error:
                if error.code() not in GONE or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    # What clients do

    def create(self) -> None:
        """Make tasks as long as nobody says stop."""
        options = A.TaskOptions(max_retries=10_000, priority=1)
        options.max_duration.seconds = 60
        number = 0
        while not self.stopped.is_set():
            requests = []
            for _ in range(4):
                name = f"t{number}"
                kind = ("plain", "slow", "split", "large", "plain")[number % 5]
                payload = f"{kind} {name} ".encode() + (b"x" * 60_000 if kind == "large" else b"")
                if number % 40 == 3:
                    payload = f"{kind} {name} huge ".encode()
                needs = [f"t{number - 4}"] if number % 3 == 0 and number > 4 else []
                requests.append(A.TaskRequest(
                    id=name, expected_output_keys=[name], data_dependencies=needs, payload=payload
                ))
                number += 1
            message = A.CreateSmallTaskRequest(session_id="s", task_options=options, task_requests=requests)
            reply = self.call("CreateSmallTasks", message)
            # Ids that are there already: the answer to the first attempt was lost, and it had been made whole.
            refused = list(reply.non_successfull_ids.ids)
            if refused not in ([], [request.id for request in requests]):
                self.problems.append(f"a part of a creation was made: {refused}")
            self.created += [request.id for request in requests]
            while len(self.created) - len(self.seen) > BACKLOG and not self.stopped.wait(0.02):
                pass

    def submit(self) -> None:
        """Submit single tasks and wait for their results, one after the other or a few at a time."""
        chosen = random.Random(1)
        number = 0
        with runtime.TaskClient(self.server.target, retry_s=START_S + CALM_S) as client:
            session = client.attach("s", max_retries=10_000, priority=5)
            while not self.stopped.is_set():
                handles = []
                for _ in range(chosen.choice((1, 1, 1, 3))):
                    number += 1
                    payload = b"%s single %d " % (b"slow" if chosen.random() < 0.1 else b"plain", number)
                    handles.append(session.submit(payload))
                    self.singles[handles[-1].id] = payload
                for handle in handles:
                    if chosen.random() < 0.9:
                        data = handle.result(timeout_s=START_S + CALM_S)
                        if self.seen.setdefault(handle.id, data) != data:
                            self.problems.append(f"the result of single task {handle.id} has changed")

    def watch(self) -> None:
        """Read results again and again: what was there once never changes."""
        chosen = random.Random(0)
        while not self.stopped.is_set():
            for name in [name for name in self.created if name not in self.seen][:20]:
                self.look(name)
            for name in chosen.sample(self.created, min(5, len(self.created))):
                self.look(name)
            self.stopped.wait(0.02)

    def look(self, name: str) -> bool:
        """Read a result; return whether it is there."""
        replies = self.call("TryGetResultStream", A.ResultRequest(session="s", key=name))
        if not replies or replies[-1].WhichOneof("type") != "result" or not replies[-1].result.data_complete:
            return False
        data = b"".join(reply.result.data for reply in replies)
        if len(data) > MEDIUM_BYTES:
            data = data[:100] + hashlib.sha256(data).hexdigest().encode() + data[-17:]
        if self.seen.setdefault(name, data) != data:
            self.problems.append(f"result {name} has changed: {self.seen[name][-40:]!r}, {data[-40:]!r}")
        return True

    # Death

    def die_once(self) -> None:
        choice = self.random.choice(("server", "failpoint", "worker", "server"))
        if choice == "worker":
            time.sleep(self.random.uniform(0, 0.3))
            self.kill_worker()
            return
        if choice == "server":
            time.sleep(self.random.uniform(0, 0.6))
            self.server.kill()
            self.server.wait(time.monotonic() + START_S)
            self.start_server()
        else:
            # The server that runs ends now, the next one by itself.
            self.server.kill()
            self.server.wait(time.monotonic() + START_S)
            self.start_server(f"{self.random.choice(PLACES)}=crash@{self.random.randint(1, 40)}")
            if not self.server.wait(time.monotonic() + 2.0):
                self.server.kill()  # it did not come by there
                self.server.wait(time.monotonic() + START_S)
            self.start_server()
        self.num_deaths[choice] += 1
        self.serve()

    def close(self) -> None:
        self.stopped.set()
        if self._worker is not None:
            self._worker.terminate()
            try:
                self._worker.wait(30)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
        self.server.kill()
        self.server.wait(time.monotonic() + START_S)
        self.server.close()
        self.channel.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, SEED)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(300 + 15 * KILLS)
def test_nothing_is_lost_and_nothing_ends_twice(world: World, tmp_path: Path) -> None:
    world.start_server()
    world.serve()
    options = A.TaskOptions(max_retries=1, priority=1)
    options.max_duration.seconds = 60
    world.call("CreateSession", A.CreateSessionRequest(id="s", default_task_option=options))
    world.start_workers(2)
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    clients = [guarded(world.create), guarded(world.watch), guarded(world.submit)]
    for _ in range(KILLS):
        world.die_once()
        assert not failures, failures
    world.stopped.set()
    for client in clients:
        client.join(START_S + CALM_S)
        assert not client.is_alive()
    assert not failures, failures
    everything = A.TaskFilter(session=A.TaskFilter.IdsRequest(ids=["s"]))
    deadline = time.monotonic() + CALM_S
    while True:
        counts = world.call("WaitForCompletion", A.WaitRequest(filter=everything), timeout=CALM_S)
        if {entry.status for entry in counts.values} <= {A.TASK_STATUS_COMPLETED, A.TASK_STATUS_ERROR,
                                                         A.TASK_STATUS_TIMEOUT, A.TASK_STATUS_CANCELED}:
            break
        assert time.monotonic() < deadline
    assert len(world.created) > 20
    for name in world.created:
        assert world.look(name), f"{name} was acknowledged and has no result"
        data = world.seen[name]
        kind = ("plain", "slow", "split", "large", "plain")[int(name[1:]) % 5]
        assert data.removeprefix(b"part").startswith(f"{kind} {name} ".encode()) and data[-17:-16] == b"|"
    assert world.singles
    for name, payload in world.singles.items():
        assert world.look(name), f"single task {name} was acknowledged and has no result"
        assert world.seen[name].startswith(payload + b"|")
    assert world.problems == []
    assert world.server.is_running
    world.server.ask_to_stop()
    assert world.server.wait(time.monotonic() + START_S)
    _check_store(tmp_path)
    print(world.num_deaths, len(world.created), len(world.singles), "tasks")


def _check_store(folder: Path) -> None:
    (path,) = folder.rglob("store.db")
    with sqlite3.connect(path) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.execute("SELECT count(*) FROM tasks WHERE status NOT IN (4, 5, 7, 9)").fetchone() == (0,)
        twice = store.execute("SELECT spec FROM tasks WHERE status = 4 GROUP BY spec HAVING count(*) > 1").fetchall()
        assert twice == [], "tasks with two attempts that succeeded"
        # One attempt leads to the next, and the last of each task is the one without a successor.
        assert store.execute(
            "SELECT spec FROM tasks WHERE next = 0 GROUP BY spec HAVING count(*) <> 1"
        ).fetchall() == []
        counted = dict(store.execute("SELECT status, sum(tasks) FROM task_counts WHERE tasks > 0 GROUP BY status"))
        assert counted == dict(store.execute("SELECT status, count(*) FROM tasks GROUP BY status"))
    store.close()
