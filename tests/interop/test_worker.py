"""Our worker under TensorFlow's master: a client sees what it sees with TensorFlow's worker in its place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import processes
from tests.interop.programs import Answers, run_program
from tests.interop.test_loops import about

PROGRAM = "worker_tf"
FROM = "From /job:worker/replica:0/task:0:\n"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What a client saw of two clusters, each of a master of TensorFlow's and one worker."""
    with contextlib.ExitStack() as stack:
        targets = {}
        for name in ("ours", "tensorflow"):
            folder = tmp_path_factory.mktemp(name)
            ports = {job: processes.free_port() for job in ("master", "worker")}
            cluster = {job: [f"127.0.0.1:{port}"] for job, port in ports.items()}
            master = {"cluster": cluster, "job": "master", "task": 0}
            targets[name] = stack.enter_context(
                processes.start_tensorflow_server(folder, json.dumps(master))).target
            if name == "ours":
                ours = stack.enter_context(processes.start_server(
                    folder, "--cluster", json.dumps(cluster), "--job", "worker", listen=cluster["worker"][0]))
            else:
                (folder / "worker").mkdir()
                stack.enter_context(processes.start_tensorflow_server(
                    folder / "worker", json.dumps({**master, "job": "worker"})))
        yield run_program(PROGRAM, targets)
        assert ours.process.poll() is None, ours.log()
        assert "Traceback" not in ours.log()


@pytest.mark.parametrize("check", [
    "devices", "values_there_and_back", "variables_of_both_kinds", "a_loop_whose_body_is_elsewhere",
    "branches_that_cross", "functions_and_v2_loops", "normalised_activations", "a_blocked_dequeue_is_cancelled",
    "a_closed_session_ends_its_steps", "reset_empties_the_worker", "a_partial_run_over_both_tasks",
    "a_trace_shows_both_tasks",
])
def test_a_client_sees_the_same(answers: Answers, check: str) -> None:
    ours: Any = answers("ours", check)
    assert ours == about(answers("tensorflow", check))


def test_losses_of_a_network_on_the_worker_agree(answers: Answers) -> None:
    (ours, our_share), (theirs, share) = (answers(server, "training_on_the_worker") for server in
                                          ("ours", "tensorflow"))
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert ours[-1] < 0.7 * ours[0]
    assert our_share == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("server", ["ours", "tensorflow"])
def test_an_error_names_the_worker_and_the_node(answers: Answers, server: str) -> None:
    unset, shapes = answers(server, "an_error_names_the_worker")
    assert unset["code"] == 9
    assert "\nAttempting to use uninitialized value unset" in unset["message"]
    assert shapes["code"] == 3
    if server == "ours":  # TensorFlow's master may meet the error first where its own part of the step waits
        assert unset["message"].startswith(FROM)
        assert shapes["message"].startswith(FROM)
    assert "{{node product}}" in shapes["message"]
