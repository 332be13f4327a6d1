"""A task of TensorFlow's that dies: its sessions on our worker, and partial runs of our master on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import wire
from runtime.client.channels import Access
from runtime.client.status import fetch_status
from tests.cluster_tasks import OURS, THEIRS, Forks, Task, Tasks
from tests.graph.graphs import FLOAT, const, node, placeholder
from tests.interop.raw import Refused, Wire, connect
from tests.master.harness import step_request

pytestmark = pytest.mark.timeout(180)

DEADLINE_S = 60.0
MASTER, WORKER = "/job:master/replica:0/task:0", "/job:worker/replica:0/task:0"


@pytest.fixture
def tasks(request: pytest.FixtureRequest, tmp_path: Path, tensorflow_forks: Forks) -> Iterator[Tasks]:
    """A master and a worker, of the kinds that the test names."""
    master, worker = request.param
    with Tasks(tmp_path, {"master": [master], "worker": [worker]}, ("--peer-timeout-s", "5"), tensorflow_forks) as made:
        yield made.start()


def until(found: Callable[[], Any]) -> Any:
    """Return what a function finds, asked again until it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := found()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)
    return answer


def there(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    return node(name, op, *inputs, device="/job:worker/task:0", **attrs)


def session(client: Wire) -> str:
    """Make a session with ``double = 2 x`` on the worker, ``sum = double + w`` on the master, and a wait there."""
    return client.session(
        placeholder("x"), placeholder("w"), const("two", 2.0, device="/job:worker/task:0"),
        there("double", "Mul", "x", "two", T=FLOAT),
        node("sum", "AddV2", "double", "w", T=FLOAT, device="/job:master/task:0"),
        there("queue", "FIFOQueueV2", component_types=[FLOAT], shared_name=b"q", container=b"", capacity=-1),
        there("take", "QueueDequeueV2", "queue", component_types=[FLOAT]), there("taken", "Mul", "take", "x", T=FLOAT),
    )


def told(task: Task) -> Any:
    """Return what a worker of ours tells of itself."""
    return fetch_status(task.target, Access(), 10, only_this_task=True).task[0]


@pytest.mark.parametrize("tasks", [(THEIRS, OURS)], indirect=True, ids=["tensorflow-ours"])
def test_sessions_of_their_master_go_when_it_is_killed_and_comes_back(tasks: Tasks) -> None:
    master, worker = tasks["master", 0], tasks["worker", 0]
    for _ in range(3):
        with connect(master.target) as client:
            handle = session(client)
            assert client.run(handle, ["sum:0"], feed={"x:0": 3.0, "w:0": 1.0}) == {"sum:0": 7.0}
            waiting = client.future("RunStep", step_request(handle, ["taken:0"], feed={"x:0": 1.0}).SerializeToString())
            until(lambda: any(one.num_steps for one in told(worker).worker_session))
            master.kill()
            with contextlib.suppress(Exception):
                waiting.result(DEADLINE_S)
        master.start()
    with connect(master.target) as client:
        handle = session(client)
        assert client.run(handle, ["sum:0"], feed={"x:0": 3.0, "w:0": 1.0}) == {"sum:0": 7.0}
        (left,) = told(worker).worker_session
        assert (left.master, left.num_steps, len(left.graph)) == (MASTER, 0, 1)
        assert not told(worker).wanted


@pytest.mark.parametrize("tasks", [(OURS, THEIRS)], indirect=True, ids=["ours-tensorflow"])
def test_a_partial_run_on_their_worker_is_left_and_ends_with_it(tasks: Tasks) -> None:
    master, worker = tasks["master", 0], tasks["worker", 0]
    with connect(master.target) as client:
        handle = session(client)

        def setup(feed: list[str], fetch: list[str]) -> str:
            return str(client.call("PartialRunSetup", session_handle=handle, feed=feed, fetch=fetch, timeout_s=30.0
                                   ).partial_run_handle)

        run = setup(["x:0"], ["double:0", "taken:0"])
        assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
        left = client.future("RunStep", step_request(handle, ["taken:0"], partial_run_handle=run).SerializeToString())
        time.sleep(0.3)
        left.cancel()
        gone = (3, "Must run PartialRunSetup before performing partial runs")
        until(lambda: client.in_body(handle, ["taken:0"], partial_run_handle=run) == gone)
        until(lambda: not any(one.num_steps for one in told(master).session))

        run = setup(["x:0", "w:0"], ["double:0", "sum:0"])
        assert client.run(handle, ["double:0"], feed={"x:0": 3.0}, partial_run_handle=run) == {"double:0": 6.0}
        other = setup(["x:0"], ["taken:0"])
        request = step_request(handle, ["taken:0"], feed={"x:0": 3.0}, partial_run_handle=other,
                               store_errors_in_response_body=True)
        waiting = client.future("RunStep", request.SerializeToString(), 30.0)
        until(lambda: any(step.wait for one in told(master).session for step in one.step))
        worker.kill()
        answer = wire.RunStepResponse.FromString(waiting.result(DEADLINE_S))
        assert answer.status_code == 14
        assert answer.status_error_message.startswith(f"From {WORKER}:\n")
        code, text = client.in_body(handle, ["sum:0"], feed={"w:0": 3.0}, partial_run_handle=run)
        assert (code, text.startswith(f"From {WORKER}:\n")) == (14, True)
        assert client.in_body(handle, ["sum:0"], partial_run_handle=run) == gone
        worker.start()
        with pytest.raises(Refused, match=r"^(10|14) "):
            setup(["x:0"], ["double:0", "sum:0", "taken:0"])
        client.call("CloseSession", session_handle=handle, timeout_s=30.0)
        handle = session(client)
        run = setup(["x:0", "w:0"], ["double:0", "sum:0"])
        assert client.run(handle, ["double:0"], feed={"x:0": 2.0}, partial_run_handle=run) == {"double:0": 4.0}
        assert client.run(handle, ["sum:0"], feed={"w:0": 1.0}, partial_run_handle=run) == {"sum:0": 5.0}
