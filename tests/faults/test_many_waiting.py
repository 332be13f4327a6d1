"""Thousands of steps that wait: they cost a little memory each and no threads, and all of them end."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import grpc

from runtime._ext.errors import Cancelled, OutOfRange
from runtime.master.master import Master
from tests.faults.clients import queue_nodes
from tests.faults.watch import PAGE, until, vitals, witness
from tests.graph.graphs import graph_def
from tests.interop.raw import Wire, connect
from tests.master.harness import step_request
from tests.processes import ServerProcess

# Measured: 3.6 KiB in the process alone; 7.7 KiB over the network, with its request, its call and its coroutine.
STEP_BYTES = 16 << 10
CALL_BYTES = 64 << 10
# Those that run what follows a wait, and one that watches them.
POOL_THREADS = max(2, os.cpu_count() or 2) + 1
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE


class Endings:
    """Counts how steps end."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []
        self.lock = threading.Lock()

    def done(self, outputs: Any, error: BaseException | None) -> None:
        with self.lock:
            self.errors.append(error)


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_waiting_steps_cost_no_threads_and_little_memory() -> None:
    count = 5000
    with Master() as master:
        session = master.session(master.create_session(graph_def(*queue_nodes(b"")))[0])
        taking = session.prepare((), ("take:0",), ())
        session.run({}, ["size:0"])
        endings = Endings()

        def start(number: int) -> None:
            for _ in range(number):
                session.start(taking, session.begin(), [], endings.done)
            wait_for(lambda: len(session._running) >= number)

        start(100)  # whatever is made once
        time.sleep(0.2)
        threads, memory = threading.active_count(), resident()
        start(count)
        assert threading.active_count() <= threads + POOL_THREADS
        assert resident() - memory < count * STEP_BYTES
        assert not endings.errors
        session.run({}, (), ["close"])
        wait_for(lambda: len(endings.errors) == count + 100)
        assert all(isinstance(error, OutOfRange) for error in endings.errors)
        wait_for(lambda: not session._running)
        assert threading.active_count() <= threads + POOL_THREADS


def test_a_session_that_closes_ends_all_of_them() -> None:
    with Master() as master:
        session = master.session(master.create_session(graph_def(*queue_nodes(b"")))[0])
        taking = session.prepare((), ("take:0",), ())
        endings = Endings()
        for _ in range(2000):
            session.start(taking, session.begin(), [], endings.done)
        master.close_session(session.handle).result(10)
        assert len(endings.errors) == 2000
        assert all(isinstance(error, Cancelled) for error in endings.errors)


def test_waiting_calls_of_one_client_leave_a_server_as_it_was(target: ServerProcess, client: Wire) -> None:
    count = 2000
    handle = client.session(*queue_nodes(b"many"))
    client.run(handle, ["size:0"])
    request = step_request(handle, ["take:0"]).SerializeToString()
    with connect(target.target) as crowd, witness(target):
        calls = [crowd.future("RunStep", request, 120.0) for _ in range(100)]
        time.sleep(0.5)
        before = vitals(target)
        calls += [crowd.future("RunStep", request, 120.0) for _ in range(count)]
        time.sleep(1.0)
        now = vitals(target)
        assert now.threads <= before.threads + POOL_THREADS
        assert now.rss - before.rss < count * CALL_BYTES
        assert not any(call.done() for call in calls)
        client.step(handle, (), ["close"])
        assert {call.exception(60).code() for call in calls} == {OUT_OF_RANGE}
    until(lambda: vitals(target).threads <= before.threads + POOL_THREADS, "the threads as before")
