"""TensorFlow's ``MonitoredTrainingSession`` goes on from its checkpoint when a task is lost and comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_tasks import OURS, THEIRS, Forks, Tasks

CLIENT = Path(__file__).with_name("recovering_tf.py")
CHECKPOINT_STEPS = 5
LOST_S = 1.5
SEEN_S = 60.0


def told(out: Path) -> list[dict[str, Any]]:
    """Return what the client has told so far."""
    text = out.read_text() if out.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def until(out: Path, found: Callable[[list[dict[str, Any]]], bool], log: Callable[[], str]) -> list[dict[str, Any]]:
    """Wait until something is found in what the client tells, and return all that it has told."""
    deadline = time.monotonic() + SEEN_S
    while not found(lines := told(out)):
        assert time.monotonic() < deadline, f"the client got no further than {lines[-3:]}\n{log()}"
        time.sleep(0.01)
    return lines


def reached(step: int) -> Callable[[list[dict[str, Any]]], bool]:
    """Return what tells whether the client has come to a step."""
    return lambda lines: bool(lines) and lines[-1].get("step", 0) >= step


def recovered(sessions: int) -> Callable[[list[dict[str, Any]]], bool]:
    """Return what tells whether the client has more sessions than so many behind it, and trains again."""
    return lambda lines: count(lines) > sessions and all("step" in line for line in lines[-3:])


def count(lines: list[dict[str, Any]]) -> int:
    return sum("opened" in line for line in lines)


@pytest.mark.parametrize(("victim", "how", "whose"), [
    ("worker", "kill", (OURS, OURS, OURS)),
    ("ps", "kill", (OURS, OURS, OURS)),
    ("master", "kill", (OURS, OURS, OURS)),
    ("worker", "freeze", (OURS, OURS, OURS)),
    ("ps", "freeze", (OURS, OURS, OURS)),
    ("ps", "kill", (OURS, OURS, THEIRS)),
    ("worker", "kill", (OURS, THEIRS, THEIRS)),
], ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_training_goes_on_from_the_checkpoint(victim: str, how: str, whose: tuple[str, str, str], tmp_path: Path,
                                              tensorflow_forks: Forks) -> None:
    """`whose` are master, parameter server and worker."""
    jobs = {job: [one] for job, one in zip(("master", "ps", "worker"), whose)}
    with Tasks(tmp_path, jobs, ("--peer-timeout-s", str(LOST_S)), forks=tensorflow_forks) as tasks:
        tasks.start()
        out = tmp_path / "out"
        ended = tensorflow_forks.run(out, CLIENT, tasks["master", 0].target, str(tmp_path))

        def log() -> str:
            return "\n".join([out.with_suffix(".log").read_text()[-3000:], *(task.log()[-2000:] for task in tasks)])

        for loss in (1, 2) if how == "kill" else (1,):  # the session that was recovered is recovered again
            sessions = count(until(out, reached(12 * loss), log))
            task = tasks[victim, 0]
            if how == "kill":
                task.kill()
                time.sleep(0.1)
                task.start()
            else:
                task.freeze()
                until(out, lambda _: any("a task does not answer" in task.log() for task in tasks), log)
                task.thaw()
            until(out, recovered(sessions), log)
        (tmp_path / "enough").touch()
        lines = ended(SEEN_S)
        for task in tasks:
            assert task.whose == THEIRS or "Traceback" not in task.log(), task.log()

    last = 0
    for line in lines:
        if "opened" in line:
            assert line["begins_at"] % CHECKPOINT_STEPS == 0
            assert last - CHECKPOINT_STEPS <= line["begins_at"] <= last + 1
            last = line["begins_at"]
        else:
            assert line["step"] == last + 1
            assert line["sum"] == line["step"] * (line["step"] + 1) // 2
            last = line["step"]
    assert lines[-1]["step"] > 12
