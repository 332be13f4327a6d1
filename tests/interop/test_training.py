"""Whole jobs with TensorFlow's client: what people run must give the same numbers on both servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import FROM, Answers, Seen

PROGRAM = "training_tf"
SAVE_OPS = ("SaveV2", "RestoreV2")


def close(ours: Any, theirs: Any, tolerance: float = 2e-5) -> bool:
    """Whether nested lists and mappings of numbers and texts agree, numbers to a relative tolerance."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key], tolerance) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(close(*pair, tolerance) for pair in zip(ours, theirs))
    if isinstance(theirs, str):
        return bool(ours == theirs)
    return bool(ours == pytest.approx(theirs, rel=tolerance, abs=tolerance))


def test_optimizers_take_the_same_steps(both: Seen) -> None:
    ours, theirs = both("optimizers")
    assert close(ours, theirs), f"{ours}\n{theirs}"
    for name, losses in ours.items():
        assert losses[-1] < losses[0], name


def test_rarer_optimizers_take_the_same_steps(both: Seen) -> None:
    ours, theirs = both("rarer_optimizers", "ApplyAdadelta", "ResourceApplyAdadelta", "ApplyFtrl", "ResourceApplyFtrl")
    assert close(ours, theirs), f"{ours}\n{theirs}"


def test_sparse_gradients_change_the_same_rows(both: Seen) -> None:
    ours, theirs = both("embeddings")
    assert close(ours, theirs, 1e-4), f"{ours}\n{theirs}"


def test_a_convolutional_network_learns_the_same(both: Seen) -> None:
    ours, theirs = both("convolutional_network")
    assert close(ours, theirs, 1e-4), f"{ours}\n{theirs}"
    assert ours["step"] == 6
    assert ours["losses"][-1][0] < ours["losses"][0][0]


def test_a_checkpoint_is_written_read_and_read_elsewhere(seen: Seen) -> None:
    values = [[1.0, 2.0], [[3]], ["a", "bc"]]
    assert seen("checkpoints", *SAVE_OPS) == {
        "zeros": [[0.0, 0.0], [[0]], ["", ""]],
        "back": values,
        "missing": None,
        "latest": "model-3",
        "read here": values,
        "files": ["checkpoint", "model-3.data-00000-of-00001", "model-3.index", "model-3.meta"],
    }


def test_files_outside_the_allowed_folder_are_refused(answers: Answers, files_allowed: Path) -> None:
    answer = answers("ours", "files_elsewhere")
    assert answer["files"] == []
    for way, node in (("save", "save/SaveV2"), ("restore", "save/RestoreV2")):
        assert answer[way]["code"] == 7
        path = re.escape(f"{answer['folder']}/written")
        assert re.fullmatch(
            f"{FROM}file '{path}[^']*' is outside the directories that graph ops may touch "
            rf"\({re.escape(str(files_allowed))}\); allow its directory with the setting files_allow of the server"
            rf"\n\t \[\[\{{\{{node {node}\}}\}}\]\]",
            answer[way]["message"],
        )


def test_an_input_pipeline_of_queues_delivers_everything_once(seen: Seen) -> None:
    numbers = [*range(10), *range(10)]
    expected = [numbers[start : start + 6] for start in range(0, 20, 6)]
    assert seen("input_pipeline", "FIFOQueueV2", "QueueDequeueUpToV2", "CountUpTo") == {
        "batches": [[batch, [str(number) for number in batch]] for batch in expected],
        "end": "OutOfRangeError",
    }


def test_a_monitored_session_trains_saves_and_goes_on(both: Seen) -> None:
    ours, theirs = both("monitored_session", *SAVE_OPS, "MergeV2Checkpoints", "ShardedFilename", "ScalarSummary")
    assert close(ours["steps"], theirs["steps"], 1e-3)
    assert [number for number, _ in ours["steps"]] == list(range(1, 9))
    assert (ours["events"], ours["latest"]) == (theirs["events"], theirs["latest"]) == (True, "model.ckpt-8")


def test_summaries_are_the_messages_tensorflow_writes(both: Seen) -> None:
    ours, theirs = both("summaries", "ScalarSummary", "HistogramSummary", "MergeSummary")
    assert ours == theirs
    assert ours["scalar"][1] == 2.3333
