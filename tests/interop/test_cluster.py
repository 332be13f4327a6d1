"""Clusters of two tasks, each ours or TensorFlow's: an unmodified client sees the same of all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster_tasks import OURS, Forks, Tasks
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
def answers(tmp_path_factory: pytest.TempPathFactory, tensorflow_forks: Forks) -> Iterator[Answers]:
    """What a client saw of every cluster."""
    with contextlib.ExitStack() as stack:
        clusters = {}
        for name in (*CLUSTERS, THEIRS):
            jobs = {job: [whose] for job, whose in zip(("master", "worker"), name.split("-"), strict=True)}
            clusters[name] = stack.enter_context(Tasks(tmp_path_factory.mktemp(name), jobs, forks=tensorflow_forks))
            clusters[name].start()
        yield run_program(PROGRAM, {name: tasks["master", 0].target for name, tasks in clusters.items()},
                          timeout_s=300)
        for tasks in clusters.values():
            for task in tasks:
                if task.whose == OURS:
                    assert not task.has_ended(), task.log()
                    assert "Traceback" not in task.log()


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("check", [
    "devices", "values_there_and_back", "variables_of_both_kinds", "a_loop_whose_body_is_elsewhere",
    "branches_that_cross", "functions_and_v2_loops", "normalised_activations", "a_blocked_dequeue_is_cancelled",
    "a_closed_session_ends_its_steps", "reset_empties_the_worker", "a_partial_run_over_both_tasks",
    "partial_runs_are_refused_what_they_cannot_do", "partial_runs_side_by_side_and_with_a_target",
    "a_partial_run_that_fails_ends_and_leaves_the_session_usable", "a_partial_run_left_open_ends_with_its_session",
    "callables_over_both_tasks", "a_callable_at_its_limit", "a_dead_value_that_crosses_cannot_be_fetched",
    "isolated_sessions_share_nothing_on_the_worker", "floats_that_cross_as_bfloat16",
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


@pytest.mark.parametrize("cluster", [*CLUSTERS, THEIRS])
def test_a_trace_has_the_nodes_and_transfers_of_both_tasks(answers: Answers, cluster: str) -> None:
    has_node, has_graph, transfers, num_graphs, num_devices, attrs, in_timeline = answers(
        cluster, "a_trace_shows_both_tasks")
    assert has_node and has_graph and in_timeline
    master, worker = (f"/job:{job}/replica:0/task:0/device:CPU:0" for job in ("master", "worker"))
    expected = [["job:master", "[16B", f"{worker} to {master}", 16, True],
                ["job:worker", "[16B", f"{master} to {worker}", 16, True]]
    if cluster.startswith("ours"):
        assert transfers == expected
    else:  # TensorFlow's master does not wait until the logs are on
        assert all(transfer in expected for transfer in transfers)
    assert (num_graphs, num_devices) == (2, 2)
    assert "T" in attrs


def test_partial_runs_and_callables_give_the_values_of_their_steps(answers: Answers) -> None:
    for cluster in (*CLUSTERS, THEIRS):
        assert answers(cluster, "a_partial_run_over_both_tasks") == [6.0, 7.0]
        assert answers(cluster, "callables_over_both_tasks")[:4] == [
            [[10.0, 20.0], [1.0, 2.0]], [[20.0, 30.0], [2.0, 3.0]], [[30.0, 40.0], [3.0, 4.0]], 3.0]
