"""What ``tensor-runtime status`` tells of a cluster, and that what waits says for what."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.cli import main
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from runtime.errors import DeadlineExceeded, InvalidArgument, Unavailable, Unimplemented
from tests import processes
from tests.cluster_tasks import OURS, THEIRS, Forks, Tasks

NOBODY = Access()
PS, ONE, TWO = "/job:ps/replica:0/task:0", "/job:worker/replica:0/task:0", "/job:worker/replica:0/task:1"


def status(target: str, **options: Any) -> dict[str, Any]:
    """Return what the tasks tell, by their names."""
    return {task.task: task for task in fetch_status(target, NOBODY, 3, **options).task}


def until(found: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Return what a function finds, asked again until it finds something."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(0.05)
    return answer


def command(*words: str) -> tuple[int, str]:
    """Run the command line here; return its exit status and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(["status", *words])
    return code, printed.getvalue()


@contextlib.contextmanager
def in_background(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Do something that waits in a thread for as long as the block; it must end with it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def cluster() -> Iterator[runtime.Cluster]:
    """A parameter server and two workers."""
    with runtime.Cluster(workers=2, ps=1, services=("graph",), grace_s=1, peer_timeout_s=6) as made:
        yield made


def waiting_graph() -> tuple[runtime.Graph, Any, Any]:
    """Return a graph in which worker 0 waits for what the ps takes from a queue, and what fills the queue."""
    graph = runtime.Graph()
    with graph.device(PS):
        queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]], shared_name="tokens")
        token = graph.op("QueueDequeueV2", queue, component_types=["float32"])[0]
        filled = graph.op("QueueEnqueueV2", queue, [graph.constant(20.0)])
    with graph.device(ONE):
        answer = graph.identity(token * 2.0 + 2.0, name="answer")
    return graph, answer, filled


def test_a_waiting_step_is_seen_on_all_its_tasks(cluster: runtime.Cluster) -> None:
    graph, answer, filled = waiting_graph()
    found: list[Any] = []
    with runtime.Session(cluster.target, graph) as session:
        with in_background(lambda: found.append(session.run(answer))) as errors:
            try:
                until(lambda: any(worker.num_steps for worker in status(cluster.target)[PS].worker_session)
                      and status(cluster.target)[PS].wanted)
                seen = status(cluster.target)
                code, table = command(cluster.target)
                text = command(cluster.target, "-o", "json")[1]
            finally:
                session.run(filled)
        assert not errors and found == [42.0]
        # The token went from one process to the other in a message: it is a small one.
        moved = {(task, road.direction): road for task, told in status(cluster.target).items() for road in told.road
                 if road.road == "message"}
        assert moved[PS, "sent"].transfers >= 1 and moved[PS, "sent"].bytes >= 4
        assert moved[ONE, "received"].transfers >= 1 and moved[ONE, "received"].copies == 0
        assert list(seen) == [ONE, PS, TWO]
        assert all(task.pid and not task.error and task.rss_bytes > 1 << 20 for task in seen.values())
        assert all(task.held.num_threads > 0 and task.held.num_descriptors > 3 for task in seen.values())
        assert [seen[name].held.num_rendezvous for name in (ONE, PS, TWO)] == [1, 1, 0]

        (master,) = seen[ONE].session
        assert master.target == cluster.target
        assert (master.num_nodes, master.num_steps, master.is_isolated) == (len(graph.as_graph_def().node), 1, False)
        assert set(master.task) == {PS, TWO}
        (step,) = master.step
        assert list(step.fetch) == ["answer:0"]
        assert step.seconds > 0
        (wait,) = step.wait
        assert wait.what == f"its parts on {PS}, {ONE}"

        (mine,) = seen[ONE].worker_session
        assert (mine.handle, mine.master, len(mine.graph)) == (master.handle, ONE, 1)
        (part,) = mine.step
        assert part.step_id == step.step_id
        key = rf"{PS}/device:CPU:0;[0-9a-f]{{16}};{ONE}/device:CPU:0;.*QueueDequeueV2.*;0:0"
        assert re.fullmatch(rf"tensor {key} from {PS}", part.wait[0].what)
        assert {call.what.partition(" /")[0] for call in seen[ONE].call} == {"the tensor", f"step {step.step_id}"}
        assert {call.task for call in seen[ONE].call} == {PS}

        (theirs,) = seen[PS].worker_session
        assert (theirs.master, theirs.num_steps) == (ONE, 1)
        assert [wait.what for wait in theirs.step[0].wait] == [
            "dequeue from FIFOQueue 'tokens' (size 0, capacity unbounded), elements missing: 1"]
        assert len(seen[PS].wanted) == 1
        assert not seen[TWO].worker_session[0].graph

        assert code == 0
        lines = [line.split() for line in table.splitlines()]
        assert [line[0] for line in lines if line[-1:] == ["serving"]] == [ONE, PS, TWO]
        assert "dequeue from FIFOQueue 'tokens'" in table
        assert "QueueDequeueV2 (ps/0 CPU:0 to worker/0 CPU:0) from" in table
        read = {task["task"]: task for task in json.loads(text)["task"]}
        assert read[ONE]["session"][0]["step"][0]["step_id"] == step.step_id
        assert read[PS]["worker_session"][0]["step"][0]["wait"][0]["what"].startswith("dequeue from FIFOQueue")

    def is_over() -> bool:
        after = status(cluster.target)
        return not any(task.session or task.worker_session or task.call or task.wanted or task.held.num_rendezvous
                       for task in after.values())

    until(is_over)


