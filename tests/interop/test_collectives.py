"""Collectives of two workers, each ours or TensorFlow's: an unmodified client gets the same numbers of all."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from tests.cluster_tasks import OURS, Forks, Tasks
from tests.interop.programs import Answers, run_program
from tests.interop.test_loops import about

# Four clusters of separate processes, and one client that asks each of them half a dozen questions.
pytestmark = pytest.mark.timeout(400)

LEADER = "/job:worker/replica:0/task:0"
THEIRS = "tensorflow-tensorflow"
CLUSTERS = ("ours-ours", "ours-tensorflow", "tensorflow-ours")
"""Whose the leader is, and whose the other worker."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, tensorflow_forks: Forks) -> Iterator[Answers]:
    """What a client saw of every cluster."""
    with contextlib.ExitStack() as stack:
        clusters = {}
        for name in (*CLUSTERS, THEIRS):
            clusters[name] = stack.enter_context(Tasks(
                tmp_path_factory.mktemp(name), {"worker": name.split("-")}, forks=tensorflow_forks, leader=LEADER))
            clusters[name].start()
        targets = {name: ",".join(task.target for task in tasks) for name, tasks in clusters.items()}
        yield run_program("collectives_tf", targets, timeout_s=300)
        for task in itertools.chain(*clusters.values()):
            if task.whose == OURS:
                assert not task.has_ended(), task.log()
                assert "Traceback" not in task.log()


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("check", [
    "reductions_of_every_kind", "sizes_and_subdivisions", "gathers_and_broadcasts", "masters_of_their_own",
])
def test_a_client_gets_the_same(answers: Answers, cluster: str, check: str) -> None:
    assert answers(cluster, check) == about(answers(THEIRS, check))
