"""What a dead master leaves on a worker goes: its sessions, graphs and steps, and what waits for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import runtime
from runtime import wire
from runtime._ext.rendezvous import RendezvousTable
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import Aborted, Error
from tests.graph.graphs import FLOAT, const
from tests.processes import free_port
from tests.worker.conftest import Task, recv, send, until

DEADLINE_S = 20.0
MASTER = "/job:master/replica:0/task:0"


def told(target: str) -> Any:
    """Return the status of one task."""
    return fetch_status(target, Access(), 5, only_this_task=True).task[0]


def sessions(task: Task) -> dict[str, Any]:
    """Return a task's worker sessions by handle."""
    return {session.handle: session for session in told(f"grpc://{task.server.address}").worker_session}


def test_a_master_that_begins_anew_ends_its_former_sessions_alone(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    for handle, fields in {
        "old": {"master_task": MASTER, "master_incarnation": 5},
        "sibling": {"master_task": MASTER, "master_incarnation": -6},
        "other": {"master_task": "/job:other/replica:0/task:0", "master_incarnation": 5},
        "unknown": {"master_task": MASTER},
        "1.15": {},
    }.items():
        first.session(handle, **fields)
        if handle == "sibling":  # it is a later life of the first, and the next one shares it
            assert set(sessions(first)) == {"sibling"}
    first.session("again", master_task=MASTER, master_incarnation=-6)
    assert set(sessions(first)) == {"sibling", "other", "unknown", "1.15", "again"}
    # A master of the same name in a cluster of its own is another one, unless it is at the same address.
    for port, incarnation in ((1111, 7), (2222, 8), (1111, 9)):
        server = wire.ServerDef(job_name="worker", protocol="grpc")
        server.cluster.job.add(name="worker").tasks[0] = first.server.address
        server.cluster.job.add(name="master").tasks[0] = f"127.0.0.1:{port}"
        first.session(f"own {port} {incarnation}", server_def=server, master_task=MASTER,
                      master_incarnation=incarnation)
    assert set(sessions(first)) == {"sibling", "other", "unknown", "1.15", "again", "own 2222 8", "own 1111 9"}


def test_steps_and_what_waits_for_them_end_with_a_left_session(tasks: list[Task], steps: Iterator[int]) -> None:
    first, second = tasks
    first.session("old", master_task=MASTER, master_incarnation=1)
    graph = first.register(const("c", 1.0), send("s", "c", FLOAT, first.ends(second, "e")),
                           recv("r", FLOAT, second.ends(first, "never")), handle="old")
    step, over = next(steps), next(steps)
    running = first.start_run(graph, step, handle="old")
    done = first.register(const("c", 1.0), send("s", "c", FLOAT, first.ends(second, "e")), handle="old")
    first.run(done, over, handle="old")  # its master dies before CleanupGraph
    parked = first.start("RecvTensor", step_id=step, rendezvous_key=first.key(second, "late"))
    until(lambda: told(f"grpc://{first.server.address}").wanted)
    first.session("new", master_task=MASTER, master_incarnation=2)
    with pytest.raises(Error, match="worker session old was deleted"):
        first.finish_run(running)
    with pytest.raises(Error, match=rf"worker session old was deleted|Cleanup {step}"):
        first.finish("RecvTensor", parked)
    for number in (step, over):
        with pytest.raises(Aborted, match=rf"^Cleanup {number}$"):
            first.fetch(number, first.key(second, "e"))
    with pytest.raises(Aborted, match="Session handle is not found: old"):
        first.run(done, next(steps), handle="old")


def test_idle_sessions_go_after_their_time_and_no_sooner() -> None:
    cluster = {"worker": [f"127.0.0.1:{free_port()}"]}
    with contextlib.ExitStack() as stack:
        task = Task(stack.enter_context(runtime.Server(cluster, "worker", 0, worker_session_idle_s=2.0)), 0)
        stack.callback(task.channel.close)
        for handle in ("idle", "used", "waits", "between calls"):
            task.session(handle)
        graph = task.register(const("c", 1.0), handle="used")
        waiting = task.register(recv("r", FLOAT, {**task.ends(task, "never"), "client_terminated": True}),
                                handle="waits")
        running = task.start_run(waiting, 1 << 42, handle="waits")
        partial = task.register(recv("r", FLOAT, {**task.ends(task, "never"), "client_terminated": True}),
                                handle="between calls")
        task.run(partial, 1 << 41, handle="between calls", is_partial=True)
        number = iter(range(1 << 43, 1 << 44))

        def idle_is_gone() -> bool:
            task.run(graph, next(number), handle="used")
            return not {"idle", "between calls"} & set(sessions(task))

        until(idle_is_gone)
        assert set(sessions(task)) == {"used", "waits"}
        task.call("CleanupGraph", step_id=1 << 42)
        with pytest.raises(Aborted):
            task.finish_run(running)
        until(lambda: not sessions(task))
        with pytest.raises(Aborted, match="Session handle is not found: used"):
            task.run(graph, next(number), handle="used")


def test_a_receiver_that_gave_up_leaves_no_meeting_place() -> None:
    table = RendezvousTable()
    found = table.of(1)
    waiter = found.receive("k", lambda value, is_dead, error: None)
    assert waiter is not None
    table.of(2, True)
    table.of(3).send("k", 1)
    table.sweep(0.0)
    assert len(table) == 3  # somebody waits, a step runs, a value lies there
    found.forget(waiter)
    table.sweep(60.0)
    assert len(table) == 3  # somebody has just asked for it
    table.sweep(0.0)
    assert len(table) == 2
    assert table.known(1) is None
    assert table.of(1) is not found  # and whoever comes now begins anew


@pytest.mark.timeout(120)
def test_nothing_of_a_master_that_is_killed_again_and_again_stays() -> None:
    graph = runtime.Graph()
    with graph.device("/job:worker/task:0"):
        queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]])
        taken = graph.op("QueueDequeueV2", queue, component_types=["float32"])[0]
        there = graph.identity(graph.constant([1.0, 2.0]) * 2.0)
    waiting, total = taken + 1.0, there + 1.0
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(runtime.Cluster(jobs={"master": 1, "other": 1, "worker": 1}, grace_s=1,
                                                      services=("graph",)))
        master, other, worker = (cluster.targets[job][0] for job in ("master", "other", "worker"))
        kept = stack.enter_context(runtime.Session(other, graph))
        assert kept.run(total).tolist() == [3.0, 5.0]
        for _ in range(3):
            session = runtime.Session(master, graph)
            assert session.run(total).tolist() == [3.0, 5.0]
            ended = []

            def wait(session: runtime.Session = session, ended: list[BaseException] = ended) -> None:
                try:
                    session.run(waiting)
                except Error as error:
                    ended.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            until(lambda: any(one.num_steps for one in told(worker).worker_session))
            cluster.kill("master", 0)
            thread.join(DEADLINE_S)
            assert ended
            cluster.start("master", 0)
            with contextlib.suppress(Error):
                session.close()
        with runtime.Session(master, graph) as session:
            assert session.run(total).tolist() == [3.0, 5.0]
            left = told(worker)
            assert sorted(one.master for one in left.worker_session) == [
                MASTER, "/job:other/replica:0/task:0"]
            assert not any(one.num_steps for one in left.worker_session)
            assert all(len(one.graph) == 1 for one in left.worker_session)
            assert not left.wanted
            assert kept.run(total).tolist() == [3.0, 5.0]
        until(lambda: len(told(worker).worker_session) == 1)
