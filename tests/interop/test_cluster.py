"""Clusters of two tasks, each ours or TensorFlow's: an unmodified client sees the same of all of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import runtime
from tests import processes
from tests.interop.programs import Answers, run_program
from tests.interop.test_loops import about

# Four clusters of separate processes, and one client that asks each of them a dozen questions.
pytestmark = pytest.mark.timeout(400)

PROGRAM = "cluster_tf"
FROM = "From /job:worker/replica:0/task:0:\n"
THEIRS = "tensorflow-tensorflow"
CLUSTERS = ("ours-ours", "ours-tensorflow", "tensorflow-ours")
"""Whose the master is, and whose the worker."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What a client saw of every cluster."""
    with contextlib.ExitStack() as stack:
        targets = {}
        clusters = []
        for name in (*CLUSTERS, THEIRS):
            theirs = [job for job, whose in zip(("master", "worker"), name.split("-"), strict=True) if whose != "ours"]
            cluster = stack.enter_context(runtime.Cluster(
                jobs={"master": 1, "worker": 1}, absent=[(job, 0) for job in theirs], grace_s=1))
            clusters.append(cluster)
            for job in theirs:
                addresses = {other: list(tasks.values()) for other, tasks in cluster.spec.jobs.items()}
                stack.enter_context(processes.start_tensorflow_server(
                    tmp_path_factory.mktemp(f"{name}-{job}"),
                    json.dumps({"cluster": addresses, "job": job, "task": 0})))
            targets[name] = cluster.target
        yield run_program(PROGRAM, targets, timeout_s=300)
        for cluster in clusters:
            assert not cluster.failed()
            assert not any("Traceback" in task.log() for task in cluster.tasks)


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("check", [
    "devices", "values_there_and_back", "variables_of_both_kinds", "a_loop_whose_body_is_elsewhere",
    "branches_that_cross", "functions_and_v2_loops", "normalised_activations", "a_blocked_dequeue_is_cancelled",
    "a_closed_session_ends_its_steps", "reset_empties_the_worker",
])
def test_a_client_sees_the_same(answers: Answers, cluster: str, check: str) -> None:
    found: Any = answers(cluster, check)
    assert found == about(answers(THEIRS, check))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_losses_of_a_network_on_the_worker_agree(answers: Answers, cluster: str) -> None:
    (ours, our_share), (theirs, share) = (answers(one, "training_on_the_worker") for one in (cluster, THEIRS))
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert ours[-1] < 0.7 * ours[0]
    assert our_share == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("cluster", [*CLUSTERS, THEIRS])
def test_an_error_names_the_node(answers: Answers, cluster: str) -> None:
    unset, shapes = answers(cluster, "an_error_names_the_worker")
    assert unset["code"] == 9
    assert "\nAttempting to use uninitialized value unset" in unset["message"]
    assert shapes["code"] == 3
    assert "{{node product}}" in shapes["message"]
    if cluster.startswith("ours"):  # TensorFlow's master may meet the error first where its own part waits
        assert unset["message"].startswith(FROM)
        assert shapes["message"].startswith(FROM)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_trace_has_the_nodes_of_both_tasks(answers: Answers, cluster: str) -> None:
    has_node, has_transfer, has_graph = answers(cluster, "a_trace_shows_both_tasks")
    assert has_node and has_graph
    assert has_transfer or cluster.startswith("ours")  # our master does not ask workers for their logs of transfers


def test_a_partial_run_over_both_tasks(answers: Answers) -> None:
    check = "a_partial_run_over_both_tasks"
    assert answers("tensorflow-ours", check) == answers(THEIRS, check) == [6.0, 7.0]
    line = answers.lines["ours-ours", check]
    assert "partial runs over several tasks are not offered by this master" in line["error"]
