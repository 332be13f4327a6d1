"""What a client sees of a cluster of ours when a task dies, freezes, is not there yet, or comes back (checklist 53)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import Aborted, DeadlineExceeded, Error, Unavailable

WORKER = "/job:worker/replica:0/task:0"
PEER_TIMEOUT_S = 3


@pytest.fixture(scope="module")
def processes() -> Iterator[runtime.Cluster]:
    with runtime.Cluster(jobs={"master": 1, "worker": 1}, absent=[("worker", 0)], grace_s=2,
                         peer_timeout_s=PEER_TIMEOUT_S) as made:
        yield made


@pytest.fixture
def master_alone(processes: runtime.Cluster) -> runtime.Cluster:
    """A master whose cluster has a place for a worker, which is not there."""
    if processes.task("worker").is_running:
        processes.kill("worker")
    return processes


@pytest.fixture
def cluster(processes: runtime.Cluster) -> runtime.Cluster:
    """A master and a worker."""
    if not processes.task("worker").is_running:
        processes.start("worker")
    return processes


def graph() -> tuple[runtime.Graph, Any, Any, Any]:
    """Return a graph with a sum over both tasks, and a queue on the worker that nobody fills."""
    made = runtime.Graph()
    x = made.placeholder("float32", [None], name="x")
    with made.device(WORKER):
        there = made.identity(x * 2.0)
        queue = made.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
        waiting = made.op("QueueDequeueV2", queue, component_types=["float32"])
    return made, x, there + 1.0, waiting


def step(session: runtime.Session, fetch: Any, x: Any) -> list[float]:
    """Run a step over both tasks."""
    return session.run(fetch, {x: np.ones(2, np.float32)}).tolist()  # type: ignore[no-any-return]


def told(cluster: runtime.Cluster, job: str) -> Any:
    """Return what the first task of a job tells of itself."""
    return fetch_status(cluster.targets[job][0], Access(), 5, only_this_task=True).task[0]


def until(found: Callable[[], Any]) -> None:
    """Wait until a function finds something."""
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def in_background(function: Callable[[], Any]) -> Callable[[float], BaseException]:
    """Start a call that is to fail; return what waits for its error."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def error(timeout_s: float) -> BaseException:
        thread.join(timeout_s)
        assert not thread.is_alive(), f"the call did not end within {timeout_s} s"
        assert errors, "the call did not fail"
        return errors[0]

    return error


def test_53_a_killed_worker_ends_the_step_and_after_its_return_a_new_session_works(cluster: runtime.Cluster) -> None:
    made, x, total, waiting = graph()
    with runtime.Session(cluster.target, made) as session:
        assert step(session, total, x) == [3.0, 3.0]
        error = in_background(lambda: session.run(waiting))
        until(lambda: any(one.num_steps for one in told(cluster, "worker").worker_session))
        cluster.kill("worker")
        killed = time.monotonic()
        found = error(10)
        assert time.monotonic() - killed < 5
        assert isinstance(found, Unavailable)
        assert found.message.startswith(f"From {WORKER}:\n")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            step(session, total, x)
        assert time.monotonic() - began < 5
        cluster.start("worker")
        deadline = time.monotonic() + 15
        while True:  # the channel finds the new process within a second
            with pytest.raises(Error) as caught:
                step(session, total, x)
            if not isinstance(caught.value, Unavailable) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert isinstance(caught.value, Aborted)
        assert "restarted" in caught.value.message
    with runtime.Session(cluster.target, made) as session:
        assert step(session, total, x) == [3.0, 3.0]


def test_a_frozen_worker_is_reported(cluster: runtime.Cluster) -> None:
    worker = cluster.task("worker")
    made, x, total, _ = graph()
    with runtime.Session(cluster.target, made) as session:
        assert step(session, total, x) == [3.0, 3.0]
        cluster.signal("worker", 0, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = in_background(lambda: step(session, total, x))(20)
            assert time.monotonic() - began < 12
            assert isinstance(found, Unavailable)
            assert f"{WORKER} at {worker.address} has not answered for {PEER_TIMEOUT_S} s" in found.message
        finally:
            cluster.signal("worker", 0, signal.SIGCONT)
        assert step(session, total, x) == [3.0, 3.0]


def test_53_a_session_waits_for_a_missing_worker_and_says_so(master_alone: runtime.Cluster) -> None:
    cluster = master_alone
    made, x, total, _ = graph()
    with pytest.raises(DeadlineExceeded), runtime.Session(
        cluster.target, made, runtime.wire.ConfigProto(operation_timeout_in_ms=1000)
    ) as session:
        step(session, total, x)
    found: list[Any] = []

    def work() -> None:
        with runtime.Session(cluster.target, made) as session:
            found.append(step(session, total, x))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: told(cluster, "master").opening)
    assert thread.is_alive()
    cluster.start("worker")
    thread.join(20)
    assert found == [[3.0, 3.0]]


def test_20_device_filters_leave_a_missing_worker_out(master_alone: runtime.Cluster) -> None:
    made = runtime.Graph()
    total = made.constant(1.0) + 2.0
    config = runtime.wire.ConfigProto(device_filters=["/job:master"])
    with runtime.Session(master_alone.target, made, config) as session:
        assert session.run(total) == 3.0
        assert [device.name for device in session.list_devices()] == ["/job:master/replica:0/task:0/device:CPU:0"]


def test_a_cancelled_step_ends_on_all_tasks(cluster: runtime.Cluster) -> None:
    made, x, total, waiting = graph()
    with runtime.Session(cluster.target, made) as session:
        options = runtime.wire.RunOptions(timeout_in_ms=500)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            session.run(waiting, options=options)
        assert time.monotonic() - began < 5
        assert step(session, total, x) == [3.0, 3.0]


def test_23_a_session_may_bring_a_cluster_of_its_own(cluster: runtime.Cluster) -> None:
    config = runtime.wire.ConfigProto()
    job = config.cluster_def.job.add(name="own")
    job.tasks[0] = cluster.spec.address("master", 0)
    job.tasks[7] = cluster.spec.address("worker", 0)
    made = runtime.Graph()
    with made.device("/job:own/task:7"):
        there = made.constant([1.0, 2.0]) * 2.0
    total = there + 1.0
    with runtime.Session(cluster.target, made, config) as session:
        assert session.run(total).tolist() == [3.0, 5.0]
        assert [device.name for device in session.list_devices()] == [
            f"/job:own/replica:0/task:{index}/device:CPU:0" for index in (0, 7)]
