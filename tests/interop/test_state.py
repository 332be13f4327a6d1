"""Input pipelines, handles of tensors, critical sections and calls by device, asked by TensorFlow's client."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.programs import FROM, Answers, Seen

PROGRAM = "state_tf"


def about(expected: Any) -> Any:
    """Return nested lists of numbers that are equal within float32's rounding."""
    if isinstance(expected, list):
        return [about(item) for item in expected]
    return pytest.approx(expected, rel=2e-5, abs=2e-6) if isinstance(expected, float) else expected


def test_an_input_pipeline_gives_every_line_of_every_epoch(seen: Seen) -> None:
    *lines, produced = seen("input_pipeline")
    once = [[f"lines_{number}.csv:{line + 1}", f"{number},{line},text {line}"] for number in range(3)
            for line in range(1, 5)]
    assert sorted(lines) == sorted(once * 2)
    assert produced == 24


def test_records_come_in_batches_that_end_with_a_file(seen: Seen) -> None:
    assert seen("records_in_batches") == [[7, 3, 7, 3], [f"record {number}" for number in range(7)], 11]


def test_a_session_keeps_tensors_under_handles(answers: Answers) -> None:
    assert answers("ours", "tensors_under_handles") == [[[3.0, 5.0], [2.0, 4.0]], 3, True]


def test_a_critical_section_lets_one_step_in_at_a_time(seen: Seen) -> None:
    assert seen("critical_section") == 80.0


def test_either_server_restores_the_tables_that_the_other_saved(both: Seen) -> None:
    saved = both("save_tables")
    assert saved[0] == saved[1]
    ours, theirs = both("restore_tables")
    assert len(theirs) == 4, "two files, looked up before and after more words came"
    assert ours == theirs
    assert theirs[0] == theirs[2]


def test_a_remote_call_runs_on_this_task_alone(seen: Seen) -> None:
    good, codes, texts = seen("remote_calls")
    assert good == [6.0] * 4
    assert codes == [3, 3, 3]
    node = "\n\t [[{{node RemoteCall}}]]"
    assert texts == [
        f"{FROM}Could not parse garbage into a device specification.{node}",
        f"{FROM}Could not find worker with target: /job:worker/replica:0/task:5/device:CPU:0 Available workers: "
        f"/job:localhost/replica:0/task:0{node}",
    ]


def test_gradients_of_functions(both: Seen) -> None:
    ours, theirs = both("symbolic_gradients")
    assert ours == about(theirs)


def test_a_function_of_the_client_cannot_be_called(seen: Seen) -> None:
    assert seen("calls_of_the_client") == [
        3, "ValueError: Could not find callback with key=nobody has this in the registry."]
