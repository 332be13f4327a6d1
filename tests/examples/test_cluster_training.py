"""Training of the digits on clusters: TensorFlow's and our processes in every role, and clients of both.

Where a step's result does not depend on who is faster (in-graph, with gradients of all workers averaged by
SyncReplicasOptimizer, and with workers that take turns), the losses must be those of a cluster of TensorFlow alone,
step by step. One process of each kind for every role is all that runs: the roles have addresses that lead to either.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import peers
from tests.cluster_tasks import OURS, THEIRS, Forks, Tasks
from tests.doors import Doors
from tests.examples.test_digits import _images, _python_path
from tests.interop.raw import connect

EXAMPLES = peers.ROOT / "examples"
STEPS, FIRST_STEPS, ASYNC_STEPS = 40, 8, 120
RUN_S = 100.0
# Single precision, sums in another order.
TOLERANCE = 1e-5

ROLES = [("master", 0), ("ps", 0), ("worker", 0), ("worker", 1)]
MIXES = {"-".join(mix): mix for mix in itertools.product((OURS, THEIRS), repeat=len(ROLES))}
"""Whose the master of in-graph training, the parameter server and the two workers are."""
ALL_THEIRS = "-".join([THEIRS] * len(ROLES))
LONG = [ALL_THEIRS, "-".join([OURS] * len(ROLES)), "-".join([OURS, THEIRS, OURS, THEIRS]),
        "-".join([THEIRS, OURS, THEIRS, THEIRS])]
"""Those that train for longer, and with workers that do not wait for each other. The others begin as these."""

pytestmark = pytest.mark.timeout(400)

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def our_client() -> Iterator[Callable[..., Lines]]:
    """Return ``train(arguments, losses)``: our client's run in this process, as losses of all steps and accuracy."""
    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    with contextlib.redirect_stdout(io.StringIO()):  # where its lines of progress go
        program = importlib.import_module("digits_cluster")

    def train(arguments: list[str], losses: Path) -> Lines:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            program.main([*arguments, "--losses", str(losses)])
        accuracy = float(said.getvalue().partition("test accuracy  ")[2].split()[0])
        return [*map(json.loads, losses.read_text().splitlines()), {"test_accuracy": accuracy}]

    yield train
    sys.path.remove(str(EXAMPLES))
    for name in ("digits_cluster", "digits_data", "progress"):
        if name not in before:
            del sys.modules[name]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, tensorflow_forks: Forks, our_client: Callable[..., Lines]
          ) -> Iterator[Callable[[str, str, str], Lines]]:
    """Return ``lines(mix, client, mode)``: what that client printed; all of a mix is run when first asked."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "digits.npz"
    _images(data)
    found: dict[tuple[str, str, str], Lines] = {}
    with contextlib.ExitStack() as stack:
        doors = stack.enter_context(Doors(len(ROLES)))
        told = {"master": [doors[0].address], "ps": [doors[1].address],
                "worker": [doors[2].address, doors[3].address]}
        kinds = {}
        for whose in (OURS, THEIRS):
            place = folder / whose
            place.mkdir()
            kinds[whose] = stack.enter_context(Tasks(place, {job: [whose] * len(tasks) for job, tasks in told.items()},
                                                     forks=tensorflow_forks, told=told)).start()

        def train(mix: str) -> None:
            for door, role, whose in zip(doors, ROLES, MIXES[mix], strict=True):
                door.lead_to(kinds[whose][role].address)
            place = folder / mix
            place.mkdir()
            master = f"grpc://{told['master'][0]}"
            with connect(master) as client:
                client.call("Reset")  # another mix with this parameter server has left weights, tokens and gradients
            steps = ["--data", str(data), "--steps", str(STEPS if mix in LONG else FIRST_STEPS)]
            # Half of the mixes with variables of the old kind, as programs for TensorFlow 1 have them.
            old = ["--no-resource"] if list(MIXES).index(mix) % 2 else []
            runs = {"in-graph": ["in-graph", "--master", master, *steps], "in-turns": ["async", "--in-turns", *steps],
                    "sync": ["sync", *steps]}
            if mix in LONG:
                runs["async"] = ["async", "--data", str(data), "--steps", str(ASYNC_STEPS)]
            for name, (mode, *more) in runs.items():
                found[mix, "theirs", name] = tensorflow_forks.run(
                    place / name, EXAMPLES / "digits_cluster_tf.py", json.dumps(told), mode, *more, *old)(RUN_S)
                found[mix, "ours", name] = our_client(
                    ["--cluster", json.dumps(told), "--mode", mode, *more], place / f"ours-{name}")
            for task in itertools.chain(*kinds.values()):
                assert "Traceback" not in task.log(), task.log()

        def look(mix: str, client: str, mode: str) -> Lines:
            if (mix, client, mode) not in found:
                train(mix)
            return found[mix, client, mode]

        yield look


def losses(lines: Lines) -> dict[tuple[int, int], float]:
    return {(line["task"], line["step"]): line["loss"] for line in lines if "loss" in line}


def assert_alike(lines: Lines, reference: Lines, mix: str) -> None:
    mine, other = losses(lines), losses(reference)
    assert len(mine) == 2 * (STEPS if mix in LONG else FIRST_STEPS)
    for key in sorted(mine, key=lambda key: key[1]):
        assert mine[key] == pytest.approx(other[key], rel=TOLERANCE, abs=TOLERANCE), f"worker, step: {key}"
    if len(mine) == len(other):
        assert lines[-1]["test_accuracy"] == pytest.approx(reference[-1]["test_accuracy"], abs=1 / 359)


@pytest.mark.parametrize("client", ["ours", "theirs"])
@pytest.mark.parametrize("mix", MIXES)
def test_averaged_gradients_in_one_graph(lines: Callable[[str, str, str], Lines], mix: str, client: str) -> None:
    reference = lines(ALL_THEIRS, "theirs", "in-graph")
    assert_alike(lines(mix, client, "in-graph"), reference, mix)
    assert losses(reference)[0, STEPS - 1] < 0.5 * losses(reference)[0, 0]


@pytest.mark.parametrize("client", ["ours", "theirs"])
@pytest.mark.parametrize("mix", MIXES)
def test_gradients_that_accumulators_average_are_the_same(lines: Callable[[str, str, str], Lines], mix: str,
                                                          client: str) -> None:
    found = lines(mix, client, "sync")
    assert_alike(found, lines(ALL_THEIRS, "theirs", "in-graph"), mix)
    if client == "theirs":
        assert found[-1]["updates"] == len(losses(found)) // 2


@pytest.mark.parametrize("client", ["ours", "theirs"])
@pytest.mark.parametrize("mix", MIXES)
def test_asynchronous_workers_that_take_turns(lines: Callable[[str, str, str], Lines], mix: str, client: str) -> None:
    reference = lines(ALL_THEIRS, "theirs", "in-turns")
    assert_alike(lines(mix, client, "in-turns"), reference, mix)
    assert losses(reference)[0, STEPS - 1] < 0.5 * losses(reference)[0, 0]


@pytest.mark.parametrize("client", ["ours", "theirs"])
@pytest.mark.parametrize("mix", LONG)
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


@pytest.mark.parametrize(
    ("trouble", "status", "told"),
    [
        ("raise ZeroDivisionError('no batches')", 1, "ZeroDivisionError: no batches"),
        ("time.sleep(3)", 1, "DeadlineExceeded: worker 0 has waited 1 s for worker 1, in step 0"),
    ],
    ids=["raises", "hangs"],
)
def test_no_worker_waits_for_ever_for_another(tmp_path: Path, trouble: str, status: int, told: str) -> None:
    script = f"""
import sys, time
import digits_cluster, digits_data
digits_cluster.PATIENCE_S = 1.0
whole = digits_data.endless_batches

def batches(digits, size, seed):
    if seed[1] == 1:
        {trouble}
    return whole(digits, size, seed)

digits_data.endless_batches = batches
sys.exit(digits_cluster.main(sys.argv[1:]))
"""
    _images(tmp_path / "digits.npz")
    done = subprocess.run(
        [sys.executable, "-c", script, "--data", str(tmp_path / "digits.npz"), "--steps", "3", "--mode", "async",
         "--in-turns"],
        capture_output=True, text=True, timeout=RUN_S, env={**os.environ, "PYTHONPATH": _python_path(EXAMPLES)})
    assert done.returncode == status and told in done.stderr, f"{done.stdout}\n{done.stderr}"
