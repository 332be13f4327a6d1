"""Servers that stop and come back: their ports are free at once, and whoever does not need them goes on."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.errors import Aborted, Error, Unavailable
from tests import processes
from tests.cluster_use.test_status import in_background, status, until
from tests.server.conftest import connect

HEALTH = "/grpc.health.v1.Health/Check"
TIME_WAIT = "06"
PS, ONE, TWO = "/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"


def states_of(port: int) -> set[str]:
    """Return the states of the connections of a local port, as the system numbers them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[3] for row in rows if int(row[1].rpartition(":")[2], 16) == port}


def blocking() -> tuple[runtime.Graph, Any, Any]:
    """Return a graph with a sum, and an element of a queue that nobody fills."""
    graph = runtime.Graph()
    queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
    return graph, graph.constant(1.0) + 2.0, graph.op("QueueDequeueV2", queue, component_types=["float32"])


def leave_in_time_wait(address: str) -> None:
    """Have the server close a connection, so that its port lingers."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as broken:
        broken.sendall(b"GET / HTTP/1.1\r\n\r\n")
        broken.settimeout(10)
        while broken.recv(4096):
            pass
    until(lambda: TIME_WAIT in states_of(int(port)))


def test_the_port_of_a_stopped_server_is_free_at_once_whoever_is_connected() -> None:
    graph, three, token = blocking()
    with runtime.Server(grace_s=0.2) as server:
        address = server.address
        leave_in_time_wait(address)
        session = runtime.Session(server.target, graph)
        assert session.run(three) == 3.0
        with in_background(lambda: session.run(token)) as errors, connect(address) as client:
            assert client.unary(HEALTH) == b"\x08\x01"
            until(lambda: any(one._running for one in _sessions(server)))
            server.stop()
            assert TIME_WAIT in states_of(int(address.rpartition(":")[2]))
            with runtime.Server(listen=address) as again:
                assert again.address == address
                until(lambda: errors)
                with runtime.Session(again.target, graph) as other:
                    assert other.run(three) == 3.0
                with pytest.raises(Aborted, match="is not found"):
                    run_until_connected(session, three)
        assert isinstance(errors[0], Error)
        session.close()


def _sessions(server: runtime.Server) -> list[Any]:
    assert server._listener is not None
    plane: Any = server._listener._planes["graph"]
    return list(plane.master.master.sessions.values())


def run_until_connected(session: runtime.Session, fetch: Any, feeds: Any = None) -> None:
    """Run a step, again while the client's channel still notices that the server is another one."""
    deadline = time.monotonic() + 15
    while True:
        try:
            session.run(fetch, feeds)
            return
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_process_starts_again_on_its_port(tmp_path: Path, how: signal.Signals) -> None:
    graph, three, token = blocking()
    address = "127.0.0.1:0"
    for _ in range(2):
        with processes.start_server(tmp_path, "--grace", "0", "--services", "graph", listen=address) as server:
            address = server.address
            session = runtime.Session(server.target, graph)
            assert session.run(three) == 3.0
            with in_background(lambda session=session: session.run(token)) as errors:  # type: ignore[misc]
                leave_in_time_wait(address)
                server.process.send_signal(how)
                server.process.wait(15)
            assert isinstance(errors[0], Error)
            session.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[runtime.Cluster]:
    """A parameter server and two workers."""
    with runtime.Cluster(workers=2, ps=1, services=("graph",), grace_s=0.5, peer_timeout_s=6) as made:
        yield made


class Steps:
    """Steps of one session, one after the other, until they are stopped."""

    def __init__(self, session: runtime.Session, fetch: Any, feeds: Any) -> None:
        self.count = 0
        self._errors: list[BaseException] = []
        self._run: Callable[[], Any] = lambda: session.run(fetch, feeds)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                assert self._run() == 6.0
                self.count += 1
        except BaseException as error:
            self._errors.append(error)

    def more(self) -> None:
        """Wait until a few more have ended, begun now."""
        goal = self.count + 3
        until(lambda: self.count >= goal or self._errors)
        assert not self._errors

    def stop(self) -> None:
        """Let the last one end."""
        self._stopped.set()
        self._thread.join(30)
        assert not self._thread.is_alive() and not self._errors, self._errors


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_sessions_that_do_not_touch_a_task_go_on_without_it(cluster: runtime.Cluster, how: str) -> None:
    def build() -> tuple[runtime.Graph, Any, Any]:
        graph = runtime.Graph()
        x = graph.placeholder("float32", [], name="x")
        with graph.device(PS):
            weight = graph.variable(2.0, name=f"weight_{how}")
        with graph.device(ONE):
            return graph, graph.identity(x * weight, name="product"), weight

    near, product, weight = build()
    graph, there, _ = build()
    with graph.device(TWO):
        far = graph.identity(there + 1.0, name="far")
    feeds = {"x:0": np.float32(3.0)}
    filtered = runtime.wire.ConfigProto(device_filters=["/job:ps", ONE])
    with (
        runtime.Session(cluster.target, near, filtered) as narrow,
        runtime.Session(cluster.target, graph) as wide,
    ):
        narrow.run(weight.initializer)
        assert wide.run(far, feeds) == 7.0
        steps = [Steps(narrow, product, feeds), Steps(wide, there, feeds)]
        try:
            for one in steps:
                one.more()
            if how == "kill":
                cluster.kill("worker", 1)
            else:
                task = cluster.task("worker", 1)
                task.ask_to_stop()
                assert task.wait(time.monotonic() + 15)
            for one in steps:
                one.more()
            with pytest.raises(Unavailable, match="/job:worker/replica:0/task:1"):
                wide.run(far, feeds)
            cluster.start("worker", 1)
            for one in steps:
                one.more()
            with pytest.raises(Aborted):
                run_until_connected(wide, far, feeds)
            with runtime.Session(cluster.target, graph) as fresh:
                assert fresh.run(far, feeds) == 7.0, "the variable on the ps is what it was"
        finally:
            for one in steps:
                one.stop()


@pytest.fixture(scope="module")
def watchful() -> Iterator[runtime.Cluster]:
    """Two workers that soon give each other up."""
    with runtime.Cluster(workers=2, services=("graph",), grace_s=0.5, peer_timeout_s=1.5) as made:
        yield made


@pytest.mark.parametrize("waits_for_the_loss", [True, False])
def test_a_frozen_task_hears_when_it_goes_on_what_has_ended_meanwhile(
        watchful: runtime.Cluster, waits_for_the_loss: bool) -> None:
    cluster = watchful
    graph = runtime.Graph()
    with graph.device(TWO):
        queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
        there = graph.constant(1.0) + 2.0
        token = graph.op("QueueDequeueV2", queue, component_types=["float32"])[0]
    with graph.device(ONE):
        three, waits = graph.identity(there), graph.identity(token)

    def left() -> tuple[int, int]:
        told = status(cluster.targets["worker"][1], only_this_task=True)["/job:worker/replica:0/task:1"]
        return len(told.worker_session), told.held.num_rendezvous

    until(lambda: left() == (0, 0))
    with runtime.Session(cluster.target, graph) as session:
        assert session.run(three) == 3.0
        with in_background(lambda: session.run(waits)) as errors:
            until(lambda: left() == (1, 1))
            cluster.signal("worker", 1, signal.SIGSTOP)
            if waits_for_the_loss:
                until(lambda: errors)
                assert isinstance(errors[0], Unavailable)
            session.close()
    cluster.signal("worker", 1, signal.SIGCONT)
    until(lambda: left() == (0, 0))