def test_a_frozen_task_is_told_and_holds_nobody_up(cluster: runtime.Cluster) -> None:
    graph, answer, filled = waiting_graph()
    with runtime.Session(cluster.target, graph) as session:
        session.run(filled)
        assert session.run(answer) == 42.0
        with in_background(lambda: session.run(answer)) as errors:
            until(lambda: status(cluster.target)[ONE].call)
            cluster.signal("ps", 0, signal.SIGSTOP)
            try:
                began = time.monotonic()
                code, table = command(cluster.target, "--timeout", "0.5")
                assert time.monotonic() - began < 2.5
                assert code == 1
                assert re.search(rf"{PS} .* no answer within 0.5 s", table)
                silent = until(lambda: [call for call in status(cluster.target, only_this_task=True)[ONE].call
                                        if call.silent_seconds > 1])
                assert silent[0].task == PS
                until(lambda: errors)
            finally:
                cluster.signal("ps", 0, signal.SIGCONT)
        assert isinstance(errors[0], Unavailable)
        assert PS in str(errors[0]) and "has not answered for 6 s" in str(errors[0])


def test_a_session_that_waits_for_tasks_says_for_which(cluster: runtime.Cluster) -> None:
    cluster.kill("worker", 1)
    absent = cluster.task("worker", 1)
    try:
        graph = runtime.Graph()
        three = graph.constant(1.0) + 2.0

        def run(timeout_ms: int) -> None:
            config = runtime.wire.ConfigProto(operation_timeout_in_ms=timeout_ms)
            with runtime.Session(cluster.target, graph, config) as session:
                assert session.run(three) == 3.0

        with in_background(lambda: run(2500)) as errors:
            opening = until(lambda: status(cluster.target)[ONE].opening)[0]
            assert (opening.what, opening.target) == ("CreateSession", cluster.target)
            (wait,) = opening.wait
            assert wait.what.startswith(f"the devices of {TWO} at {absent.address} (")
            code, table = command(cluster.target)
            assert code == 1
            assert "CreateSession" in table and f"the devices of {TWO}" in table
            assert re.search(rf"{TWO} .*does not answer", table)
        assert isinstance(errors[0], DeadlineExceeded)
        assert re.search(rf"CreateSession waited 2\.\d s for the devices of {TWO} at {absent.address} \(.*\)",
                         str(errors[0]))
        log = cluster.task("worker", 0).log()
        assert re.search(rf"CreateSession still waiting for response from worker tasks={TWO} seconds=1\.", log)
        with in_background(lambda: run(20000)) as errors:
            until(lambda: status(cluster.target)[ONE].opening)
            cluster.start("worker", 1)
        assert not errors
        until(lambda: not status(cluster.target)[ONE].opening)
    finally:
        cluster.restart("worker", 1)


