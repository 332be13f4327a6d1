"""Collectives of two workers, each ours or TensorFlow's: an unmodified client gets the same numbers of all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests import processes
from tests.interop.programs import Answers, run_program
from tests.interop.test_loops import about

# Four clusters of separate processes, and one client that asks each of them half a dozen questions.
pytestmark = pytest.mark.timeout(400)

LEADER = "/job:worker/replica:0/task:0"
THEIRS = "tensorflow-tensorflow"
CLUSTERS = ("ours-ours", "ours-tensorflow", "tensorflow-ours")
"""Whose the leader is, and whose the other worker."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What a client saw of every cluster."""
    with contextlib.ExitStack() as stack:
        targets = {}
        ours = []
        for name in (*CLUSTERS, THEIRS):
            cluster = {"worker": [f"127.0.0.1:{processes.free_port()}" for _ in range(2)]}
            for index, whose in enumerate(name.split("-")):
                folder = tmp_path_factory.mktemp(f"{name}-{index}")
                if whose == "ours":
                    ours.append(stack.enter_context(processes.start_server(
                        folder, "--cluster", json.dumps(cluster), "--job", "worker", "--task", str(index),
                        listen=cluster["worker"][index])))
                else:
                    stack.enter_context(processes.start_tensorflow_server(
                        folder, json.dumps({"cluster": cluster, "job": "worker", "task": index, "leader": LEADER})))
            targets[name] = ",".join(f"grpc://{address}" for address in cluster["worker"])
        yield run_program("collectives_tf", targets, timeout_s=300)
        for one in ours:
            assert one.process.poll() is None, one.log()
            assert "Traceback" not in one.log()


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("check", [
    "reductions_of_every_kind", "sizes_and_subdivisions", "gathers_and_broadcasts", "masters_of_their_own",
])
def test_a_client_gets_the_same(answers: Answers, cluster: str, check: str) -> None:
    assert answers(cluster, check) == about(answers(THEIRS, check))
