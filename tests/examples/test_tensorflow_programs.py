"""TensorFlow programs of ``examples/`` compute the same on TensorFlow's server and on ours, step by step.

Weights, dropout and samples come from the graph's seed: both servers must draw the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import peers

EXAMPLES = peers.ROOT / "examples"
TIMEOUT_S = 280.0
SERVERS = ("ours", "tensorflow")

# Single precision, sums in another order; 3e-7 was seen over 300 steps of the loop and of the embeddings.
TOLERANCE = 1e-5
# Sooner or later a value of one server falls on the other side of a ReLU's or a pooling's corner, and from then on they
# learn differently, if little. In the first steps 1e-6 was seen.
CORNERS_TOLERANCE = 1e-4
CORNERS_STEPS = 40
# What is left in the checkpoint of one step decides the next ones to the last bit, but for the order of sums.
RESUME_TOLERANCE = 1e-5
HALF, WHOLE = 15, 30

pytestmark = pytest.mark.timeout(TIMEOUT_S + 100)

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def answers(server_process: Any, peer_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lines]:
    """What every program printed on each server, by ``program/server``."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("programs")
    digits = load_digits()
    np.savez(folder / "digits.npz", images=digits.data, labels=digits.target)
    text = " ".join(f"{a} {b} follows {b} {a}" for a in ("one", "two", "three", "four") for b in ("up", "down", "left"))
    (folder / "text").write_text(text * 20)
    targets = {"ours": server_process.target, "tensorflow": peer_server}
    data = ["--data", str(folder / "digits.npz"), "--epochs", "1"]
    programs: list[tuple[str, str, list[str]]] = []
    for server, target in targets.items():
        programs += [
            (f"cnn/{server}", "digits_cnn_tf.py", [target, *data]),
            (f"lstm/{server}", "lstm_tf.py", [target, *data]),
            (f"embeddings/{server}", "embeddings_tf.py", [target, "--steps", "60", "--words", "10", "--sampled", "5",
                                                          "--text", str(folder / "text")]),
            (f"queues/{server}", "digits_queues_tf.py", [
                target, *data[:2], "--folder", str(folder / f"queues-{server}"), "--steps", "90"]),
            (f"datasets/{server}", "digits_datasets_tf.py", [
                target, *data[:2], "--folder", str(folder / f"datasets-{server}"), "--epochs", "2"]),
            (f"whole/{server}", "resume_tf.py", [target, "--folder", str(folder / server), "--until", str(WHOLE)]),
        ]
    for first, second in (("ours", "tensorflow"), ("tensorflow", "ours")):
        shared = ["--folder", str(folder / f"{first}-{second}")]
        programs += [
            (f"first/{first}", "resume_tf.py", [targets[first], *shared, "--until", str(HALF)]),
            (f"second/{second}", "resume_tf.py", [targets[second], *shared, "--until", str(WHOLE)]),
        ]
    spec = [[name, str(EXAMPLES / script), arguments] for name, script, arguments in programs]
    done = peers.run_peer(Path(__file__).with_name("run_programs.py"), json.dumps(spec), timeout_s=TIMEOUT_S)
    found = {}
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        assert "error" not in answer, f"{answer['name']}:\n{answer['error']}"
        found[answer["name"]] = answer["lines"]
    return found


def losses(lines: Lines) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_alike(ours: Lines, theirs: Lines, tolerance: float, steps: int | None = None) -> None:
    mine, other = losses(ours), losses(theirs)
    assert list(mine) == list(other)
    for step in list(mine)[:steps]:
        assert mine[step] == pytest.approx(other[step], rel=tolerance, abs=tolerance), f"step {step}"


def test_convolutions_with_batch_norm_and_dropout(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"cnn/{server}"] for server in SERVERS)
    assert len(losses(ours)) == 44
    assert_alike(ours, theirs, CORNERS_TOLERANCE, CORNERS_STEPS)
    assert ours[-1]["test_accuracy"] == pytest.approx(theirs[-1]["test_accuracy"], abs=0.03)
    assert losses(ours)[43] < losses(ours)[0] / 2


def test_lstm_in_a_dynamic_loop(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"lstm/{server}"] for server in SERVERS)
    assert len(losses(ours)) == 44
    assert_alike(ours, theirs, TOLERANCE)
    assert ours[-1]["test_accuracy"] == pytest.approx(theirs[-1]["test_accuracy"], abs=1 / 359)
    assert losses(ours)[43] < 0.8 * losses(ours)[0]


def test_embeddings_with_sampled_softmax(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"embeddings/{server}"] for server in SERVERS)
    assert len(losses(ours)) == 60
    assert_alike(ours, theirs, TOLERANCE)
    assert ours[-1] == theirs[-1]
    assert np.mean(list(losses(ours).values())[-10:]) < np.mean(list(losses(ours).values())[:10])


def test_input_by_queues(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"queues/{server}"] for server in SERVERS)
    assert len(losses(ours)) == 90
    assert_alike(ours, theirs, TOLERANCE)
    assert losses(ours)[89] < losses(ours)[0] / 2
    for lines in (ours, theirs):  # what was trained on, and what lies in the queue
        assert 90 * 32 <= lines[-1]["records_read"] <= 90 * 32 + 128 + 1
    assert ours[-1]["test_accuracy"] == pytest.approx(theirs[-1]["test_accuracy"], abs=1 / 359)


def test_input_by_datasets(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"datasets/{server}"] for server in SERVERS)
    assert len(losses(ours)) == 88
    assert_alike(ours, theirs, TOLERANCE)
    mine, other = ([line["test_accuracy"] for line in lines if "epoch" in line] for lines in (ours, theirs))
    assert mine == pytest.approx(other, abs=1 / 359)
    assert mine[-1] > 0.85


def test_uninterrupted_training_with_checkpoints(answers: dict[str, Lines]) -> None:
    ours, theirs = (answers[f"whole/{server}"] for server in SERVERS)
    assert list(losses(ours)) == list(range(WHOLE))
    assert_alike(ours, theirs, TOLERANCE)


@pytest.mark.parametrize(("first", "second"), [("ours", "tensorflow"), ("tensorflow", "ours")])
def test_training_goes_on_from_the_checkpoint_of_the_other_server(
        answers: dict[str, Lines], first: str, second: str) -> None:
    together = answers[f"first/{first}"] + answers[f"second/{second}"]
    assert list(losses(answers[f"second/{second}"])) == list(range(HALF, WHOLE))
    assert_alike(together, answers["whole/tensorflow"], RESUME_TOLERANCE)