def test_a_server_alone_answers_for_itself() -> None:
    graph = runtime.Graph()
    x = graph.placeholder("float32", [], name="x")
    with runtime.Server() as server, runtime.Session(server.target, graph, {"isolate_session_state": True}) as session:
        assert session.run(x * 2.0, {x: 2.0}) == 4.0
        (task,) = status(server.target).values()
        assert (task.task, task.address, task.error) == ("/job:local/replica:0/task:0", server.address, "")
        assert [device.name for device in task.device] == ["/job:local/replica:0/task:0/device:CPU:0"]
        (found,) = task.session
        assert (found.is_isolated, found.num_compiled, found.num_steps) == (True, 1, 0)
        assert not task.worker_session
        assert command(server.target, "--only-this-task")[0] == 0


def _enqueue_twice(graph: runtime.Graph) -> Any:
    queue = graph.op("FIFOQueueV2", component_types=["float32"], shapes=[[]], capacity=1)
    first = graph.op("QueueEnqueueV2", queue, [graph.constant(1.0)])
    with graph.control_dependencies([first]):
        return graph.op("QueueEnqueueV2", queue, [graph.constant(2.0)])


def _take(graph: runtime.Graph) -> Any:
    area = {"dtypes": ["float32"], "shared_name": "area"}
    return graph.op("Unstage", **area)


def _lock(graph: runtime.Graph) -> Any:
    mutex = graph.op("MutexV2", shared_name="mutex")
    first = graph.op("MutexLock", mutex)
    with graph.control_dependencies([first]):
        second = graph.op("ConsumeMutexLock", graph.op("MutexLock", mutex))
    with graph.control_dependencies([second]):
        return graph.op("ConsumeMutexLock", first)


def _average(graph: runtime.Graph) -> Any:
    accumulator = graph.op("ConditionalAccumulator", dtype="float32", shape=[], shared_name="sums")
    return graph.op("AccumulatorTakeGradient", accumulator, graph.constant(3, dtype="int32"), dtype="float32")


@pytest.mark.parametrize("build, expected", [
    (_enqueue_twice, r"enqueue to FIFOQueue '.*' \(size 1, capacity 1\), elements left: 1"),
    (_take, r"tensors in <StagingArea of 0 .*>"),
    (_lock, r"lock of <Mutex mutex held, \d waiting>"),
    (_average, r"3 gradients in <.*Accumulator sums float .* with 0>"),
])
def test_what_waits_names_what_it_waits_for(build: Callable[[runtime.Graph], Any], expected: str) -> None:
    graph = runtime.Graph()
    built = build(graph)
    with runtime.Server() as server, runtime.Session(server.target, graph) as session:
        with in_background(lambda: session.run(built)) as errors:
            def waits() -> list[Any]:
                return [wait for task in status(server.target).values() for one in task.session
                        for step in one.step for wait in step.wait]
            try:
                found = until(waits)
                assert len(found) == 1 and re.fullmatch(expected, found[0].what), found
                assert found[0].node in [node.name for node in graph.as_graph_def().node]
                assert f" by node {found[0].node}, for " in command(server.target)[1]
            finally:
                session.close()
        assert errors


