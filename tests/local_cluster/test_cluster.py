"""``runtime.Cluster``: real processes, one call, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime.errors import FailedPrecondition, InvalidArgument, Unavailable
from runtime.local_cluster.ports import HeldPort
from tests import processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[runtime.Cluster]:
    """A parameter server and two workers."""
    with runtime.Cluster(workers=2, ps=1, services=("graph",), grace_s=1) as made:
        yield made


def exists(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_session_sees_all_tasks(cluster: runtime.Cluster) -> None:
    graph = runtime.Graph()
    with graph.device("/job:ps/task:0"):
        weights = graph.variable([1.0, 2.0], name="weights")
    with graph.device("/job:worker/task:1"):
        doubled = weights * 2.0
    for target in cluster.targets["worker"]:
        with runtime.Session(target, graph) as session:
            session.run(weights.initializer)
            assert session.run(doubled).tolist() == [2.0, 4.0]
            assert {device.name.partition("/device")[0] for device in session.list_devices()} == {
                "/job:ps/replica:0/task:0", "/job:worker/replica:0/task:0", "/job:worker/replica:0/task:1"}


def test_its_parts_have_names(cluster: runtime.Cluster) -> None:
    assert {job: len(targets) for job, targets in cluster.targets.items()} == {"ps": 1, "worker": 2}
    assert cluster.target == cluster.targets["worker"][0] == f"grpc://{cluster.spec.address('worker', 0)}"
    assert [task.name for task in cluster.tasks] == ["ps/0", "worker/0", "worker/1"]
    assert json.loads(cluster.tf_config("worker", 1)) == {
        "cluster": {"ps": [cluster.spec.address("ps", 0)],
                    "worker": [cluster.spec.address("worker", 0), cluster.spec.address("worker", 1)]},
        "task": {"type": "worker", "index": 1},
    }
    with pytest.raises(InvalidArgument, match="no task worker/2; it has ps/0, worker/0, worker/1"):
        cluster.task("worker", 2)


def test_a_task_is_killed_started_and_restarted_on_its_port(cluster: runtime.Cluster) -> None:
    task = cluster.task("worker", 1)
    first = task.pid
    with pytest.raises(FailedPrecondition, match="worker/1 runs already"):
        cluster.start("worker", 1)
    cluster.kill("worker", 1)
    assert task.state == "killed by SIGKILL"
    assert not cluster.failed(), "it was asked for"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(task.address.rpartition(":")[2])), 1).close()
    cluster.start("worker", 1)
    second = task.pid
    cluster.restart("worker", 1)
    assert len({first, second, task.pid}) == 3
    assert task.log().count(f"ready {task.target}\n") == 3
    assert "Traceback" not in task.log()


def test_a_task_that_ends_by_itself_is_known(cluster: runtime.Cluster) -> None:
    task = cluster.task("ps")
    assert task.pid is not None
    os.kill(task.pid, signal.SIGKILL)
    assert task.wait(time.monotonic() + 10)
    assert cluster.failed() == [task]
    cluster.restart("ps")
    assert cluster.failed() == []


def test_jobs_may_be_named_and_tasks_left_out(tmp_path: Path) -> None:
    with runtime.Cluster(jobs={"chief": 1, "worker": 1}, absent=[("worker", 0)], directory=tmp_path) as cluster:
        assert cluster.target == cluster.targets["chief"][0]
        assert cluster.task("worker").state == "not started"
        assert "chief/0" in repr(cluster) and "not started" in repr(cluster)
        pid = cluster.task("chief").pid
        cluster.signal("chief", 0, signal.SIGSTOP)
    assert pid is not None and not exists(pid)
    # A frozen task goes on to end by itself, and is not killed.
    assert "stopped" in (tmp_path / "logs" / "chief-0.log").read_text()


def test_nothing_is_left(no_leaks: None) -> None:
    with runtime.Cluster(workers=1, services=("graph",)) as cluster:
        pid = cluster.task("worker").pid
        directory = cluster.directory
        assert directory.exists()
    cluster.stop()
    assert pid is not None and not exists(pid)
    assert not directory.exists()


def test_a_task_that_cannot_start_is_an_error_with_its_log(tmp_path: Path, no_leaks: None) -> None:
    with pytest.raises(Unavailable, match=r"(?s)ended with status 2 before it was ready.*absent"):
        runtime.Cluster(workers=1, directory=tmp_path, token_file=tmp_path / "absent")


@pytest.mark.parametrize("arguments, text", [
    ({"workers": 0}, "needs a task"),
    ({"listen": "127.0.0.1:1"}, "the cluster decides this"),
    ({"peer_timeout": 3}, "did you mean 'peer_timeout_s'"),
    ({"peer_timeout_s": -3}, "from argument"),
])
def test_arguments_are_checked_before_anything_starts(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        runtime.Cluster(**arguments)


def test_tasks_end_when_their_program_is_killed() -> None:
    script = ("import runtime, sys; cluster = runtime.Cluster(workers=1); "
              "print(cluster.task('worker').pid, cluster.directory, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=processes.ROOT) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline().split()[0])
        assert exists(pid)
        program.kill()
    deadline = time.monotonic() + 10
    while exists(pid):
        assert time.monotonic() < deadline, "the task outlived its program"
        time.sleep(0.02)


def test_a_held_port_is_given_to_nobody_else() -> None:
    held = [HeldPort() for _ in range(50)]
    try:
        assert len({port.address for port in held}) == 50
        host, _, number = held[0].address.rpartition(":")
        for _ in range(2):  # one server after the other, while it is held
            with runtime.Server(listen=held[0].address) as server:
                assert server.address == held[0].address
        with socket.create_server(("", int(number))) as everywhere:  # as TensorFlow's server does
            assert everywhere.getsockname()[1] == held[0].port
        for name in (host, "127.0.0.2"):
            with socket.socket() as other, pytest.raises(OSError):
                other.bind((name, int(number)))
    finally:
        for port in held:
            port.close()
