"""Training of the digits on clusters: TensorFlow's and our processes in every role, and clients of both.

Where a step's result does not depend on who is faster (in-graph, and with gradients of all workers averaged by
SyncReplicasOptimizer), the losses must be those of a cluster of TensorFlow alone, step by step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import peers
from tests.cluster_tasks import OURS, THEIRS, Forks, Tasks
from tests.examples.test_digits import _images, _python_path

EXAMPLES = peers.ROOT / "examples"
STEPS, ASYNC_STEPS = 40, 120
RUN_S = 100.0
# Single precision, sums in another order.
TOLERANCE = 1e-5

MIXES: dict[str, tuple[str, str, tuple[str, str]]] = {
    "all-theirs": (THEIRS, THEIRS, (THEIRS, THEIRS)),
    "all-ours": (OURS, OURS, (OURS, OURS)),
    "our-master": (OURS, THEIRS, (OURS, THEIRS)),
    "our-ps": (THEIRS, OURS, (THEIRS, OURS)),
}
"""Whose the master of in-graph training, the parameter server and the two workers are."""

pytestmark = pytest.mark.timeout(400)

Lines = list[dict[str, Any]]


def _ours(tasks: Tasks, out: Path, data: Path, mode: str, *arguments: str) -> Lines:
    """Train with our client; return the losses of all steps, and the accuracy."""
    losses = out.with_suffix(".losses")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "digits_cluster.py"), "--cluster", json.dumps(tasks.cluster), "--mode", mode,
         "--data", str(data), "--losses", str(losses), *arguments],
        capture_output=True, text=True, timeout=RUN_S, env={**os.environ, "PYTHONPATH": _python_path()})
    assert "test accuracy" in done.stdout, done.stderr
    accuracy = float(done.stdout.partition("test accuracy  ")[2].split()[0])
    return [*map(json.loads, losses.read_text().splitlines()), {"test_accuracy": accuracy}]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, tensorflow_forks: Forks
          ) -> Callable[[str, str, str], Lines]:
    """Return ``lines(mix, client, mode)``: what that client printed; everything is run at once when first asked."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "digits.npz"
    _images(data)
    found: dict[tuple[str, str, str], Lines] = {}

    def train(mix: str) -> None:
        master, ps, workers = MIXES[mix]
        place = folder / mix
        place.mkdir()
        with Tasks(place, {"master": [master], "ps": [ps], "worker": list(workers)}, forks=tensorflow_forks) as tasks:
            tasks.start()
            for mode in ("in-graph", "sync", "async"):
                more = ["--steps", str(ASYNC_STEPS if mode == "async" else STEPS)]
                if mode == "in-graph":
                    more += ["--master", tasks["master", 0].target]
                # Half of the mixes with variables of the old kind, as programs for TensorFlow 1 have them.
                old = ["--no-resource"] if list(MIXES).index(mix) % 2 else []
                found[mix, "theirs", mode] = tensorflow_forks.run(
                    place / mode, EXAMPLES / "digits_cluster_tf.py", json.dumps(tasks.cluster), mode, "--data",
                    str(data), *more, *old)(RUN_S)
                if mode != "sync":
                    found[mix, "ours", mode] = _ours(tasks, place / f"ours-{mode}", data, mode, *more)
            for task in tasks:
                assert "Traceback" not in task.log(), task.log()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(train, MIXES))
    return lambda mix, client, mode: found[mix, client, mode]


def losses(lines: Lines) -> dict[tuple[int, int], float]:
    return {(line["task"], line["step"]): line["loss"] for line in lines if "loss" in line}


def assert_alike(lines: Lines, reference: Lines) -> None:
    mine, other = losses(lines), losses(reference)
    assert len(mine) == 2 * STEPS
    for key in sorted(other, key=lambda key: key[1]):
        assert mine[key] == pytest.approx(other[key], rel=TOLERANCE, abs=TOLERANCE), f"worker, step: {key}"
    assert lines[-1]["test_accuracy"] == pytest.approx(reference[-1]["test_accuracy"], abs=1 / 359)


@pytest.mark.parametrize("mix", MIXES)
def test_averaged_gradients_in_one_graph(lines: Callable[[str, str, str], Lines], mix: str) -> None:
    reference = lines("all-theirs", "theirs", "in-graph")
    assert_alike(lines(mix, "theirs", "in-graph"), reference)
    assert_alike(lines(mix, "ours", "in-graph"), reference)
    assert losses(reference)[0, STEPS - 1] < 0.5 * losses(reference)[0, 0]


@pytest.mark.parametrize("mix", MIXES)
def test_gradients_averaged_by_sync_replicas_are_the_same(lines: Callable[[str, str, str], Lines], mix: str) -> None:
    found = lines(mix, "theirs", "sync")
    assert_alike(found, lines("all-theirs", "theirs", "in-graph"))
    assert found[-1]["updates"] == STEPS


@pytest.mark.parametrize("client", ["ours", "theirs"])
@pytest.mark.parametrize("mix", MIXES)
def test_asynchronous_workers_learn_together(lines: Callable[[str, str, str], Lines], mix: str, client: str) -> None:
    found = lines(mix, client, "async")
    assert len(losses(found)) == 2 * ASYNC_STEPS
    assert found[-1]["test_accuracy"] > 0.92
    if client == "theirs":
        assert found[-1]["updates"] == 2 * ASYNC_STEPS  # no update was lost


def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    _images(tmp_path / "digits.npz")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "digits_cluster.py"), "--data", str(tmp_path / "digits.npz"), "--steps", "250"],
        capture_output=True, text=True, timeout=RUN_S, env={**os.environ, "PYTHONPATH": _python_path()})
    assert done.returncode == 0, done.stderr
    assert "in-graph, 2 workers (started for this)" in done.stdout
    assert "(at least 0.95)" in done.stdout
    assert not done.stderr