def test_a_server_of_another_kind_tells_its_devices(tmp_path: Path, tensorflow_forks: Forks) -> None:
    with Tasks(tmp_path, {"ours": [OURS], "theirs": [THEIRS]}, forks=tensorflow_forks) as tasks:
        tasks.start()
        ours, other = tasks["ours", 0], tasks["theirs", 0]
        found = status(ours.target)[other.name]
        assert found.address == other.address
        assert found.error == "a server of another kind: it tells its devices alone"
        assert [device.name for device in found.device] == [f"{other.name}/device:CPU:0"]
        assert command(ours.target)[0] == 0
        with pytest.raises(Unimplemented, match="does not tell its status"):
            fetch_status(other.target, NOBODY, 3)


def test_wrong_questions_are_refused() -> None:
    with runtime.Server() as server:
        with pytest.raises(InvalidArgument, match="timeout_s must be more than 0 and at most 60, got 61"):
            fetch_status(server.target, NOBODY, 61)
        address = server.target
    with pytest.raises(Unavailable, match="cannot be reached"):
        fetch_status(address, NOBODY, 1)


def test_a_step_at_its_limit_says_what_it_waits_for(cluster: runtime.Cluster) -> None:
    graph, answer, filled = waiting_graph()
    options = runtime.wire.RunOptions(timeout_in_ms=700)
    with runtime.Session(cluster.target, graph) as session:
        session.run(filled)
        assert session.run(answer) == 42.0
        with pytest.raises(DeadlineExceeded, match=(
                rf"not end within its limit of 700 ms \(.*\); it waits for: its parts on {PS}, {ONE}, for 0\.\d s")):
            session.run(answer, options=options)


def test_a_step_may_end_while_its_graphs_are_registered(cluster: runtime.Cluster) -> None:
    graph, answer, filled = waiting_graph()
    with runtime.Session(cluster.target, graph) as session:
        session.list_devices()
        cluster.signal("ps", 0, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded, match=rf"waits for: the registration of its graphs on .*{PS}.*, for"):
                session.run(answer, options=runtime.wire.RunOptions(timeout_in_ms=700))
        finally:
            cluster.signal("ps", 0, signal.SIGCONT)
        session.run(filled)
        assert session.run(answer) == 42.0


def test_a_step_on_one_task_says_at_its_limit_what_it_waits_for(cluster: runtime.Cluster) -> None:
    options = runtime.wire.RunOptions(timeout_in_ms=700)
    graph = runtime.Graph()
    built = _enqueue_twice(graph)
    awaited = r"it waits for: enqueue to FIFOQueue '.*' \(size 1, capacity 1\), elements left: 1"
    for target in (cluster.target, None):
        with runtime.Session(target, graph) as session, pytest.raises(DeadlineExceeded, match=awaited):
            session.run(built, options=options)


# A shell may have interrupts ignored in the background.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


# An interrupt that comes in a destructor, as libraries have them, is let go of by Python.
DESTRUCTIVE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from runtime.cli import main, status
class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
def show(options):
    Interrupted()
    return 1
status._show = show
sys.exit(main(sys.argv[1:]))
"""


def test_watching_ends_wherever_an_interrupt_comes() -> None:
    line = [sys.executable, "-c", DESTRUCTIVE, "status", "grpc://127.0.0.1:1", "--watch", "0.1"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=processes.ROOT, timeout=30)
    assert done.returncode == 1
    assert "Exception ignored" in done.stderr


def test_watching_goes_on_while_the_server_is_away() -> None:
    with runtime.Server() as server:
        target = server.target
        line = [sys.executable, "-c", COMMAND, "status", target, "--watch", "0.1"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=processes.ROOT) as watching:
            assert watching.stdout is not None
            try:
                while "serving" not in watching.stdout.readline():
                    pass
                server.stop()
                while "cannot be reached" not in watching.stdout.readline():
                    pass
                watching.send_signal(signal.SIGINT)
                assert watching.wait(10) == 1
            finally:
                watching.kill()
    assert main(["status", target, "--watch", "0"]) == 2
